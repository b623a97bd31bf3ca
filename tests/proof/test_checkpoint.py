"""Checkpoints on disk: any ranks read what any ranks wrote, and nothing damaged is taken for whole."""

import json
import os
import pickle
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.examples import examples
from vicuna_lit.models.safetensors_stream import PIECE, aside, staged
from vicuna_lit.run_folder import RunError
from vicuna_lit.train.callbacks.checkpointing import find_resume_point
from vicuna_lit.train.checkpoint.format import Checkpoint, Shards, TensorShard, find, find_damage, remove_all, save
from vicuna_lit.train.distributed import DistributedEnv

ABOUT = {"attempt": "a", "fingerprint": "f", "run": {}}
TENSORS = {
    "weight/a": torch.randn(7, 5),
    "exp_avg/a": torch.randn(7, 5),
    "weight/b": torch.randn(3),
    "state1/b": torch.randint(0, 255, (3,), dtype=torch.uint8),
    "weight/c": torch.randn(4, 2).bfloat16(),
}


def cut(rank: int, world: int, tensors: dict[str, torch.Tensor], whole: bool) -> list[TensorShard]:
    """The tensors as one of the ranks holds them: all of them, or every so many elements."""
    out = []
    for name, tensor in tensors.items():
        flat = tensor.view(-1)
        if whole:
            out.append(TensorShard(name, 0, flat, everywhere=True))
            continue
        each = -(-flat.numel() // world)
        out.append(TensorShard(name, min(rank * each, flat.numel()), flat[rank * each : (rank + 1) * each]))
    return out


def written(folder: Path, step: int, world: int = 2, whole: bool = True, attempt: str = "a") -> Checkpoint:
    for rank in range(world):
        save(folder, step, rank, world, cut(rank, world, TENSORS, whole), ABOUT | {"attempt": attempt})
    return find(folder).complete[-1]


@settings(max_examples=examples(40), deadline=None)
@given(st.integers(1, 5), st.booleans(), st.integers(1, 5), st.booleans())
def test_any_ranks_read_what_any_ranks_wrote(tmp_path_factory, writers, wrote_whole, readers, read_whole):
    found = written(tmp_path_factory.mktemp("c"), 3, writers, wrote_whole)
    assert find_damage(found) is None
    shards = Shards(found)
    got = {name: torch.zeros_like(tensor) for name, tensor in TENSORS.items()}
    for rank in range(readers):
        for piece in cut(rank, readers, got, read_whole):
            shards.read_into(piece)
    assert all(torch.equal(got[name], TENSORS[name]) for name in TENSORS)


def test_shards_written_whole_are_shared_out(tmp_path):
    """Where every rank holds everything, each writes a part."""
    found = written(tmp_path, 3, world=4)
    sizes = [(found.path / f"{name}.safetensors").stat().st_size for name in found.shards]
    assert sum(sizes) < 3 * sum(t.numel() * t.itemsize for t in TENSORS.values()) + 4 * 700
    assert max(sizes) < 2 * min(sizes)


def test_another_models_checkpoint_is_refused(tmp_path):
    shards = Shards(written(tmp_path, 3))
    with pytest.raises(RunError, match=r"holds 35 of the 36 numbers of weight/a.*resume=never"):
        shards.read_into(TensorShard("weight/a", 0, torch.zeros(36)))
    with pytest.raises(RunError, match="holds 0 of the 4 numbers of weight/new"):
        shards.read_into(TensorShard("weight/new", 0, torch.zeros(4)))


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, None)
    monkeypatch.setattr(torch, "load", None)
    found = written(tmp_path, 3)
    assert find_damage(found) is None
    Shards(found).read_into(TensorShard("weight/b", 0, torch.zeros(3)))


@pytest.mark.parametrize("copies", ["as early as can be", "as late as can be"])
def test_numbers_that_come_through_two_buffers(copies):
    """A buffer is filled again only when it was used, and used only when it is full; the next one is under way."""
    under_way = []

    def send(buffer, source):
        under_way.append(source)
        if copies == "as early as can be":
            buffer.copy_(source)
            return lambda: None
        return lambda: buffer.copy_(source)

    sources = [torch.randint(0, 255, (n,), dtype=torch.uint8) for n in (7, 8, 1, 8, 3)]
    buffers = [torch.zeros(8, dtype=torch.uint8) for _ in range(2)]
    for used, buffer in enumerate(staged(iter(sources), buffers, send)):
        assert torch.equal(buffer, sources[used])
        assert len(under_way) == min(used + 2, 5)
        assert torch.equal(buffer, sources[used])
    assert not list(staged(iter([]), buffers, send))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpus_numbers_beside_its_work(tmp_path):
    """The same file as from the CPU: of what the weights were when the save began, behind work that was launched."""
    size = 3 * PIECE + 5
    weight = torch.zeros(size, device="cuda")
    torch.cuda._sleep(200_000_000)
    weight += torch.arange(size, device="cuda")
    pieces = [TensorShard("weight/a", 0, weight, everywhere=True), TensorShard("weight/b", 0, torch.ones(3)),
              TensorShard("state1/a", 0, torch.arange(99, device="cuda").to(torch.uint8), everywhere=True)]  # fmt: skip
    with aside(piece.data for piece in pieces):
        save(tmp_path / "gpu", 3, 0, 1, pieces, ABOUT)
    save(tmp_path / "cpu", 3, 0, 1, [TensorShard(p.tensor, p.start, p.data.cpu(), p.everywhere) for p in pieces], ABOUT)
    gpu, cpu = (find(tmp_path / where).complete[0].path for where in ("gpu", "cpu"))
    name = "shard-00000-of-00001.safetensors"
    assert (gpu / name).read_bytes() == (cpu / name).read_bytes()


@pytest.mark.promise(
    "Every flipped bit of a checkpoint is seen, and one with a file that is cut off or missing is not used"
)
def test_every_flipped_bit_is_seen(tmp_path):
    found = written(tmp_path, 3)
    rng = random.Random(0)
    for file in sorted(found.path.iterdir()):
        good = file.read_bytes()
        places = range(len(good)) if len(good) < 600 else sorted(rng.sample(range(len(good)), 150))
        for place in places:
            bad = bytearray(good)
            bad[place] ^= 1 << rng.randrange(8)
            file.write_bytes(bad)
            complete = find(tmp_path).complete
            assert not complete or find_damage(complete[0]) is not None, (file.name, place)
        file.write_bytes(good)
    assert find_damage(find(tmp_path).complete[0]) is None
    found.path.rename(tmp_path / "step-00000099")
    assert find_damage(find(tmp_path).complete[0]) == f"{found.shards[0]}.json is of step {found.step}, rank 0 of 2"


@pytest.mark.parametrize("name", ["shard-00000-of-00002", "shard-00001-of-00002"])
@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
@pytest.mark.parametrize("left", [None, 0, 0.5, 0.99])
@pytest.mark.promise(
    "Every flipped bit of a checkpoint is seen, and one with a file that is cut off or missing is not used"
)
def test_what_is_cut_off_or_missing_is_not_used(name, suffix, left, tmp_path, capsys):
    """The one before is used, and why is said."""
    written(tmp_path, 3)
    file = written(tmp_path, 6).path / (name + suffix)
    if left is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: int(left * file.stat().st_size)])
    start = find_resume_point(tmp_path, "auto", DistributedEnv())
    assert start is not None
    assert start.step == 3
    half_written = left is None and suffix == ".json"
    assert ("step-00000006 cannot be used" in capsys.readouterr().out) != half_written


def test_when_none_can_be_used(tmp_path, capsys):
    """`never` starts anew, a first save that was cut short too, find_damage does not; `must` never does."""
    assert find_resume_point(tmp_path, "auto", DistributedEnv()) is None
    with pytest.raises(RunError, match="resume=must, but"):
        find_resume_point(tmp_path, "must", DistributedEnv())
    found = written(tmp_path, 3)
    for file in found.path.glob("*.safetensors"):
        file.write_bytes(b"")
    for resume in ("auto", "must"):
        with pytest.raises(RunError, match=r"no checkpoint can be used, resume=never(.|\n)*0 bytes of"):
            find_resume_point(tmp_path, resume, DistributedEnv())
    assert find_resume_point(tmp_path, "never", DistributedEnv()) is None
    (found.path / "shard-00001-of-00002.json").unlink()
    assert find_resume_point(tmp_path, "auto", DistributedEnv()) is None
    assert "the first save was interrupted" in capsys.readouterr().out
    with pytest.raises(RunError, match="resume=must"):
        find_resume_point(tmp_path, "must", DistributedEnv())
    remove_all(tmp_path)
    assert not list(tmp_path.iterdir())


def test_shards_of_two_attempts_are_no_checkpoint(tmp_path):
    found = written(tmp_path, 3)
    save(tmp_path, 3, 1, 2, cut(1, 2, TENSORS, True), ABOUT | {"attempt": "b"})
    assert find_damage(found) == "its shards are of different attempts"


class PowerLoss(BaseException):
    """The machine is gone."""


class Disk:
    """Counts the operations of a save and cuts the power before one of them.

    What was not brought to the disk by fsync is then gone, whole, in part or not at all; a name is safe only when
    its folder was brought there too.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, dies_before: int):
        self.count, self.dies_before = 0, dies_before
        self.files: dict[str, Path] = {}
        self.unsynced: set[Path] = set()
        self.new_names: set[Path] = set()
        self._fsync = os.fsync
        real_open, replace, mkdir, unlink = Path.open, Path.replace, Path.mkdir, Path.unlink

        def opened(path: Path, mode: str = "r", *rest, **options):
            if "w" not in mode:
                return real_open(path, mode, *rest, **options)
            self.operation()
            self.unsynced.add(path)
            self.new_names.add(path)
            file = real_open(path, mode, *rest, **options)
            return Watched(file, self)

        def replaced(path: Path, target: Path):
            self.operation()
            self.unsynced = {target if p == path else p for p in self.unsynced}
            self.new_names = {p for p in self.new_names if p != path} | {target}
            return replace(path, target)

        def made(path: Path, *rest, **options):
            self.operation()
            if not path.exists():
                self.new_names.add(path)
            return mkdir(path, *rest, **options)

        def unlinked(path: Path, missing_ok: bool = False):
            if self.count < self.dies_before:
                self.operation()
            return unlink(path, missing_ok)

        def synced(handle: int):
            self.operation()
            path = Path(f"/proc/self/fd/{handle}").readlink()
            if path.is_dir():
                self.new_names = {p for p in self.new_names if p.parent != path}
            else:
                self.unsynced.discard(path)
            self._fsync(handle)

        for name, f in {"open": opened, "replace": replaced, "mkdir": made, "unlink": unlinked}.items():
            monkeypatch.setattr(Path, name, f)
        monkeypatch.setattr(os, "fsync", synced)

    def operation(self) -> None:
        if self.count == self.dies_before:
            raise PowerLoss
        self.count += 1


class Watched:
    def __init__(self, file, disk: Disk):
        self.file, self.disk = file, disk

    def write(self, data) -> None:
        self.disk.operation()
        self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()


@pytest.mark.promise(
    "Power loss between any two file operations of a save leaves the new checkpoint or the one before, never a "
    "wrong one"
)
def test_power_loss_between_any_two_operations_of_a_save(tmp_path, monkeypatch):
    """The new checkpoint is there in full, or the one before is used; whatever the disk kept of the rest."""
    outcomes, dies_before = {3: 0, 6: 0}, 0
    while True:
        for kept in ("all", "half", "nothing", "zeros"):
            folder = tmp_path / f"{dies_before}-{kept}"
            written(folder, 3)
            with monkeypatch.context() as patch:
                disk = Disk(patch, dies_before)
                finished = True
                try:
                    written(folder, 6)
                except PowerLoss:
                    finished = False
            lose(disk, kept)
            start = find_resume_point(folder, "auto", DistributedEnv())
            assert start is not None
            assert find_damage(start) is None
            assert not finished or start.step == 6
            outcomes[start.step] += 1
        if finished:
            break
        dies_before += 1
    assert dies_before > 30
    assert min(outcomes.values()) > 4, outcomes


def lose(disk: Disk, kept: str) -> None:
    """What a disk may make of writes that were never synced."""
    for path in disk.unsynced:
        if path.exists() and kept != "all":
            data = path.read_bytes()
            left = {"half": data[: len(data) // 2], "nothing": b"", "zeros": bytes(len(data))}[kept]
            path.write_bytes(left)
    if kept == "nothing":
        for path in sorted(disk.new_names, reverse=True):
            if path.is_file():
                path.unlink()


def test_a_marker_says_what_it_vouches_for(tmp_path):
    found = written(tmp_path, 12)
    marker = json.loads((found.path / "shard-00001-of-00002.json").read_text())
    assert {k: marker[k] for k in ("step", "rank", "world", "attempt")} == dict(step=12, rank=1, world=2, attempt="a")
    assert marker["bytes"] == (found.path / "shard-00001-of-00002.safetensors").stat().st_size
    assert found.about["fingerprint"] == "f"
    assert len(marker["sha256"]) == 64
