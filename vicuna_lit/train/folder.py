"""The run folder: what it holds, and whether it can be used."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from vicuna_lit.folder import check_disk, read_json, refuse_other_settings, write_json
from vicuna_lit.train.config import TrainConfig
from vicuna_lit.train.export import export_dtype, exported_bytes


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
    peak_memory_bytes: int = 0
    """Of one process, the largest over all ranks."""
    model_bytes: int = 0
    """Of the exported weights, to hold the peak against."""
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
    saved = read_json(folder, "config.json")
    values = read_json(folder, "result.json") or {}
    if saved is None or values.get("status") != "finished":
        return None  # nothing to lose: it failed, or was stopped
    refuse_other_settings(folder, saved, config.model_dump(mode="json"))
    return Result(**values)


def open_folder(config: TrainConfig, folder: Path, model: PreTrainedModel) -> None:
    """Creates the folder, checks that the results will fit, and writes the resolved config."""
    need = exported_bytes(model, export_dtype(config)) * 1.1 + 10e6
    check_disk(folder, need, "the model")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config.model_dump(mode="json"))
