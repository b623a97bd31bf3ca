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


def main(out: Path) -> None:
    """A line for each validation: lr, schedule, warm-up, seed, steps of the run, step, loss."""
    with out.open("w", newline="") as file, tempfile.TemporaryDirectory() as place:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("lr", "schedule", "warmup_ratio", "seed", "steps", "step", "val_loss"))
        for seed, lr, schedule, warmup in itertools.product(SEEDS, RATES, SCHEDULES, WARMUPS):
            choices = (f"optimizer.lr={lr}", f"optimizer.schedule={schedule}", f"optimizer.warmup_ratio={warmup}")
            folder = Path(place, f"{lr}-{schedule}-{warmup}-{seed}")
            with contextlib.redirect_stderr(io.StringIO()):
                result = fit(load("train", *COMMON, *choices, f"seed={seed}", f"run.dir={folder}"))
            for step, loss in result.val_by_step.items():
                writer.writerow((lr, schedule, warmup, seed, result.steps, step, f"{loss:.5f}"))
            file.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
