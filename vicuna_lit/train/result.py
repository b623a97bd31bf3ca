"""What comes out of a run: `result.json`."""

import sys
from dataclasses import dataclass, field
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from vicuna_lit.run_folder import ForeignResult, read_json


@dataclass(frozen=True)
class Result:
    """What a run came to, as `result.json` holds it. Losses are in nats per supervised token; null where nothing is
    held out."""

    status: str
    run_dir: str
    steps: int = 0
    """Taken: fewer than planned where a callback has ended the run (`EarlyStopping`), or where it is stopped."""
    planned: int = 0
    """Of the whole run."""
    stop_after: int | float | None = None
    """Of a run that is stopped: what its config said."""
    taken: int = 0
    """Examples or conversations (`step_unit`) of the order, by this run and those that it extends."""
    lineage: list[dict[str, Any]] = field(default_factory=list)
    """The runs that it extends, the oldest first: the folder, steps and W&B id of each."""
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
    peak_memory_reserved_bytes: int = 0
    """Of a GPU, by torch's allocator; 0 on a CPU."""
    model_bytes: int = 0
    """Of the exported weights, to hold the peak against."""
    seconds: float = 0.0
    """In which the run was at work, over all its starts: from imports to the end, with validation. Not the time from an
    interruption to the next start, nor the step that it cut; `lost_time` has them as `interrupted`."""
    val_loss_before: float | None = None
    val_loss: float | None = None
    val_loss_best: float | None = None
    """The lowest validation loss after the first step, and the step that it was taken at."""
    val_loss_best_step: int | None = None
    validation: dict[str, float] = field(default_factory=dict)
    """Split by turn, by position and, of a mixture, by source, after training."""
    val_by_step: dict[int, float] = field(default_factory=dict)
    """Validation loss; 0 is before training."""
    logged: dict[str, float] = field(default_factory=dict)
    """The last value of each figure that callbacks and an own module have logged by `self.log`."""
    replies: list[dict[str, str]] = field(default_factory=list)
    """Each sample question with the replies before and after."""
    data: dict[str, Any] = field(default_factory=dict)
    lost_time: dict[str, float] = field(default_factory=dict)
    """Where the time of all starts went, in seconds (`times.LostTime`)."""
    saves_failed: int = 0
    """Checkpoints that could not be written, since the last start."""
    ended_early: str | None = None
    """By whom, and why; null: every planned step was taken."""
    notes: list[str] = field(default_factory=list)
    """What the user may not have meant, such as a validation loss of one conversation."""
    wandb_url: str | None = None
    """The run's page in W&B; null: offline, or without W&B."""
    identity: dict[str, str] = field(default_factory=dict)
    """Whose result it is: the sha256 of what `config.json` and `run.json` hold (`run_folder.identity_of`)."""
    wandb_missed: int = 0
    """Calls that W&B did not take; the folder has what they held."""

    def __str__(self) -> str:
        """How it ended, and where to look."""
        rows = self._rows() | ({"W&B": self.wandb_url} if self.wandb_url else {})
        return "\n".join(f"{name}: {said}" for name, said in rows.items())

    def _repr_html_(self) -> str:
        """The same in a notebook."""
        cells = "".join(f"<tr><th>{name}</th><td>{escape(said)}</td></tr>" for name, said in self._rows().items())
        page = f'<a href="{escape(self.wandb_url)}">{escape(self.wandb_url)}</a>' if self.wandb_url else ""
        return f"<table>{cells}{f'<tr><th>W&amp;B</th><td>{page}</td></tr>' if page else ''}</table>"

    def _rows(self) -> dict[str, str]:
        losses = [self.val_loss_before, self.val_loss]
        rows = {
            "status": self.status,
            "steps": f"{self.steps:,}",
            "validation loss": " → ".join(f"{loss:.4f}" for loss in losses if loss is not None),
            "lowest": f"{self.val_loss_best:.4f} at step {self.val_loss_best_step}" if self.val_loss_best else "",
            "logged": ", ".join(f"{name} {value:.4g}" for name, value in self.logged.items()),
            "folder": self.run_dir,
        }
        return {name: said for name, said in rows.items() if said}


def result_in(folder: Path, *statuses: str) -> Result | None:
    """The result of whatever run has finished in a folder, or has one of these statuses.

    One that cannot be read is none, and said: what a checkpoint holds is not needed from elsewhere.

    Raises:
        ForeignResult: it came out of another run.
    """
    if read_json(folder, "config.json") is None:
        return None
    try:
        values = read_json(folder, "result.json") or {}
        if values.get("status") not in (statuses or ("finished",)):
            return None
        # JSON's keys are texts.
        values["val_by_step"] = {int(step): loss for step, loss in values.get("val_by_step", {}).items()}
        return Result(**values)
    except ForeignResult:
        raise
    except (TypeError, ValueError, AttributeError):  # RunError is a ValueError
        _say_damaged(folder / "result.json")
        return None


@cache
def _say_damaged(file: Path) -> None:
    """Once."""
    print(f"note: {file} is damaged; the run goes on from its last checkpoint, or begins anew", file=sys.stderr)
