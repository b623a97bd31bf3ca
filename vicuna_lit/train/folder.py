"""The run folder: what it holds, and whether it can be used."""

import fcntl
import os
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from transformers import PreTrainedModel

from vicuna_lit.folder import RunError, check_disk, read_json, refuse_other_settings, write_json
from vicuna_lit.train import checkpoint
from vicuna_lit.train.config import TrainConfig
from vicuna_lit.train.export import export_dtype, exported_bytes
from vicuna_lit.train.memory import STATE_BYTES
from vicuna_lit.train.preemption import notice

LAYOUT = (
    "strategy", "trainer.devices", "trainer.accelerator", "trainer.peak_tflops", "tokens_per_device", "packing",
    "attention", "head", "gradient_checkpointing", "offload_activations", "compile", "checkpoint", "resume", "run",
    "wandb", "on_failure", "objective", "estimate",
)  # fmt: skip
"""What may change between two starts of one run: how it lies on the hardware, and what is written about it."""


LOCK = ".lock"


@dataclass(frozen=True)
class Result:
    """`result.json`. Losses are in nats per supervised token; null where nothing is held out."""

    status: str
    run_dir: str
    steps: int = 0
    tokens: int = 0
    supervised_tokens: int = 0
    supervised_tokens_per_second: float = 0.0
    step_seconds: float = 0.0
    """Median of an optimizer step."""
    model_tflops_per_second: float | None = None
    """What one device does for useful tokens (`flops.Flops`); median over the steps, null where not counted."""
    mfu: float | None = None
    """The same as a share of the device's peak; null where that is unknown."""
    peak_memory_bytes: int = 0
    """Of one process, the largest over all ranks."""
    model_bytes: int = 0
    """Of the exported weights, to hold the peak against."""
    seconds: float = 0.0
    heldout_loss_before: float | None = None
    heldout_loss: float | None = None
    heldout: dict[str, float] = field(default_factory=dict)
    """Split by turn and by position, after training."""
    heldout_by_step: dict[int, float] = field(default_factory=dict)
    """Held-out loss; 0 is before training."""
    replies: list[dict[str, str]] = field(default_factory=list)
    """Each sample question with the replies before and after."""
    data: dict[str, Any] = field(default_factory=dict)
    lost_time: dict[str, float] = field(default_factory=dict)
    """Where the time of all starts went, in seconds (`times.LostTime`)."""
    saves_failed: int = 0
    """Checkpoints that could not be written, since the last start."""


def already_done(config: TrainConfig, folder: Path) -> Result | None:
    """The result in the folder, if it is of this very run; the layout may be another.

    Raises:
        RunError: the folder holds another config's run; the message lists the differences.
    """
    saved, values = read_json(folder, "config.json"), read_json(folder, "result.json") or {}
    if saved is None or values.get("status") != "finished":
        return None
    refuse_other_settings(folder, saved, config.model_dump(mode="json"), LAYOUT)
    # JSON's keys are texts.
    values["heldout_by_step"] = {int(step): loss for step, loss in values.get("heldout_by_step", {}).items()}
    return Result(**values)


def changed_layout(config: TrainConfig, folder: Path) -> list[str]:
    """What differs from the settings of the run that goes on here, a line each.

    Raises:
        RunError: something differs that changes what is computed.
    """
    saved = read_json(folder, "config.json") or {}
    ways = ", or start this one anew with resume=never"
    return refuse_other_settings(folder, saved, config.model_dump(mode="json"), LAYOUT, ways)


def open_folder(config: TrainConfig, folder: Path, model: PreTrainedModel, fingerprint: str, known: str | None) -> str:
    """Checks that the results will fit, and writes the resolved config; returns the run's W&B id.

    All starts of one run have the same id. Where the folder holds traces of another run (one that did not finish
    and left no checkpoint, or one that `resume=never` gives up), they are removed: they would be taken for a part
    of this one.

    Args:
        fingerprint: of the data.
        known: the id in the checkpoint that the run goes on from.
    """
    need = exported_bytes(model, export_dtype(config)) * 1.1 + 10e6
    check_disk(folder, need, "the model")
    folder.mkdir(parents=True, exist_ok=True)
    saved = read_json(folder, "run.json") or {}
    if known is None and config.resume != "never" and saved.get("fingerprint") == fingerprint:
        with suppress(RunError):
            changed_layout(config, folder)
            known = saved.get("wandb_id")
    if known is None:
        checkpoint.remove_all(folder / "checkpoints")
        (folder / "times.csv").unlink(missing_ok=True)
        known = uuid.uuid4().hex[:8]
    (folder / "result.json").unlink(missing_ok=True)
    write_json(folder / "config.json", config.model_dump(mode="json"), durable=True)
    write_json(folder / "run.json", {"wandb_id": known, "fingerprint": fingerprint}, durable=True)
    return known


def lacks_room(config: TrainConfig, folder: Path, model: PreTrainedModel) -> str | None:
    """What to print where the checkpoints will not fit; a save that fails does not end a run."""
    if not (config.checkpoint.every_steps or config.checkpoint.every_minutes):
        return None
    count = config.checkpoint.keep + 1
    try:
        need = count * STATE_BYTES * model.num_parameters(only_trainable=True)
        check_disk(folder, need, f"{count} checkpoints (checkpoint.keep={count - 1}, one being written)")
    except RunError as error:
        return str(error)
    return None


@contextmanager
def locked(folder: Path, patience: float = 30.0) -> Iterator[None]:
    """Keeps a second process out of the folder; one that was just killed may take a moment to be gone.

    A folder into which nothing is written inside the block is removed again.

    Raises:
        RunError: another process runs here.
        Preempted: told to stop while waiting.
    """
    ends, said = time.monotonic() + patience, False
    while not (file := _lock(folder)):
        if time.monotonic() > ends:
            raise RunError(f"{folder}: another process is running here; stop it, or choose another run.dir")
        if not said:
            print(f"{folder}: waiting for another process to leave it", file=sys.stderr, flush=True)
        said = True
        notice.check()
        time.sleep(0.2)
    try:
        yield
    finally:
        if [p.name for p in folder.iterdir()] == [LOCK]:
            (folder / LOCK).unlink()
            folder.rmdir()
        file.close()


def _lock(folder: Path) -> IO[str] | None:
    """The locked file, or None if another process holds it, or has just removed it."""
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / LOCK).open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if (folder / LOCK).stat().st_ino == os.fstat(file.fileno()).st_ino:
            return file
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:  # a file system without locks
        return file
    file.close()
    return None
