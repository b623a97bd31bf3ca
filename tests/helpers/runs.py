"""Runs of the train job that tests compare: their settings and their files; `tests/helpers/group.py` has those of
several processes."""

import csv
import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from safetensors.torch import load_file

import vicuna_lit

SHARED = Path(vicuna_lit.__file__).parents[2] / "shared" / "data"
QUICKSTART = Path(vicuna_lit.__file__).parent / "quickstart"
REAL = SHARED / "conversations/sharegpt_v3_random_a.json"
STEPS, CONTEXT = 20, 256
COMMON = (
    "experiment=quickstart",
    "data=files",
    f"data.path={REAL if REAL.exists() else QUICKSTART / 'conversations.jsonl'}",
    "data.max_conversations=60",
    "data.validation_fraction=0.05",
    "data.max_validation=4",
    f"context_length={CONTEXT}",
    "conversations_per_step=8",
    f"trainer.max_steps={STEPS}",
    "optimizer.lr=1e-3",
    "optimizer.weight_decay=0.1",
    "optimizer.clip_norm=0.5",
    "samples.questions=[]",
    "wandb.mode=disabled",
    "model.architecture={hidden_size: 64, intermediate_size: 128, num_hidden_layers: 2, num_attention_heads: 4, "
    "num_key_value_heads: 2, max_position_embeddings: 512}",
)
Curve = tuple[list[float], list[float]]


def curve(folder: Path, steps: int = STEPS) -> Curve:
    """Losses and gradient norms, every step once."""
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(r["step"]) for r in rows] == list(range(1, steps + 1))
    return [float(r["loss"]) for r in rows], [float(r["grad_norm"]) for r in rows]


def agree(a: Curve, b: Curve, within: float = 1e-5) -> None:
    for ours, theirs in zip(a, b, strict=True):
        assert ours == pytest.approx(theirs, rel=within)


def weights(folder: Path) -> dict[str, Any]:
    return load_file(folder / "hf" / "model.safetensors")


def compare(folder: Path, reference: Path, within: float = 1e-5, steps: int = STEPS) -> None:
    """Losses and norms step by step, and every exported weight."""
    agree(curve(folder, steps), curve(reference, steps), within)
    ours, theirs = weights(folder), weights(reference)
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        assert weight.dtype == theirs[name].dtype
        a, b = weight.float(), theirs[name].float()
        assert (a - b).norm() <= within * b.norm(), (folder, name)


class Stopped(Exception):
    """What a stopped job ends with."""


def run_here(
    overrides: list[str], stop_after: int | None = None, count_collectives: bool = False, slow_saves: bool = False
) -> None:
    """Runs a job in this process.

    Args:
        slow_saves: what is saved is read only after the next step would long be done.
    """
    if slow_saves:
        with slowly():
            run_here(overrides, stop_after)
        return
    if count_collectives:
        run_counted(overrides)
        return
    from vicuna_lit.config.compose import load
    from vicuna_lit.train import run

    class StoppingRecovery(run.CheckpointCallback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            if stop_after is not None and pl_module.step_done(batch_idx) == stop_after:
                raise Stopped

    usual, run.CheckpointCallback = run.CheckpointCallback, StoppingRecovery
    try:
        run.fit(load("train", *overrides))
        assert not stop_after
    except Stopped:
        pass
    finally:
        run.CheckpointCallback = usual


@contextmanager
def slowly() -> Iterator[None]:
    from vicuna_lit.train.checkpoint import format as checkpoint

    save = checkpoint.save

    def late(*arguments: Any) -> int:
        time.sleep(0.5)
        return save(*arguments)

    with patch.object(checkpoint, "save", late):
        yield


def run_counted(overrides: list[str]) -> None:
    """Writes how often Python code of the run called a collective."""
    import torch.distributed as dist

    from vicuna_lit.train.module import SupervisedModule

    counts: Counter[str] = Counter()
    training, step = [False], SupervisedModule.training_step

    def counted(name: str) -> Any:
        real = getattr(dist, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            counts[name] += training[0]
            return real(*args, **kwargs)

        return patch.object(dist, name, call)

    def first(self: Any, batch: Any, batch_idx: int) -> Any:
        training[0] = True
        counts["accumulation"] = self.plan.accumulation
        return step(self, batch, batch_idx)

    with counted("all_reduce"), counted("broadcast"), patch.object(SupervisedModule, "training_step", first):
        run_here(overrides)
    if dist.get_rank() == 0:
        folder = Path(next(o for o in overrides if o.startswith("run.dir=")).removeprefix("run.dir="))
        (folder / "collectives.json").write_text(json.dumps(counts))
