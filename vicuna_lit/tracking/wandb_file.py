"""What stands in W&B's own record of a run, a `.wandb` file, written online and offline alike."""

import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

BLOCK = 32768
"""Of a `.wandb` file, which is a LevelDB log: https://github.com/google/leveldb/blob/main/doc/log_format.md."""


def history_rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of one record, as far as it is whole: (step, figures)."""
    for record in messages(file):
        if record.HasField("history"):
            row = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            yield int(row.get("_step", record.history.step.num)), row


def state(folder: Path, identity: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The config and the summary that all records of a run below `folder` come to; tables and pages are left out."""
    config: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    for file in sorted(folder.glob(f"wandb/*run-*-{identity}/run-{identity}.wandb"), key=lambda f: f.parent.name[-24:]):
        for record in messages(file):
            for items, into in (
                (record.run.config.update, config),
                (record.config.update, config),
                (record.run.summary.update, summary),
                (record.summary.update, summary),
            ):
                for item in items:
                    into[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
    config.pop("_wandb", None)
    plain = {k: v for k, v in summary.items() if not k.startswith("_") and not (isinstance(v, dict) and "_type" in v)}
    return config, plain


def messages(file: Path) -> Iterator[Any]:
    """W&B's messages in one record, as far as it is whole."""
    for data in chunks(file.read_bytes()):
        if (found := message(data)) is None:
            return
        yield found


def message(data: bytes) -> Any:
    """W&B's message that these bytes are; None: they are none."""
    from google.protobuf.message import DecodeError
    from wandb.proto import wandb_internal_pb2

    record: Any = wandb_internal_pb2.Record()  # pyright: ignore[reportAttributeAccessIssue]
    try:
        record.ParseFromString(data)
    except DecodeError:
        return None
    return record


def chunks(log: bytes) -> Iterator[bytes]:
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


def log_of(head: bytes, records: Iterable[bytes]) -> bytes:
    """The inverse of `chunks`: a log with these records.

    Args:
        head: W&B's seven bytes, which begin every such file.
    """
    log = bytearray(head)
    for record in records:
        kinds, rest, is_open = (1, 2), record, True  # of a record that is whole, of its first part
        while is_open:
            left = BLOCK - len(log) % BLOCK
            if left < 7:
                log += bytes(left)
                left = BLOCK
            part, rest = rest[: left - 7], rest[left - 7 :]
            kind = bytes([kinds[1] if rest else kinds[0]])
            log += zlib.crc32(kind + part).to_bytes(4, "little") + len(part).to_bytes(2, "little") + kind + part
            kinds, is_open = (4, 3), bool(rest)  # the last, one in between
    return bytes(log)
