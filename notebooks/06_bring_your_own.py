# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Bring your own loss, callback, logger and data
#
# First with `vl.fit`, which resumes, exports and keeps everything in a folder; then the same two halves under a Trainer
# of your own. About 40 seconds on 2 CPU cores.

# %%
import csv
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import matplotlib.pyplot as plt

import vicuna_lit as vl

folder = Path("runs/bring_your_own")
folder.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## Data
#
# Any file in a known form is `vl.read`; what cannot be used comes as a `vl.Rejection` with its reason. What you keep is
# written with `vl.write_jsonl`, and `data=` takes the file.

# %%
shipped = vl.load("train").data.path  # the quickstart's conversations
talks = [talk for talk in vl.read(shipped) if isinstance(talk, vl.Conversation)]
short = [talk for talk in talks if len(talk.turns) <= 6]
vl.write_jsonl(short, folder / "short.jsonl")
print(f"{len(short)} of {len(talks)} conversations have at most 6 turns")

# %% [markdown]
# ## Loss
#
# Override `loss`: summed over the supervised tokens of a row. The step's count divides it elsewhere, so every layout
# gives the same. Here: label smoothing.

# %%
import lightning as L
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import CSVLogger
from torch.nn.functional import cross_entropy


class Smoothed(vl.SupervisedModule):
    def loss(self, batch):
        logits = self.lm(vl.SupervisedLM.logits, batch)  # [supervised, vocabulary]
        return cross_entropy(logits, batch.targets, reduction="sum", label_smoothing=0.1)


# %% [markdown]
# ## Callback and logger
#
# Both are Lightning's. Loggers see `train/loss` and `train/grad_norm` of each step, `val/loss` of each validation; a
# callback finds the step's figures on the module. What it returns from `state_dict` is part of the checkpoints.


# %%
class Steepest(L.Callback):
    """Remembers the step with the largest gradient."""

    def __init__(self):
        self.step, self.norm = 0, 0.0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if pl_module.closes_step and pl_module.grad_norm() > self.norm:  # a batch is a row; a step may have several
            self.step, self.norm = pl_module.last_step(batch_idx), pl_module.grad_norm()

    def state_dict(self):
        return {"step": self.step, "norm": self.norm}

    def load_state_dict(self, state):
        self.step, self.norm = state["step"], state["norm"]


# %% [markdown]
# ## Under `vl.fit`

# %%
settings = [
    f"data={folder / 'short.jsonl'}",
    "data.validation_fraction=0.05",
    "trainer.max_steps=40",
    "validation.every_steps=10",
    "samples.questions=[]",
    "wandb.mode=disabled",
]
steepest = Steepest()
results = {}
for name, module in {"plain": vl.SupervisedModule, "smoothed": Smoothed}.items():
    config = vl.load("train", *settings, f"run.dir={folder / name}")
    log = CSVLogger(folder, name="log", version=name)
    with redirect_stdout(StringIO()):  # what a run prints is long; it is in its folder, too
        results[name] = vl.fit(config, callbacks=[steepest, EarlyStopping("val/loss")], loggers=[log], module=module)
    print(f"{name:<9} validation loss {results[name].val_loss_before:.4f} → {results[name].val_loss:.4f}")
print("the validation loss is the plain one for both, so that they can be compared")
print(f"the largest gradient: step {steepest.step}, norm {steepest.norm:.2f}")
assert steepest.step > 0

# %% [markdown]
# A run with another loss never passes for this one: the module's name and a hash of its source are in `config.json`.

# %%
try:
    with redirect_stdout(StringIO()):
        vl.fit(config, module=vl.SupervisedModule)
except Exception as error:
    print("\n".join(line[:110] for line in str(error).splitlines()[:3]))

# %% [markdown]
# ## Under your own Trainer
#
# The same module and data, and a Trainer as you like it (one device, or ddp). The losses are those of `vl.fit`; what
# you do without is resuming, the folder and the export.

# %%
config = vl.load("train", *settings, f"run.dir={folder / 'own'}")
trainer = L.Trainer(
    max_epochs=1,  # the plan holds all epochs
    accelerator="cpu",
    logger=CSVLogger(folder, name="log", version="own"),
    log_every_n_steps=1,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
with redirect_stdout(StringIO()):
    trainer.fit(vl.SupervisedModule.of(config), vl.ConversationDataModule(config))

# %% [markdown]
# ## What they did


# %%
def losses(name: str) -> list[float]:
    with (folder / "log" / name / "metrics.csv").open() as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row.get("train/loss")]


figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
for name, style in {"plain": "-", "own": ":", "smoothed": "--"}.items():
    axes.plot(range(1, len(losses(name)) + 1), losses(name), style, linewidth=2, label=name)
axes.set(xlabel="optimizer step", ylabel="train/loss (nats per supervised token)")
axes.legend()
plt.show()
apart = max(abs(a / b - 1) for a, b in zip(losses("plain"), losses("own"), strict=True))
print(f"fit against the own Trainer: losses differ by {apart:.0e} at most")
assert apart < 1e-6
