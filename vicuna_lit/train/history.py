"""The W&B run: one id for all starts of a run, and one row of history for each optimizer step."""

import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import wandb
from google.protobuf.message import DecodeError
from wandb.proto import wandb_internal_pb2

from vicuna_lit.config import PACKAGE
from vicuna_lit.data.datamodule import ConversationData
from vicuna_lit.data.show import show_mask
from vicuna_lit.folder import columns
from vicuna_lit.train.config import TrainConfig
from vicuna_lit.train.times import LostTime

BLOCK = 32768
"""Of a `.wandb` file, which is a LevelDB log: https://github.com/google/leveldb/blob/main/doc/log_format.md."""


class History:
    """Rows of W&B's history, whose step is the optimizer step; 0 is before training.

    A row is written when the next one begins, so that all of a step's figures stand in it, and only where no
    earlier start has written it: a step that is taken again has the same figures to the bit.

    Args:
        run: of W&B; None on ranks that write nothing.
        recorded: the last step that has a row; −1: none.
    """

    def __init__(self, run: Any, recorded: int = -1):
        self.run, self.recorded = run, recorded
        self._step, self._row = -1, {}

    def add(self, step: int, figures: dict[str, Any]) -> None:
        """Adds figures to the row of a step; rows come in order."""
        if self.run is None or step <= self.recorded:
            return
        if step != self._step:
            self.flush()
        self._step = step
        self._row |= figures

    def flush(self) -> None:
        """Writes the row that is open."""
        if self._row:
            self.run.log(self._row | {"trainer/global_step": self._step}, step=self._step, commit=True)
            self.recorded = self._step
        self._row = {}

    def drop(self) -> None:
        """Leaves the open row to the next start: its step's held-out loss may be missing."""
        self._row = {}


def recorded_step(run: Any, folder: Path) -> int:
    """The last step that this run's history holds on the server, or in the offline records of earlier starts."""
    if run.settings.mode == "online":
        return run.step - 1 if run.resumed else -1
    files = folder.glob(f"wandb/*run-*-{run.id}*/run-{run.id}.wandb")
    return max((step for file in files for step, _ in history_rows(file)), default=-1)


def history_rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of one offline record, as far as it is whole: (step, figures)."""
    for data in _records(file.read_bytes()):
        record: Any = wandb_internal_pb2.Record()  # pyright: ignore[reportAttributeAccessIssue]
        try:
            record.ParseFromString(data)
        except DecodeError:
            return
        if record.HasField("history"):
            row = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            yield int(row.get("_step", record.history.step.num)), row


def _records(log: bytes) -> Iterator[bytes]:
    """The records of a LevelDB log behind W&B's header; a torn one ends it."""
    place, record = 7, b""
    while place + 7 <= len(log):
        left = BLOCK - place % BLOCK
        if left < 7:
            place += left
            continue
        length, kind = int.from_bytes(log[place + 4 : place + 6], "little"), log[place + 6]
        if kind not in (1, 2, 3, 4) or place + 7 + length > len(log):
            return
        record += log[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part of one
            yield record
            record = b""


def start_wandb(config: TrainConfig, data: ConversationData, folder: Path, identity: str) -> Any:
    """Opens the W&B run with the resolved config, the commit, data statistics and hashes, each a column of its own."""
    known = {"git_commit": git_commit(), "data_statistics": data.statistics(), "data_sha256": data.source.file_hashes}
    settings = columns(config.model_dump(mode="json") | known)
    run = wandb.init(
        **config.wandb.model_dump(exclude={"log_model"}),
        name=config.run.name,
        dir=str(folder),
        config=settings,
        id=identity,
        resume="allow",
        settings=wandb.Settings(silent=True, console="off"),
    )
    run.config.update(settings, allow_val_change=True)  # the layout may have changed since the last start
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step")
    return run


def masks_table(data: ConversationData) -> Any:
    """The first conversations with their masks in colour."""
    masks = wandb.Table(columns=["id", "tokens", "supervised", "mask"])
    for example in (data.train[i] for i in range(min(8, len(data.train)))):
        view = show_mask(example, data.encoder)
        masks.add_data(
            example.id, len(example.input_ids), int(example.supervised.sum()), wandb.Html(view._repr_html_())
        )
    return masks


def replies_table(before: Sequence[Any], after: Sequence[Any]) -> Any:
    """Each question with the replies of two steps."""
    table = wandb.Table(columns=["question", "reply before", "reply after"])
    for (question, old), (_, new) in zip(before, after, strict=True):
        table.add_data(question, old, new)
    return table


def lost_time_table(lost: LostTime) -> Any:
    """Where the time of all starts went."""
    rows: Any = [[part, seconds, seconds / lost.total] for part, seconds in lost.parts().items()]
    return wandb.Table(columns=["part", "seconds", "share"], data=rows)


def git_commit() -> str | None:
    """Of the checkout that this code lies in."""
    command = ["git", "-C", str(PACKAGE), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
