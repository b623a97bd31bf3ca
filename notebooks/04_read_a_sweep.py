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
# # Read a sweep: from run folders and from W&B's offline record to figures
#
# Four short runs by one command, then their table, their figures, and a figure of your own. About a minute on
# 2 CPU cores.

# %%
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import vicuna_lit as vl
from vicuna_lit.train.tracking.wandb_run import history_rows

# %% [markdown]
# ## The sweep
#
# In a terminal: `vicuna-train -m run.name=rates optimizer.lr=1e-3,5e-3 seed=0,1 …`. Given again it finds its results.

# %%
folder = Path("runs/sweeps/rates")
settings = ["trainer.max_steps=40", "validation.every_steps=10", "samples.questions=[]", "data.max_validation=24"]
sweep_command = ["-m", "run.name=rates", "optimizer.lr=1e-3,5e-3", "seed=0,1", *settings]
done = subprocess.run([sys.executable, "-m", "vicuna_lit.train", *sweep_command], capture_output=True, text=True)
assert done.returncode == 0, done.stderr[-2000:]

# %% [markdown]
# ## Its table
#
# Means over the seeds ± one standard error. The paired difference is taken within each seed, ± half its 95% interval.

# %%
sweep = vl.read_sweep(folder)
sweep.table("val_loss", "supervised_tokens_per_second")

# %% [markdown]
# ## Its figures
#
# Those that suit what was swept; `vicuna-compare runs/sweeps/rates` writes them as files, with a page around them.

# %%
figures = sweep.plots()
print(list(figures))
figures["Validation loss by reply"]

# %%
figures["Training"]

# %% [markdown]
# ## A figure of your own, from the run folders
#
# A run is its folder: `config`, `result`, `metrics`.

# %%
figure, axes = plt.subplots(figsize=(7, 3))
for colour, rate in zip(
    ("tab:blue", "tab:orange"), sorted({run.swept["optimizer.lr"] for run in sweep.runs}), strict=True
):
    for run in (run for run in sweep.runs if run.swept["optimizer.lr"] == rate):
        losses = {int(step): loss for step, loss in run.result["val_by_step"].items()}
        axes.plot(
            losses.keys(), losses.values(), "o-", color=colour, alpha=0.6, label=f"lr {rate}, {run.swept['seed']}"
        )
axes.set(xlabel="optimizer step", ylabel="validation loss")
axes.legend(ncols=2, frameon=False)
plt.show()

# %% [markdown]
# ## The same from W&B's offline record
#
# Every run wrote one, with a row for each optimizer step; nothing need be uploaded to read it.

# %%
run = sweep.runs[0]
record = next(run.folder.glob("wandb/offline-run-*/*.wandb"))
history = dict(history_rows(record))
print(run.name, f"{len(history)} rows;", ", ".join(key for key in history[1] if not key.startswith("_"))[:300], "…")
assert np.allclose([history[step]["train/loss"] for step in range(1, 41)], run.metrics["loss"])

# %%
figure, axes = plt.subplots(figsize=(7, 2.6))
for key in ("time/step_seconds", "time/data_seconds", "time/save_seconds"):
    axes.plot(list(history), [row.get(key, 0.0) for row in history.values()], label=key)
axes.set(xlabel="optimizer step", ylabel="seconds", yscale="symlog")
axes.legend(frameon=False)
plt.show()
