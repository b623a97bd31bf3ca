"""A run that extends a finished one: what it takes over from there, and what must be as it is there."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vicuna_lit.config.train import TrainConfig
from vicuna_lit.file_hashes import Hashes, refuse_other_files
from vicuna_lit.run_folder import RunError, differences, read_json
from vicuna_lit.train.checkpoint.format import Checkpoint, find, find_damage
from vicuna_lit.train.distributed import DistributedEnv, all_gather_object
from vicuna_lit.train.result import Result, result_in
from vicuna_lit.train.resume import (
    MAY_CHANGE,
    NOTHING,
    finished_run,
    hashes_at_start,
    losses_of,
    settings,
)

MAY_DIFFER = (
    *MAY_CHANGE,
    "extends",
    "taken_before",
    "conversations_per_step",
    "trainer.epochs",
    "trainer.max_steps",
    "optimizer.lr",
    "optimizer.schedule",
    "optimizer.warmup_ratio",
    "optimizer.cooldown_ratio",
    "optimizer.weight_decay",
    "optimizer.clip_norm",
    "validation",
    "samples",
    "callbacks",
)
"""Of a run and the one that it extends. The other keys decide the weights, what the optimizer's state means, or the
order of the data, and must be the same."""


@dataclass(frozen=True)
class Origin:
    """Where a run that extends another one begins."""

    lineage: tuple[dict[str, Any], ...]
    """See `Result`."""
    checkpoint: Checkpoint | None
    """Of the last step of the run that is extended; None where this run goes on from a checkpoint of its own."""

    @property
    def steps(self) -> int:
        """Optimizer steps before this run's first; the optimizer counts them."""
        return sum(ancestor["steps"] for ancestor in self.lineage)


def origin_of(
    config: TrainConfig, folder: Path, resumes: bool, hashes: Hashes, identity: Mapping[str, Any], env: DistributedEnv
) -> Origin | None:
    """Where the run begins; None: with its model. All ranks call it, and share the reading.

    Args:
        folder: of the run.
        resumes: from a checkpoint of its own; then nothing of the other run is needed any more.
        hashes: what the run reads, see `input_hashes`.
        identity: see `Extensions`.

    Raises:
        RunError: the other run is of another recipe or of other files, or it has no checkpoint of its last step.
    """
    if config.extends is None:
        return None
    if resumes:
        return Origin(tuple((read_json(folder, "run.json") or {}).get("lineage") or ()), None)
    other = Path(config.extends)
    done, checkpoint = _extended(config, folder, identity)
    theirs, before = hashes_at_start(other), losses_of((read_json(other, "config.json") or {}).get("extends"))
    read = {name: found for name, found in hashes.items() if name not in losses_of(config.extends)}
    known = theirs and {name: found for name, found in theirs.items() if name not in before}
    refuse_other_files(other, known, read, f"model={config.extends}/hf takes its weights alone")
    if damage := next(filter(None, all_gather_object(find_damage(checkpoint, env.rank, env.size))), None):
        raise RunError(f"extends={config.extends}: {checkpoint.path.name} cannot be used: {damage}")
    wandb_id = (read_json(other, "run.json") or {}).get("wandb_id")
    parent = {"run": config.extends, "steps": done.steps, "wandb_id": wandb_id}
    return Origin((*done.lineage, parent), checkpoint)


def check_plan(config: TrainConfig, folder: Path, identity: Mapping[str, Any] = NOTHING) -> None:
    """Whether a run that is planned can begin where it shall; its files are not read.

    Raises:
        RunError: as of `origin_of`.
    """
    begun = result_in(folder) is not None or (config.resume != "never" and find(folder / "checkpoints").complete)
    if config.extends is not None and not begun:
        _extended(config, folder, identity)


def _extended(config: TrainConfig, folder: Path, identity: Mapping[str, Any]) -> tuple[Result, Checkpoint]:
    """The result of the run that this one extends, and the checkpoint of its last step."""
    other, said = Path(config.extends or ""), f"extends={config.extends}"
    if other.resolve() == folder.resolve():
        raise RunError(f"{said}: is this run's own folder; run.dir=<another folder>")
    saved, done = finished_run(str(other))
    if wrong := differences(saved, settings(config, identity), MAY_DIFFER):
        lines = "\n  ".join(wrong)
        raise RunError(
            f"{said}: these must be as they are there, for this run takes over the optimizer's state and goes on in "
            f"the order of the data; model={config.extends}/hf takes the weights alone, into another kind of run:"
            f"\n  {lines}"
        )
    found = find(other / "checkpoints").complete
    if last := next((checkpoint for checkpoint in found if checkpoint.step == done.steps), None):
        return done, last
    newest, again = "there is no checkpoint", "the whole run is trained again"
    if found:
        newest, again = f"the newest is of step {found[-1].step}", "it goes on from there"
    raise RunError(
        f"{said}: the optimizer's state after the last step, {done.steps}, is not kept there ({newest}). "
        "checkpoint.at_end=true keeps it: remove that run's result.json and give its command once more with this key; "
        f"{again}. Or model={config.extends}/hf takes the weights alone"
    )
