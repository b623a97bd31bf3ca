"""Checkpoints on disk: `checkpoints/step-<n>` in the run folder, one shard a rank, each rank on its own.

    step-00000012/
      shard-00000-of-00002.safetensors    flat pieces of weights and optimizer state, `<tensor>@<first element>`
      shard-00000-of-00002.json           written last: step, sha256, …; the first rank's also holds the run's figures

A shard without its JSON does not exist, and a checkpoint that lacks a shard neither; so no rank waits for another
to save, and the order in which a bucket uploads files does not matter. Pieces are cut as the writing strategy
holds them and found by their place in the tensor, so any strategy on any number of devices reads any checkpoint.
Nothing is unpickled.
"""

import hashlib
import json
import re
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vicuna_lit.models.safetensors_stream import header, host_bytes
from vicuna_lit.run_folder import RunError
from vicuna_lit.whole_files import sync_names, write, write_json

SHARD = re.compile(r"shard-(\d{5})-of-(\d{5})\.json")


@dataclass(frozen=True)
class TensorShard:
    """Consecutive elements of one tensor: a live flat view. Saving reads it, going on writes into it."""

    tensor: str
    start: int
    """Place of the first element in the flattened tensor."""
    data: Tensor
    everywhere: bool = False
    """Every rank holds the same: each saves a part of it, and reads all of it."""

    def part(self, rank: int, world: int) -> "TensorShard":
        """What one of the ranks saves."""
        if not self.everywhere:
            return self
        each = -(-self.data.numel() // world)
        return TensorShard(self.tensor, self.start + rank * each, self.data[rank * each : (rank + 1) * each])


@dataclass(frozen=True)
class Checkpoint:
    """A complete one: every shard has its JSON."""

    path: Path
    step: int
    shards: tuple[str, ...]
    """File names without suffix, by rank."""

    @property
    def about(self) -> dict[str, Any]:
        """What the first rank wrote: `fingerprint`, `run` (figures of the run so far)."""
        return json.loads((self.path / f"{self.shards[0]}.json").read_bytes())


def folder_of(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"step-{step:08d}"


def save(folder: Path, step: int, rank: int, world: int, held: Iterable[TensorShard], about: dict[str, Any]) -> int:
    """Writes one rank's shard; returns its bytes.

    Args:
        folder: the run's `checkpoints`.
        about: what the JSON says besides; `attempt` must be the same on all ranks.
    """
    path = folder_of(folder, step)
    path.mkdir(parents=True, exist_ok=True)
    sync_names(folder)
    name = f"shard-{rank:05d}-of-{world:05d}"
    (path / f"{name}.json").unlink(missing_ok=True)  # of an earlier attempt; it would vouch for the wrong numbers
    parts = [part for piece in held if (part := piece.part(rank, world)).data.numel()]
    digest, size = hashlib.sha256(), 0

    def chunks() -> Iterator[Any]:
        nonlocal size
        shapes = {f"{p.tensor}@{p.start}": (p.data.dtype, p.data.shape) for p in parts}
        for chunk in chain([header(shapes)], host_bytes(part.data for part in parts)):
            digest.update(chunk)
            size += len(chunk)
            yield chunk

    write(path / f"{name}.safetensors", chunks(), durable=True)
    marker = about | {"step": step, "rank": rank, "world": world, "bytes": size, "sha256": digest.hexdigest()}
    write_json(path / f"{name}.json", marker | {"self": _checksum(marker)}, durable=True)
    return size


def describe(folder: Path, step: int, about: dict[str, Any]) -> None:
    """Puts newer figures of the run into a complete checkpoint, whose tensors are its own; whole or not there.

    Args:
        about: as of `save`; the attempt stays the one that wrote the shards.
    """
    for checkpoint in find(folder).complete:
        if checkpoint.step == step:
            known = checkpoint.about
            marker = {key: value for key, value in (known | about).items() if key != "self"}
            marker["attempt"] = known["attempt"]
            path = checkpoint.path / f"{checkpoint.shards[0]}.json"
            write_json(path, marker | {"self": _checksum(marker)}, durable=True)


def _checksum(marker: dict[str, Any]) -> str:
    text = json.dumps(marker, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass
class Found:
    """What a folder of checkpoints holds."""

    complete: list[Checkpoint] = field(default_factory=list)
    """Oldest first."""
    half_written: list[Path] = field(default_factory=list)


def find(folder: Path) -> Found:
    """Looks at names and JSON files alone; `find_damage` reads the shards."""
    found = Found()
    for path in sorted(folder.glob("step-*")):
        if not path.is_dir() or not path.name.removeprefix("step-").isdecimal():
            continue
        worlds: dict[int, list[str]] = defaultdict(list)
        for marker in sorted(path.iterdir()):
            if match := SHARD.fullmatch(marker.name):
                worlds[int(match[2])].append(marker.stem)
        whole = [tuple(names) for world, names in worlds.items() if len(names) == world]
        step = int(path.name.removeprefix("step-"))
        found.complete += [Checkpoint(path, step, names) for names in whole]
        if not whole:
            found.half_written.append(path)
    return found


def find_damage(checkpoint: Checkpoint, part: int = 0, of: int = 1) -> str | None:
    """Why a checkpoint cannot be trusted, or None. Several ranks can share the reading.

    Args:
        part, of: this one reads every `of`-th shard from `part` on.
    """
    attempts = set()
    for i, name in enumerate(checkpoint.shards):
        try:
            marker = _marker(checkpoint.path / f"{name}.json")
            if marker is None:
                return f"{name}.json is damaged"
            attempts.add(marker["attempt"])
            if (marker["step"], marker["rank"], marker["world"]) != (checkpoint.step, i, len(checkpoint.shards)):
                return f"{name}.json is of step {marker['step']}, rank {marker['rank']} of {marker['world']}"
            if i % of != part:
                continue
            file = checkpoint.path / f"{name}.safetensors"
            if file.stat().st_size != marker["bytes"]:
                return f"{file.name} has {file.stat().st_size:,} bytes of {marker['bytes']:,}"
            with file.open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != marker["sha256"]:
                    return f"{file.name} is damaged: its sha256 is another"
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            return f"{name}: {error or type(error).__name__}"
    return None if len(attempts) == 1 else "its shards are of different attempts"


def _marker(path: Path) -> dict[str, Any] | None:
    """What a shard's JSON says; None: it is damaged."""
    try:
        marker = json.loads(path.read_bytes())
    except ValueError:
        return None
    stated = marker.pop("self")
    return marker if stated == _checksum(marker) else None


class Shards:
    """The saved pieces of a checkpoint, found by tensor and place."""

    def __init__(self, checkpoint: Checkpoint):
        self.path = checkpoint.path
        self.places: dict[str, list[tuple[int, int, Any, str]]] = defaultdict(list)
        for name in checkpoint.shards:
            try:
                file: Any = safe_open(self.path / f"{name}.safetensors", framework="pt")
            except SafetensorError as error:
                raise RunError(f"{self.path / name}.safetensors cannot be read: {error}") from error
            for key in file.keys():  # noqa: SIM118 (no mapping)
                tensor, _, start = key.rpartition("@")
                length = file.get_slice(key).get_shape()[0]
                self.places[tensor].append((int(start), int(start) + length, file, key))

    @torch.no_grad()
    def read_into(self, piece: TensorShard) -> None:
        """Fills a piece.

        Raises:
            RunError: the checkpoint does not hold all of it.
        """
        start, stop = piece.start, piece.start + piece.data.numel()
        filled = 0
        for first, last, file, key in self.places[piece.tensor]:
            a, b = max(start, first), min(stop, last)
            if a < b:
                piece.data[a - start : b - start].copy_(file.get_slice(key)[a - first : b - first])
                filled += b - a
        if filled != stop - start:
            raise RunError(
                f"{self.path} holds {filled:,} of the {stop - start:,} numbers of {piece.tensor}; it is of another "
                "model or optimizer: resume=never starts anew"
            )


def remove(path: Path) -> None:
    """Removes a checkpoint so that one removed in part is not taken for a whole one."""
    for marker in path.glob("*.json"):
        marker.unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


def remove_all(folder: Path) -> None:
    """Removes all, for a run that starts anew: it would take an earlier run's for its own."""
    for path in folder.glob("step-*"):
        remove(path)
