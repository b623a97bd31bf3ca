"""What most trainers do, on our rows: a row's loss is the mean over its tokens, a step's loss the mean over its rows.

    python -m experiments.004_layout_invariance.means <folder> <overrides of vicuna-train; seed=0,1,…>

The same runs as ours in every other respect: the same conversations in every step, rows of 512 and of 4,096 tokens.
"""

import sys
from pathlib import Path
from unittest.mock import patch

import vicuna_lit as vl
from vicuna_lit.train.module import SupervisedModule

ROWS = (512, 4096)


def mean_of_means(module: SupervisedModule, batch, batch_idx: int):
    """In place of `training_step`: rows weigh the same, however many tokens they hold."""
    own = max(1, int((batch.labels[0, 1:] != -100).sum()))
    rows = module.plan.accumulation * module.plan.world_size
    step = batch_idx // module.plan.accumulation
    filled = rows - module.plan.padding(step)  # a trainer without a plan has no empty rows
    object.__setattr__(batch, "denominator", own * filled)
    return of_tokens(module, batch, batch_idx)


of_tokens = SupervisedModule.training_step


def main() -> None:
    folder, *overrides = sys.argv[1:]
    seeds = next(o for o in overrides if o.startswith("seed=")).removeprefix("seed=").split(",")
    common = [o for o in overrides if not o.startswith("seed=")]
    with patch.object(SupervisedModule, "training_step", mean_of_means):
        for tokens in ROWS:
            for seed in seeds:
                name = f"means,tokens_per_device={tokens},seed={seed}"
                run = [f"run.dir='{Path(folder) / name}'", f"tokens_per_device={tokens}", f"seed={seed}"]
                vl.fit(vl.load("train", *common, *run))


if __name__ == "__main__":
    main()
