"""Phase B of `check.py`: the command, with every strategy, stopped and resumed, and every way to finetune."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.benchmarks.gpu.found import Found
from vicuna_lit.train.preemption import PREEMPTED
from vicuna_lit.train.times import lost_time

STRATEGIES = ("single", "ddp", "fsdp", "fsdp_offload", "zero1", "zero2", "zero3", "zero3_offload")
FINETUNES = {
    "lora": ("finetune=lora",),
    "qlora": ("finetune=qlora",),
    "last_layers": ("finetune=last_layers", "finetune.layers=1"),
    "adamw_8bit": ("optimizer.kind=adamw_8bit",),
    "adafactor": ("optimizer.kind=adafactor",),
    "masters": ("precision=bf16-true",),
    "bf16_alone_by_chance": ("precision=bf16-true", "master_weights=false", "optimizer.rounding=stochastic"),
    "compiled": ("compile=true",),
    "offloaded_activations": ("offload_activations=true",),
}


class Jobs:
    """Runs of the train job on the quickstart's conversations, a few at a time on one card, so none is timed, and none
    but the one for it waits for the compiler."""

    def __init__(self, found: Found):
        self.found, self.folder = found, found.folder / "runs"
        self.steps = 6 if found.tiny else 12
        self.at_once = 1 if found.tiny else 6

    def start(self, name: str, overrides: Sequence[str], strategy: str = "single") -> subprocess.Popen[bytes]:
        """Strategies of several processes get one, under torchrun: so that NCCL is what they talk by."""
        one_process = ["torch.distributed.run", "--standalone", "--nproc-per-node=1", "-m"]
        torchrun = [] if strategy == "single" else one_process
        few = ["context_length=256", "conversations_per_step=4"] if self.found.tiny else ["precision=bf16-mixed"]
        folder = self.folder / name
        folder.parent.mkdir(parents=True, exist_ok=True)
        settings = [
            "experiment=quickstart", f"trainer.max_steps={self.steps}", "checkpoint.every_steps=4",
            f"strategy={strategy}", "samples.every=4", "samples.max_new_tokens=4", "validation.every_steps=6",
            "compile=false", "wandb.mode=disabled", *few, *overrides, f"run.dir={folder}",
        ]  # fmt: skip
        with folder.with_suffix(".log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *torchrun, "vicuna_lit.train", *settings],
                stdout=log,
                stderr=log,
                env=os.environ | ({"OMP_NUM_THREADS": "1"} if self.found.tiny else {}),
            )

    def run(self, jobs: dict[str, tuple[Sequence[str], str]]) -> dict[str, int]:
        """Exit codes by name."""
        left, running, codes = dict(jobs), {}, {}
        while left or running:
            while left and len(running) < self.at_once:
                name = next(iter(left))
                running[name] = self.start(name, *left.pop(name))
            for name in [name for name, process in running.items() if process.poll() is not None]:
                codes[name] = running.pop(name).returncode
            time.sleep(0.1)
        return codes

    def rows(self, name: str) -> list[dict[str, str]]:
        """Of metrics.csv; none before there is one."""
        file = self.folder / name / "metrics.csv"
        return list(csv.DictReader(file.open())) if file.exists() else []

    def losses(self, name: str) -> list[float]:
        """Step by step."""
        return [float(row["loss"]) for row in self.rows(name)]

    def last_words(self, name: str) -> str:
        """Why it failed, as far as it said."""
        lines = (self.folder / f"{name}.log").read_text(errors="replace").strip().splitlines() or ["?"]
        said = [line for line in lines if line.startswith("error")] or [line for line in lines if "rror" in line]
        return (said or lines)[-1][:200]

    def apart(self, name: str, other: str) -> float:
        """The largest relative difference of two curves."""
        pairs = zip(self.losses(name), self.losses(other), strict=True)
        return max(abs(a - b) / abs(b) for a, b in pairs)


def strategies(found: Found) -> None:
    """Every strategy gives the curve of `single`, and what it exports opens; time is booked to what it was spent on."""
    jobs = Jobs(found)
    names = STRATEGIES[:3] if found.tiny else STRATEGIES
    codes = jobs.run({name: ((), name) for name in names})
    for name in names:
        if codes[name]:
            found.add(f"strategy {name}", False, exit=codes[name], said=jobs.last_words(name))
            continue

        def job(name: str = name) -> dict[str, Any]:
            lost = lost_time(jobs.folder / name)
            assert lost is not None
            return {
                "apart": jobs.apart(name, "single"),
                "waited_for_data": lost.data / max(lost.useful, 1e-9),
            } | opened(jobs.folder / name)

        most = 1e-5 if found.device == "cpu" else 2e-3
        found.attempt(
            f"strategy {name}",
            job,
            lambda f, m=most: f["apart"] < m and f["waited_for_data"] < (1 if found.tiny else 0.05) and f["opens"],
        )


def opened(folder: Path) -> dict[str, Any]:
    """Whether plain transformers opens what was exported, and gives finite logits."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder / "hf")
    with torch.no_grad():
        return {"opens": bool(model(input_ids=torch.arange(5, 25)[None]).logits.isfinite().all())}


def stops(found: Found) -> None:
    """Stopped by SIGTERM and resumed: to the bit with `deterministic`, across strategies to rounding."""
    jobs, exact = Jobs(found), ("deterministic=true",)
    never: dict[str, tuple[Sequence[str], str]] = {"never": (exact, "single")}
    if not found.tiny:
        never["unsteady"] = ((), "single")
    codes = jobs.run(never)
    if any(codes.values()):
        found.add("stops", False, exit=codes, said=jobs.last_words("never"))
        return
    for name, settings, after in (
        ("stopped_deterministic", exact, "single"),
        ("stopped", (), "single"),
        ("stopped_then_fsdp", exact, "fsdp"),
    ):
        reference = "never" if settings else "unsteady"
        if reference not in never:
            continue

        def job(
            name: str = name, settings: Any = settings, after: str = after, reference: str = reference
        ) -> dict[str, Any]:
            process = jobs.start(name, settings)
            while process.poll() is None and len(jobs.rows(name)) < 2:
                time.sleep(0.02)
            process.send_signal(signal.SIGTERM)
            first = process.wait()
            done = len(jobs.rows(name))
            second = jobs.run({name: (settings, after)})[name]
            if second:
                return {"exit": [first, second], "said": jobs.last_words(name), "apart": math.inf}
            same = (jobs.folder / name / "metrics.csv").read_bytes() == (
                jobs.folder / reference / "metrics.csv"
            ).read_bytes()
            return {"exit": [first, second], "after": done, "same_bits": same, "apart": jobs.apart(name, reference)}

        def passes(f: dict[str, Any], name: str = name, after: str = after, settings: Any = settings) -> bool:
            right = f["exit"] == [PREEMPTED, 0] and f["apart"] < 2e-3
            return right and (f["same_bits"] or after != "single" or not settings)

        found.attempt(name, job, passes)


def finetunes(found: Found) -> None:
    """From a folder: what each way trains, its loss falls or stays, and what it exports opens."""
    jobs = Jobs(found)
    base = jobs.run({"base": ((), "single")})["base"]
    if base:
        found.add("base", False, exit=base, said=jobs.last_words("base"))
        return
    folder = jobs.folder / "base" / "hf"
    chosen = {k: v for k, v in FINETUNES.items() if not found.tiny or k in ("lora", "adafactor")}
    of_folder = ("model=local", f"model.path={folder}", "optimizer.lr=1e-4")
    codes = jobs.run({name: ((*of_folder, *settings), "single") for name, settings in chosen.items()})
    for name in chosen:
        if codes[name]:
            found.add(f"finetune {name}", False, exit=codes[name], said=jobs.last_words(name))
            continue

        def job(name: str = name) -> dict[str, Any]:
            result = json.loads((jobs.folder / name / "result.json").read_text())
            before, after = result["val_loss_before"], result["val_loss"]
            return {"validation_before": before, "validation": after} | opened(jobs.folder / name)

        found.attempt(f"finetune {name}", job, lambda f: f["validation"] < 1.02 * f["validation_before"] and f["opens"])
