"""The W&B run: one id for all starts of a run, and one row of history for each optimizer step.

W&B is imported where it is used: a run with `wandb.mode=disabled` does without it.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from vicuna_lit.config.train import TrainConfig
from vicuna_lit.data.datamodule import ConversationDataModule
from vicuna_lit.data.mask_view import show_mask
from vicuna_lit.models.automatic import on_gpu
from vicuna_lit.tracking.about import about_run, nested
from vicuna_lit.tracking.session import Session, open_session
from vicuna_lit.tracking.wandb_file import history_rows
from vicuna_lit.train.console import console
from vicuna_lit.train.distributed import DistributedEnv
from vicuna_lit.train.times import LostTime
from vicuna_lit.wandb_workspace import save_first


class History:
    """Rows of W&B's history, whose step is the optimizer step; 0 is before training.

    A row is written once its step is over, so that all of a step's figures stand in it, and only where no earlier
    start has written it: a step that is taken again has the same figures to the bit.

    Args:
        run: the session with W&B; None on ranks that write nothing.
        recorded: the last step that has a row; −1: none.
    """

    def __init__(self, run: Any, recorded: int = -1):
        self.run, self.recorded = run, recorded
        self.validating: int | None = None
        """The step whose validation runs now."""
        self._step, self._row = -1, {}

    @contextmanager
    def validation_of(self, step: int) -> Iterator[None]:
        """What Lightning logs within belongs to this step; it would count it to the next one."""
        self.validating = step
        try:
            yield
        finally:
            self.validating = None

    def add(self, step: int, figures: dict[str, Any]) -> None:
        """Adds figures to the row of a step; rows come in order."""
        if self.run is None or step <= self.recorded:
            return
        if step != self._step:
            self.flush()
        self._step = step
        self._row |= figures

    def over(self, step: int) -> None:
        """Writes the row of a step that is over; one of a later step stays open."""
        if self._step <= step:
            self.flush()

    def flush(self) -> None:
        """Writes the row that is open."""
        if self._row:
            row = self._row | {"trainer/global_step": self._step}
            if all(isinstance(value, int | float) for value in row.values()):
                self.run.log_soon(row, self._step)
            else:
                self.run.log(row, step=self._step, commit=True)
            self.recorded = self._step
        self._row = {}

    def drop(self) -> None:
        """Leaves the open row to the next start: its step's validation loss may be missing."""
        self._row = {}


def recorded_step(session: Session | None, folder: Path) -> int:
    """The last step that this run's history holds on the server, or in the records of earlier starts.

    Args:
        folder: in which W&B's `wandb/` lies.
    """
    if session is None or session.run is None:
        return -1
    files = folder.glob(f"wandb/*run-*-{session.id}*/run-{session.id}.wandb")
    here = max((step for file in files for step, _ in history_rows(file)), default=-1)
    if session.online:
        return session.do("its last step", lambda run: run.step - 1 if run.resumed else -1) or -1
    return here


def start_wandb(
    config: TrainConfig, env: DistributedEnv, data: ConversationDataModule, model: PreTrainedModel, identity: str
) -> Session | None:
    """Opens the run's W&B run with all that the run is, each value a column of its own.

    None with `wandb.mode=disabled`.
    """
    if config.wandb.mode == "disabled":
        return None
    known = {
        "data_statistics": data.statistics(),
        "data_sha256": data.source.file_hashes,
        "parameters": {"total": model.num_parameters(), "trained": model.num_parameters(only_trainable=True)},
        "world_size": env.size,
        "nodes": env.nodes,
        "device": torch.cuda.get_device_name() if on_gpu(config) else "cpu",
    }
    known |= about_run(config.run, config.wandb.group)
    values = nested(config.model_dump(mode="json", exclude={"run": {"swept"}}) | known)
    session = open_session(config.wandb, config.run, Path(config.run.dir), identity, values, say)
    if session:
        session.do("what its steps are", define_steps)
    if session and session.online and (said := session.do("the project's workspace", save_first)):
        say(f"W&B: {said}")
    return session


def define_steps(run: Any) -> None:
    """Every figure is drawn over the optimizer step."""
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step")


def say(line: str) -> None:
    """What W&B does, in the run's own output."""
    console.print(line, style="yellow", markup=False, highlight=False)


def masks_table(data: ConversationDataModule, samples: str) -> dict[str, Any]:
    """The first conversations with their masks in colour, as `wandb.samples` says."""
    if samples == "none":
        return {}
    import wandb

    masks = wandb.Table(columns=["id", "tokens", "supervised", *["mask"] * (samples == "text")])
    for example in (data.train[i] for i in range(min(8, len(data.train)))):
        cells = [example.id, len(example.input_ids), int(example.supervised.sum())]
        if samples == "text":
            cells.append(wandb.Html(show_mask(example, data.encoder)._repr_html_()))
        masks.add_data(*cells)
    return {"data/masks": masks}


def replies_table(key: str, before: Sequence[Any], after: Sequence[Any], samples: str) -> dict[str, Any]:
    """Each question with the replies of two steps; without texts their number and lengths.

    Args:
        samples: as `wandb.samples`.
    """
    if samples == "none":
        return {}
    import wandb

    if samples == "text":
        table = wandb.Table(columns=["question", "reply before", "reply after"])
    else:
        table = wandb.Table(columns=["question", "characters before", "characters after"])
    for number, ((question, old), (_, new)) in enumerate(zip(before, after, strict=True), start=1):
        table.add_data(*((question, old, new) if samples == "text" else (number, len(old), len(new))))
    return {key: table}


def last_validation(losses: dict[str, float]) -> dict[str, Any]:
    """Tables of the loss over the replies of a conversation, and over positions in it: a curve each.

    Args:
        losses: by their keys in the history.
    """
    import wandb

    tables = {}
    for key, x in (("turn", "turns"), ("position", "positions")):
        rows: Any = [
            [int(re.findall(r"\d+", name)[0]), loss]
            for name, loss in losses.items()
            if name.startswith(f"val/loss_by_{key}/")
        ]
        if rows:
            tables[f"val/loss_over_{x}"] = wandb.Table(columns=[key, "loss"], data=rows)
    return tables


def lost_time_table(lost: LostTime) -> Any:
    """Where the time of all starts went."""
    import wandb

    rows: Any = [[part, seconds, seconds / lost.total] for part, seconds in lost.parts().items()]
    return wandb.Table(columns=["part", "seconds", "share"], data=rows)
