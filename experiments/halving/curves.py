"""Validation curves of 24 settings, whole: `python -m experiments.halving.curves experiments/halving/curves.csv`.

The quickstart's conversations and a smaller model than its own, 24 settings of the optimizer with three seeds each: 72
runs to the last step. `replay.py` asks of them what halving would have lost.
"""

import contextlib
import csv
import io
import itertools
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from vicuna_lit.config.compose import load
from vicuna_lit.train.run import fit

RATES = ("1e-3", "2e-3", "5e-3", "1e-2", "2e-2", "5e-2")
SCHEDULES = ("cosine", "constant")
WARMUPS = ("0.03", "0.3")
SEEDS = range(3)
COMMON = (
    "experiment=quickstart",
    "model.architecture={model_type: llama, hidden_size: 64, intermediate_size: 128, num_hidden_layers: 2, "
    "num_attention_heads: 4, num_key_value_heads: 4, max_position_embeddings: 512}",
    "trainer.epochs=3",
    "trainer.accelerator=cpu",
    "validation.every_steps=auto",
    "samples.questions=[]",
    "wandb.mode=disabled",
)


COLUMNS = ("lr", "schedule", "warmup_ratio", "seed", "steps", "step", "val_loss")
Row = tuple[str, ...]


def main(out: Path) -> None:
    """A line for each validation. Runs that the file holds already are not trained again."""
    known = defaultdict[Row, list[Row]](list)
    if out.exists():
        with out.open(newline="") as file:
            for row in csv.DictReader(file):
                known[row["seed"], row["lr"], row["schedule"], row["warmup_ratio"]].append(tuple(row.values()))
    with out.open("a", newline="") as file, tempfile.TemporaryDirectory() as place:
        for run in _runs():
            if run not in known:
                known[run] = _trained(run, Path(place, "-".join(run)))
                csv.writer(file, lineterminator="\n").writerows(known[run])
                file.flush()
    with out.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *(row for run in _runs() for row in known[run])])


def _runs() -> Iterator[Row]:
    return itertools.product(map(str, SEEDS), RATES, SCHEDULES, WARMUPS)


def _trained(run: Row, folder: Path) -> list[Row]:
    """The rows of a run: of each whole one, so that a file without its end lacks them all."""
    seed, lr, schedule, warmup = run
    choices = (f"optimizer.lr={lr}", f"optimizer.schedule={schedule}", f"optimizer.warmup_ratio={warmup}")
    with contextlib.redirect_stderr(io.StringIO()):
        result = fit(load("train", *COMMON, *choices, f"seed={seed}", f"run.dir={folder}"))
    of_run = (lr, schedule, warmup, seed, str(result.steps))
    return [(*of_run, str(step), f"{loss:.5f}") for step, loss in result.val_by_step.items()]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
