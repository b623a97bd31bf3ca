# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Train in Python: change one thing and compare
#
# Three short runs of the quickstart: as it is, with another layout in memory, with another learning rate. The layout
# changes nothing; the recipe does. About 40 seconds on 2 CPU cores.

# %%
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import vicuna_lit as vl

# %% [markdown]
# ## A config, and one thing changed
#
# `vl.load` takes the words of the command line and checks them; the config is a frozen, typed object.

# %%
short = [
    "experiment=quickstart",
    "trainer.max_steps=40",
    "data.max_validation=16",
    "samples.questions=[]",
    "wandb.mode=disabled",
]
changes = {"base": [], "layout": ["tokens_per_device=512"], "recipe": ["optimizer.lr=1e-3"]}
configs = {
    name: vl.load("train", *short, *change, f"run.dir=runs/train_in_python/{name}") for name, change in changes.items()
}
for name, config in configs.items():
    print(f"{name:<7} {config.tokens_per_device = }, {config.optimizer.lr = }")

# %% [markdown]
# A mistake is said at once, all of them together, before anything runs:

# %%
try:
    vl.load("train", *short, "optimizer.learning_rate=1e-3", "tokens_per_device=100")
except vl.ConfigError as error:
    print(error)

# %% [markdown]
# ## The step plan is data
#
# Which conversations a step holds, and how they lie in rows, is known before training. It is a function of numbers.

# %%
base = configs["base"]
examples, account = vl.build_dataset(vl.read(base.data.path), vl.make_encoder(base), base.context_length)
plans = {
    name: vl.plan_steps(
        examples.lengths,
        examples.supervised,
        conversations_per_step=config.conversations_per_step,
        tokens_per_device=config.tokens_per_device,
        seed=config.seed,
        max_steps=config.trainer.max_steps,
    )
    for name, config in configs.items()
}
for name, plan in plans.items():
    print(f"{name:<7} {plan.steps} steps × {plan.accumulation} rows of {plan.tokens_per_device} tokens")
assert plans["base"].step_examples == plans["layout"].step_examples

# %% [markdown]
# The first step in both layouts: the same twelve conversations, in one long row or in several short ones.

# %%
colours = dict(zip(plans["base"].step_examples[0], plt.get_cmap("tab20").colors, strict=False))
figure, both = plt.subplots(1, 2, figsize=(8, 2.2), layout="constrained")
for axes, name in zip(both, ["base", "layout"], strict=True):
    rows = plans[name].rows[0][0]  # of the first step, on the only rank
    for place, row in enumerate(rows):
        start = 0
        for conversation in row:
            axes.barh(place, examples.lengths[conversation], left=start, color=colours[conversation])
            start += examples.lengths[conversation]
    axes.set(title=f"{name}: rows of {plans[name].tokens_per_device}", xlabel="tokens", yticks=range(len(rows)))
    axes.invert_yaxis()
plt.show()

# %% [markdown]
# ## Three runs

# %%
results = {}
for name, config in configs.items():
    with redirect_stdout(StringIO()):  # what a run prints is long; it is in its folder, too
        results[name] = vl.fit(config)

# %% [markdown]
# ## What the change did

# %%
metrics = {
    name: np.genfromtxt(Path(result.run_dir) / "metrics.csv", delimiter=",", names=True, dtype=None, encoding="utf8")
    for name, result in results.items()
}
apart = {name: np.abs(metrics[name]["loss"] / metrics["base"]["loss"] - 1) for name in ("layout", "recipe")}

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
for name, style in {"base": "-", "layout": ":", "recipe": "--"}.items():
    label = f"{name}: {changes[name][0]}" if changes[name] else name
    left.plot(metrics[name]["step"], metrics[name]["loss"], style, linewidth=2, label=label)
left.set(xlabel="optimizer step", ylabel="loss (nats per supervised token)")
left.legend()
for name, color in {"layout": "tab:orange", "recipe": "tab:green"}.items():
    floor = np.maximum(apart[name], 1e-9)  # equal losses have no logarithm
    right.plot(metrics[name]["step"], floor, color=color, label=name)
right.axhline(1e-5, color="grey", linewidth=1)
right.annotate("1e-5", (13, 1.5e-5), color="grey")
right.set(xlabel="optimizer step", ylabel="relative difference from base", yscale="log")
right.legend()
plt.show()

# %%
for name, result in results.items():
    print(
        f"{name:<7} validation loss {result.val_loss_before:.4f} → {result.val_loss:.4f}, "
        f"{result.supervised_tokens:,} supervised tokens, {result.step_seconds * 1000:.0f} ms a step"
    )
print(f"largest relative difference of a loss: layout {apart['layout'].max():.0e}, recipe {apart['recipe'].max():.0e}")
assert apart["layout"].max() < 1e-5
assert (metrics["layout"]["conversations_hash"] == metrics["base"]["conversations_hash"]).all()

# %% [markdown]
# The same call finds a finished run in its folder:

# %%
with redirect_stdout(StringIO()) as said:
    again = vl.fit(configs["layout"])
print(said.getvalue().splitlines()[0])
assert again == results["layout"]
