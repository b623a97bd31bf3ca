"""An interrupted run ends as if it had never been: to the bit on the same layout, to rounding on another."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from tests.runs import COMMON, compare, run_group, run_here, weights
from vicuna_lit.folder import RunError
from vicuna_lit.train.checkpoint import find

SAVES = ("checkpoint.every_steps=4", "checkpoint.keep=9")
BF16 = ("precision=bf16-true",)
LORA = ("finetune=lora", "finetune.rank=4", "optimizer.lr=2e-3")


def job(folder: Path, *settings: str, **options: Any) -> dict[str, Any]:
    return {"overrides": [*COMMON, *SAVES, *settings, f"run.dir={folder}"], **options}


def state(folder: Path, step: int) -> dict[str, torch.Tensor]:
    """Weights and optimizer state of a checkpoint, whole, whoever wrote it."""
    found = next(c for c in find(folder / "checkpoints").complete if c.step == step)
    parts: dict[str, list[tuple[int, torch.Tensor]]] = {}
    for name in found.shards:
        with safe_open(found.path / f"{name}.safetensors", framework="pt") as file:
            for key in file.keys():  # noqa: SIM118
                tensor, _, start = key.rpartition("@")
                parts.setdefault(tensor, []).append((int(start), file.get_tensor(key)))
    return {name: torch.cat([t for _, t in sorted(p, key=lambda p: p[0])]) for name, p in parts.items()}


def identical(folder: Path, never: Path) -> None:
    """Metrics with their ledger, held-out losses, optimizer state and weights."""
    assert (folder / "metrics.csv").read_bytes() == (never / "metrics.csv").read_bytes()
    ours, theirs = weights(folder), weights(never)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    ours, theirs = state(folder, 20), state(never, 20)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    ours, theirs = (json.loads((f / "result.json").read_text()) for f in (folder, never))
    assert ours["heldout"] == theirs["heldout"]


OPTIMIZERS = {"adafactor": ("optimizer.kind=adafactor", "optimizer.lr=0.1"), "8 bits": ("optimizer.kind=adamw_8bit",)}
ONE_PROCESS = {
    "plain": (),
    "masters, 8 bits": (*BF16, *OPTIMIZERS["8 bits"]),
    "bf16": BF16,
    "bf16 without masters": (*BF16, "master_weights=false"),
    "bf16-mixed": ("precision=bf16-mixed",),
    "lora": LORA,
    **OPTIMIZERS,
    "masters, adafactor": (*BF16, *OPTIMIZERS["adafactor"]),
    "several rows a step": ("tokens_per_device=256",),
    "without packing, many exams": ("packing=false", "heldout.every_steps=2"),
}


def first_are_quick(cases: Iterable[str], quick: int) -> list[Any]:
    return [pytest.param(case, marks=[pytest.mark.slow] if i >= quick else []) for i, case in enumerate(cases)]


@pytest.mark.parametrize("case", first_are_quick(ONE_PROCESS, 2))
def test_one_process(case, tmp_path):
    """Stopped three times, right behind a save, before the first, and between two."""
    settings = ONE_PROCESS[case]
    run_here(**job(tmp_path / "never", *settings))
    for stop_after in (2, 8, 15, None):
        run_here(**job(tmp_path / "often", *settings, stop_after=stop_after))
    identical(tmp_path / "often", tmp_path / "never")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "zero2"])
def test_two_processes(strategy, tmp_path):
    """In fp32 and bf16, and with adapters."""
    jobs = []
    for name, settings in {"fp32": (), "bf16": BF16, "lora": LORA}.items():
        chosen = (f"strategy={strategy}", *settings)
        jobs.append(job(tmp_path / f"{name}-never", *chosen))
        often = tmp_path / f"{name}-often"
        jobs += [job(often, *chosen, stop_after=n, slow_saves=name == "fp32") for n in (3, 6, 13, None)]
    run_group(jobs, tmp_path)
    for name in ("fp32", "bf16", "lora"):
        identical(tmp_path / f"{name}-often", tmp_path / f"{name}-never")


@pytest.mark.parametrize("rows", ["256", "4096"])
def test_the_optimizer_waits_for_the_writer(rows, tmp_path):
    """A checkpoint that is read late still holds its own step."""
    run_here(**job(tmp_path / "quick", f"tokens_per_device={rows}", "trainer.max_steps=9"))
    run_here(**job(tmp_path / "slow", f"tokens_per_device={rows}", "trainer.max_steps=9", slow_saves=True))
    for step in (4, 8, 9):
        ours, theirs = (state(tmp_path / name, step) for name in ("slow", "quick"))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    lost = json.loads((tmp_path / "slow" / "result.json").read_text())["lost_time"]
    assert lost["saving"] > 0.5


@pytest.mark.slow
def test_from_any_layout_to_any_other(tmp_path):
    """One run through every strategy, on two processes and on one; then each back to one, and from one to each."""
    run_here(**job(tmp_path / "never"))
    two = ["ddp", "fsdp", "fsdp_offload", "zero1", "zero2", "zero3", "zero3_offload"]
    run_here(**job(tmp_path / "all", stop_after=2))
    jobs = [job(tmp_path / "all", f"strategy={s}", "checkpoint.every_steps=1", stop_after=4 + 2 * i)
            for i, s in enumerate(two)]  # fmt: skip
    for strategy in two:
        run_here(**job(tmp_path / f"to-{strategy}", stop_after=9))
        jobs.append(job(tmp_path / f"to-{strategy}", f"strategy={strategy}"))
        jobs.append(job(tmp_path / f"from-{strategy}", f"strategy={strategy}", stop_after=9))
    run_group(jobs, tmp_path)
    run_here(**job(tmp_path / "all", "tokens_per_device=256"))
    compare(tmp_path / "all", tmp_path / "never")
    for strategy in two:
        run_here(**job(tmp_path / f"from-{strategy}"))
        compare(tmp_path / f"to-{strategy}", tmp_path / "never")
        compare(tmp_path / f"from-{strategy}", tmp_path / "never")


@pytest.mark.parametrize("settings", [(), pytest.param(BF16, marks=pytest.mark.slow)], ids=["fp32", "bf16"])
def test_two_processes_to_one_and_back(settings, tmp_path):
    """The same conversations in the same steps, the losses to rounding."""
    run_here(**job(tmp_path / "never", *settings))
    run_group([job(tmp_path / "run", *settings, "strategy=fsdp", stop_after=6)], tmp_path)
    run_here(**job(tmp_path / "run", *settings, stop_after=13))
    run_group([job(tmp_path / "run", *settings, "strategy=zero2")], tmp_path)
    compare(tmp_path / "run", tmp_path / "never", within=1e-5 if not settings else 0.1)
    hashes = [[line.split(",")[-1] for line in (tmp_path / f / "metrics.csv").read_text().splitlines()]
              for f in ("run", "never")]  # fmt: skip
    assert hashes[0] == hashes[1]


def test_what_is_kept(tmp_path):
    """The last ones, and the one with the lowest held-out loss."""
    folder = tmp_path / "run"
    settings = [*COMMON, f"run.dir={folder}", "checkpoint.every_steps=2", "checkpoint.keep=2", "heldout.every_steps=2"]
    run_here([*settings, "optimizer.lr=1.0", "optimizer.warmup_ratio=0.9", "optimizer.clip_norm=null"])
    kept = [c.step for c in find(folder / "checkpoints").complete]
    result = json.loads((folder / "result.json").read_text())
    best = min(result["heldout_by_step"], key=lambda s: result["heldout_by_step"][s] if s != "0" else 99)
    assert int(best) < 18, "the test needs a run that grows worse"
    assert kept == sorted({int(best), 18, 20})


def test_other_settings_are_refused_and_layout_is_not(tmp_path):
    """By name; `never` starts anew, `must` needs a checkpoint."""
    folder = tmp_path / "run"
    overrides = [*COMMON, f"run.dir={folder}", "checkpoint.every_steps=4", "trainer.max_steps=10"]
    run_here(overrides, stop_after=9)
    assert [c.step for c in find(folder / "checkpoints").complete] == [4, 8]
    with pytest.raises(RunError, match=r"other settings(.|\n)*resume=never:\n  optimizer\.lr: 0\.001 → 0\.002$"):
        run_here([*overrides, "optimizer.lr=2e-3", "tokens_per_device=512"])
    run_here([*overrides, "optimizer.lr=2e-3", "resume=never"], stop_after=5)
    assert [c.step for c in find(folder / "checkpoints").complete] == [4]
    for marker in (folder / "checkpoints").glob("*/*.json"):
        marker.unlink()
    with pytest.raises(RunError, match="holds no complete checkpoint; resume=auto"):
        run_here([*overrides, "optimizer.lr=2e-3", "resume=must"])


def test_other_conversations_are_noticed(tmp_path):
    """The config says the same, the file does not."""
    data = tmp_path / "data.jsonl"
    source = (Path(__file__).parents[1] / "vicuna_lit/quickstart/conversations.jsonl").read_text().splitlines()[:60]
    data.write_text("\n".join(source))
    overrides = [*COMMON, f"run.dir={tmp_path / 'run'}", f"data.path={data}", "checkpoint.every_steps=4"]
    run_here(overrides, stop_after=5)
    data.write_text("\n".join(source).replace("Vicuna", "Alpaca"))
    with pytest.raises(RunError, match=r"the conversations are not those of step-00000004: data\.path=.*holds others"):
        run_here(overrides)


def test_a_save_that_fails_does_not_end_the_run(tmp_path, monkeypatch, capsys):
    """It is said and counted; the next one is tried."""
    from vicuna_lit.train import checkpoint

    save, calls = checkpoint.save, []

    def full_disk(folder, step, *rest):
        calls.append(step)
        if step == 8:
            raise OSError(28, "No space left on device")
        return save(folder, step, *rest)

    monkeypatch.setattr(checkpoint, "save", full_disk)
    run_here(**job(tmp_path / "run"))
    assert calls == [4, 8, 12, 16, 20]
    assert [c.step for c in find(tmp_path / "run" / "checkpoints").complete] == [4, 12, 16, 20]
    assert json.loads((tmp_path / "run" / "result.json").read_text())["saves_failed"] == 1
    assert "the checkpoint of step 8 could not be written: [Errno 28]" in " ".join(capsys.readouterr().out.split())


def test_every_few_minutes(tmp_path, monkeypatch):
    """By the first rank's clock."""
    from vicuna_lit.train import recovery

    minutes = iter(range(10**6))
    monkeypatch.setattr(recovery.time, "monotonic", lambda: 60.0 * next(minutes))
    settings = ("checkpoint.every_steps=null", "checkpoint.every_minutes=6.5")
    run_here(**job(tmp_path / "run", *settings, "checkpoint.grace_seconds=1e9"))
    assert len(find(tmp_path / "run" / "checkpoints").complete) == 2


def test_no_randomness_in_a_step(tmp_path, monkeypatch):
    """Nothing but the step must be restored: training draws no random numbers."""
    from vicuna_lit.train.module import SupervisedModule

    states, step = [], SupervisedModule.training_step

    def watched(self, batch, batch_idx):
        states.append(torch.get_rng_state())
        loss = step(self, batch, batch_idx)
        states.append(torch.get_rng_state())
        return loss

    monkeypatch.setattr(SupervisedModule, "training_step", watched)
    run_here(**job(tmp_path / "run"))
    assert all(torch.equal(state, states[0]) for state in states)


def test_what_travels_in_a_step(tmp_path):
    """Per step, not per micro-batch: the gradient, the loss, and the flags of `preemption`."""
    run_group([job(tmp_path / "run", "strategy=ddp", "tokens_per_device=256", count_collectives=True)], tmp_path)
    counts = json.loads((tmp_path / "run" / "collectives.json").read_text())
    assert counts["accumulation"] > 1
    assert counts["all_reduce"] <= 2 * 20 + 10
    assert counts.get("broadcast", 0) <= 10
