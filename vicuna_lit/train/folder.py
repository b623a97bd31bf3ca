"""The run folder: what it holds, and whether it can be used."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from vicuna_lit.compose import differences
from vicuna_lit.config import TrainConfig


class RunError(ValueError):
    """The run folder cannot be used; the message says what to do."""


@dataclass(frozen=True)
class Result:
    """`result.json`. Losses are in nats per supervised token; null where nothing is held out."""

    status: str
    run_dir: str
    steps: int = 0
    supervised_tokens: int = 0
    supervised_tokens_per_second: float = 0.0
    peak_memory_bytes: int = 0
    seconds: float = 0.0
    heldout_loss_before: float | None = None
    heldout_loss: float | None = None
    heldout: dict[str, float] = field(default_factory=dict)
    """Split by turn and by position, after training."""
    replies: list[dict[str, str]] = field(default_factory=list)
    """Each sample question with the replies before and after."""
    data: dict[str, Any] = field(default_factory=dict)


def already_done(config: TrainConfig, folder: Path) -> Result | None:
    """The result in the folder, if it is of this very config.

    Raises:
        RunError: the folder holds another config's run; the message lists the differences.
    """
    saved = folder / "config.json"
    if not saved.exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise RunError(f"{folder}: exists and is no run folder; choose another with run.dir=<folder>")
        return None
    result = folder / "result.json"
    values = json.loads(result.read_text()) if result.exists() else {}
    if values.get("status") != "finished":
        return None  # nothing to lose: it failed, or was stopped
    changed = differences(json.loads(saved.read_text()), config.model_dump(mode="json"))
    if changed:
        lines = "\n  ".join(changed)
        raise RunError(f"{folder} holds a run with other settings; choose another with run.dir=<folder>:\n  {lines}")
    return Result(**values)


def open_folder(config: TrainConfig, folder: Path, model: PreTrainedModel) -> None:
    """Creates the folder, checks that the results will fit, and writes the resolved config."""
    need = sum(p.numel() * p.element_size() for p in model.parameters()) * 1.1 + 10e6
    free = shutil.disk_usage(next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())).free
    if free < need:
        raise RunError(f"{folder}: the model needs about {need / 1e9:.2f} GB of disk, {free / 1e9:.2f} GB are free")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config.model_dump(mode="json"))


def write_json(path: Path, values: Any) -> None:
    """Writes to a temporary name first, so that the file is whole or not there."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(json.dumps(values, indent=1, ensure_ascii=False))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
