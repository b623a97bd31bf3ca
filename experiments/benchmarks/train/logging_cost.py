"""What a row of W&B's history costs a step: `python -m experiments.benchmarks.train.logging_cost`.

The real session, offline, and rows as the quickstart's, in rounds: the same rows by our session, by W&B's `run.log`
alone, and without W&B, in turn. Between two rows the process multiplies matrices, as long as a fast step takes: W&B's
own process and threads work beside it, as in a run.
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from vicuna_lit.config.compose import load
from vicuna_lit.tracking.session import Session, open_session
from vicuna_lit.train.tracking.wandb_run import History, define_steps

ROUNDS, STEPS, PRODUCTS, SIZE = 7, 100, 40, 256
ROW = {
    **{f"train/{name}": 1.2345 for name in ("loss", "grad_norm", "lr", "epoch", "supervised_tokens")},
    **{f"speed/{name}": 1234.5 for name in ("supervised_tokens_per_second", "tokens_per_second", "mfu")},
    **{f"time/{name}_seconds": 0.123 for name in ("step", "data", "save", "validation")},
    **{"memory/step_peak_gib": 1.5, "data/fill": 0.9, "data/padding_tokens": 10, "speed/model_tflops_per_second": 0.1},
}


class Cost(NamedTuple):
    """Of a step, in milliseconds: medians of a round."""

    training_thread: float
    """On the clock, until it goes on to compute."""
    step: float
    """On the clock, with what it computes."""
    processor: float
    """Of this process, all its threads: a mean over the round."""


class Plain:
    """W&B's `run.log` on the training thread."""

    def __init__(self, run: Any):
        self.run = run

    def log_soon(self, row: dict[str, Any], step: int) -> None:
        self.run.log(row, step=step, commit=True)


def rows(history: History, first: int) -> Cost:
    matrix, row, whole, used = torch.ones(SIZE, SIZE), [], [], time.process_time()
    for step in range(first, first + STEPS):
        began = time.perf_counter()
        history.add(step, dict(ROW))
        row.append(time.perf_counter() - began)
        for _ in range(PRODUCTS):
            torch.mm(matrix, matrix)
        whole.append(time.perf_counter() - began)
    history.flush()
    used = (time.process_time() - used) / STEPS
    return Cost(1000 * statistics.median(row), 1000 * statistics.median(whole), 1000 * used)


def session(folder: Path) -> Session:
    config: Any = load("train", "wandb.mode=offline", f"run.dir={folder}")
    found = open_session(config.wandb, config.run, folder, "loggingcost", config.model_dump(mode="json"), print)
    assert found and found.run, "W&B does not start"
    found.do("what its steps are", define_steps)
    return found


def main() -> None:
    """The command."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        opened = session(Path(folder))
        logged, bare, alone = History(opened), History(Plain(opened.run)), History(None)
        rounds = [
            [rows(one, (3 * i + k) * STEPS) for k, one in enumerate((logged, bare, alone))] for i in range(ROUNDS)
        ]
        opened.finish()
        assert opened.failed == 0
    for k, what in enumerate(("ours", "W&B's own")):
        for name in Cost._fields:
            costs = [getattr(one[k], name) - getattr(one[2], name) for one in rounds]
            print(f"{what}, {name}: {statistics.median(costs):.3f} ms a step ({min(costs):.3f}–{max(costs):.3f})")


if __name__ == "__main__":
    main()
