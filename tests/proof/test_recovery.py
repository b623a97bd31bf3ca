"""An interrupted run ends as if it had never been: to the bit on the same layout, to rounding on another."""

import json
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open

from tests.helpers.group import run_group
from tests.helpers.runs import COMMON, compare, run_here, weights
from tests.proof.test_preemption import told_at
from vicuna_lit.run_folder import RunError
from vicuna_lit.train.checkpoint.format import find

STEPS = 12
SAVES = (f"trainer.max_steps={STEPS}", "checkpoint.every_steps=4", "checkpoint.keep=9")
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
    """Metrics with their ledger, validation losses, optimizer state and weights."""
    for name in ("metrics.csv", "validation.csv"):
        assert (folder / name).read_bytes() == (never / name).read_bytes()
    ours, theirs = weights(folder), weights(never)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    ours, theirs = state(folder, STEPS), state(never, STEPS)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    ours, theirs = (json.loads((f / "result.json").read_text()) for f in (folder, never))
    assert ours["validation"] == theirs["validation"]


BY_CHANCE = ("master_weights=false", "optimizer.rounding=stochastic")
OPTIMIZERS = {"adafactor": ("optimizer.kind=adafactor", "optimizer.lr=0.1"), "8 bits": ("optimizer.kind=adamw_8bit",)}
ONE_PROCESS = {
    "plain": (),
    "masters, 8 bits": (*BF16, *OPTIMIZERS["8 bits"]),
    "bf16": BF16,
    "bf16 without masters": (*BF16, "master_weights=false"),
    "bf16 alone, by chance": (*BF16, *BY_CHANCE, "tokens_per_device=256"),
    "bf16 alone, by chance, 8 bits": (*BF16, *BY_CHANCE, *OPTIMIZERS["8 bits"]),
    "bf16 alone, by chance, adafactor": (*BF16, *BY_CHANCE, *OPTIMIZERS["adafactor"]),
    "bf16-mixed": ("precision=bf16-mixed",),
    "lora": LORA,
    **OPTIMIZERS,
    "masters, adafactor": (*BF16, *OPTIMIZERS["adafactor"]),
    "several rows a step": ("tokens_per_device=256",),
    "without packing, many validations": ("packing=false", "validation.every_steps=2"),
}


def first_are_quick(cases: Iterable[str], quick: int) -> list[Any]:
    return [pytest.param(case, marks=[pytest.mark.slow] if i >= quick else []) for i, case in enumerate(cases)]


@pytest.mark.parametrize("case", first_are_quick(ONE_PROCESS, 1))
@pytest.mark.promise(
    "A run that is stopped and goes on gives the same metrics, weights and optimizer state to the bit: fp32, bf16, "
    "LoRA, 8-bit AdamW, Adafactor; on one process and on two"
)
def test_one_process(case, tmp_path):
    """Stopped three times, right behind a save, before the first, and between two."""
    settings = ONE_PROCESS[case]
    run_here(**job(tmp_path / "never", *settings))
    for stop_after in (2, 8, 11, None):
        run_here(**job(tmp_path / "often", *settings, stop_after=stop_after))
    identical(tmp_path / "often", tmp_path / "never")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "zero2"])
@pytest.mark.promise(
    "A run that is stopped and goes on gives the same metrics, weights and optimizer state to the bit: fp32, bf16, "
    "LoRA, 8-bit AdamW, Adafactor; on one process and on two"
)
def test_two_processes(strategy, tmp_path):
    """In fp32 and bf16, with adapters, and rounded by chance; stopped before the first save and between two."""
    jobs = []
    kinds = {"fp32": (), "bf16": BF16, "lora": LORA} | ({"chance": (*BF16, *BY_CHANCE)} if strategy == "ddp" else {})
    for name, settings in kinds.items():
        chosen = (f"strategy={strategy}", *settings)
        jobs.append(job(tmp_path / f"{name}-never", *chosen))
        often = tmp_path / f"{name}-often"
        jobs += [job(often, *chosen, stop_after=n, slow_saves=name == "fp32") for n in (3, 10, None)]
    run_group(jobs, tmp_path)
    for name in kinds:
        identical(tmp_path / f"{name}-often", tmp_path / f"{name}-never")


@pytest.mark.slow
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
@pytest.mark.promise("A run goes on under any other strategy and any number of processes, to 1e-5")
def test_from_any_layout_to_any_other(tmp_path):
    """One run through every strategy, on two processes and on one; then each back to one, and from one to each."""
    run_here(**job(tmp_path / "never"))
    two = ["ddp", "fsdp", "fsdp_offload", "zero1", "zero2", "zero3", "zero3_offload"]
    run_here(**job(tmp_path / "all", stop_after=2))
    jobs = [job(tmp_path / "all", f"strategy={s}", "checkpoint.every_steps=1", stop_after=3 + i)
            for i, s in enumerate(two)]  # fmt: skip
    for strategy in two:
        run_here(**job(tmp_path / f"to-{strategy}", stop_after=9))
        jobs.append(job(tmp_path / f"to-{strategy}", f"strategy={strategy}"))
        jobs.append(job(tmp_path / f"from-{strategy}", f"strategy={strategy}", stop_after=9))
    run_group(jobs, tmp_path)
    run_here(**job(tmp_path / "all", "tokens_per_device=256"))
    compare(tmp_path / "all", tmp_path / "never", steps=STEPS)
    for strategy in two:
        run_here(**job(tmp_path / f"from-{strategy}"))
        compare(tmp_path / f"to-{strategy}", tmp_path / "never", steps=STEPS)
        compare(tmp_path / f"from-{strategy}", tmp_path / "never", steps=STEPS)


@pytest.mark.parametrize("settings", [(), pytest.param(BF16, marks=pytest.mark.slow)], ids=["fp32", "bf16"])
@pytest.mark.promise("A run goes on under any other strategy and any number of processes, to 1e-5")
def test_two_processes_to_one_and_back(settings, tmp_path):
    """The same conversations in the same steps, the losses to rounding."""
    run_here(**job(tmp_path / "never", *settings))
    run_group([job(tmp_path / "run", *settings, "strategy=fsdp", stop_after=6)], tmp_path)
    run_here(**job(tmp_path / "run", *settings, stop_after=9))
    run_group([job(tmp_path / "run", *settings, "strategy=zero2")], tmp_path)
    compare(tmp_path / "run", tmp_path / "never", within=1e-5 if not settings else 0.1, steps=STEPS)
    hashes = [[line.split(",")[-1] for line in (tmp_path / f / "metrics.csv").read_text().splitlines()]
              for f in ("run", "never")]  # fmt: skip
    assert hashes[0] == hashes[1]


def test_what_is_kept(tmp_path):
    """The last ones, and the one with the lowest validation loss."""
    folder = tmp_path / "run"
    settings = [
        *COMMON,
        f"run.dir={folder}",
        "checkpoint.every_steps=2",
        "checkpoint.keep=2",
        "validation.every_steps=2",
    ]
    run_here([*settings, "optimizer.lr=1.0", "optimizer.warmup_ratio=0.9", "optimizer.clip_norm=null"])
    kept = [c.step for c in find(folder / "checkpoints").complete]
    result = json.loads((folder / "result.json").read_text())
    best = min(result["val_by_step"], key=lambda s: result["val_by_step"][s] if s != "0" else 99)
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
    source = (Path(__file__).parents[2] / "vicuna_lit/quickstart/conversations.jsonl").read_text().splitlines()[:60]
    data.write_text("\n".join(source))
    overrides = [*COMMON, f"run.dir={tmp_path / 'run'}", f"data.path={data}", "checkpoint.every_steps=4"]
    run_here(overrides, stop_after=5)
    data.write_text("\n".join(source).replace("Vicuna", "Alpaca"))
    with pytest.raises(RunError, match=r"changed since it began; .*resume=never starts anew:\n  .*data\.jsonl is not"):
        run_here(overrides)


FAILURES = {
    "the disk is full": (OSError(28, "No space left on device"), "[Errno 28]"),
    "the device": (RuntimeError("CUDA error: an illegal memory access was encountered"), "RuntimeError('CUDA error"),
    "a dtype that files do not have": (KeyError(torch.complex32), "KeyError(torch.complex32)"),
    "the thread ends": (SystemExit(1), "SystemExit(1)"),
}


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException, *at: int) -> list[int]:
    """Saves of some steps fail, each time but the last that is asked for; returns the steps that were tried."""
    from vicuna_lit.train.checkpoint import format as checkpoint

    save, calls, left = checkpoint.save, [], list(at)

    def fails(folder, step, *rest):
        calls.append(step)
        if step in left:
            left.remove(step)
            raise error
        return save(folder, step, *rest)

    monkeypatch.setattr(checkpoint, "save", fails)
    return calls


@pytest.mark.parametrize("case", first_are_quick(FAILURES, 1))
def test_a_save_that_fails_does_not_end_the_run(case, tmp_path, monkeypatch, capsys):
    """It is said and counted; the next one is tried."""
    error, said = FAILURES[case]
    calls = failing(monkeypatch, error, 8)
    run_here(**job(tmp_path / "run"))
    assert calls == [4, 8, 12]
    assert [c.step for c in find(tmp_path / "run" / "checkpoints").complete] == [4, 12]
    assert json.loads((tmp_path / "run" / "result.json").read_text())["saves_failed"] == 1
    out = " ".join(capsys.readouterr().out.split())
    assert f"the checkpoint of step 8 could not be written: {said}" in out


def test_a_stop_names_what_all_ranks_have_on_disk(tmp_path, monkeypatch):
    """Another one could not save step 8."""
    monkeypatch.setattr("vicuna_lit.train.callbacks.checkpointing.all_gather_object", lambda ours: [ours, ours - {8}])
    told_at(monkeypatch, lambda where, step, _: where == "validation" and step == 8)
    run_here(**job(tmp_path / "run", "validation.every_steps=8"))
    assert json.loads((tmp_path / "run" / "result.json").read_text())["steps"] == 4


@pytest.mark.parametrize(("times", "claimed"), [(1, 8), (2, 4)])
def test_what_a_stop_says_to_be_saved_is_on_disk(times, claimed, tmp_path, monkeypatch):
    """The newest save fails as the signal comes: it is tried once more, and never claimed without being there."""
    calls = failing(monkeypatch, RuntimeError("CUDA error"), *[8] * times)
    # The signal comes when step 8 is being saved; the next look at it is the validation's behind that step.
    seen = told_at(monkeypatch, lambda where, step, _: where == "validation" and step == 8)
    run_here(**job(tmp_path / "run", "validation.every_steps=8"))
    assert seen
    assert calls == [4, 8, 8]
    stopped = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (stopped["status"], stopped["steps"]) == ("preempted", claimed)
    assert find(tmp_path / "run" / "checkpoints").complete[-1].step == claimed


def test_every_few_minutes(tmp_path, monkeypatch):
    """By the first rank's clock."""
    from vicuna_lit.train.callbacks import checkpointing as recovery

    minutes = iter(range(10**6))
    monkeypatch.setattr(recovery, "time", SimpleNamespace(monotonic=lambda: 60.0 * next(minutes)))  # of nobody else
    settings = ("checkpoint.every_steps=null", "checkpoint.every_minutes=6.5", "trainer.max_steps=20")
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


@pytest.mark.slow
def test_what_travels_in_a_step(tmp_path):
    """Per step, not per micro-batch: the gradient, the loss, and the flags of `preemption`."""
    run_group([job(tmp_path / "run", "strategy=ddp", "tokens_per_device=256", count_collectives=True)], tmp_path)
    counts = json.loads((tmp_path / "run" / "collectives.json").read_text())
    assert counts["accumulation"] > 1
    assert counts["all_reduce"] <= 2 * STEPS + 10
    assert counts.get("broadcast", 0) <= 10
