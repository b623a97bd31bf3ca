"""Phase C of `check.py`: the speed of a step, of the real job, and of the peers on the same rows of the same card."""

import csv
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from experiments.benchmarks.gpu.correctness import row as row_of
from experiments.benchmarks.gpu.found import Found
from experiments.benchmarks.gpu.run import write_conversations
from vicuna_lit import load
from vicuna_lit.config.base import PACKAGE
from vicuna_lit.data.batch import Batch
from vicuna_lit.models.causal_lm import SupervisedLM, build_model
from vicuna_lit.models.flops import Flops, flops_of
from vicuna_lit.train.gradients import clip_factor, scale, squared_norm
from vicuna_lit.train.optimizer import build_optimizer
from vicuna_lit.train.throughput import peak_flops

TOKENIZER = "package://vicuna_lit/quickstart/tokenizer"
ROW = 16_384
MIXED = ("precision=bf16-mixed",)
ALONE = ("precision=bf16-true", "master_weights=false", "optimizer.rounding=stochastic")
LEAST = ("precision=bf16-true", "master_weights=false", "optimizer.kind=adamw_8bit", "optimizer.rounding=stochastic")
OURS: list[tuple[str, int, tuple[str, ...]]] = [
    *(
        ("llama3_2_1b", context, (*MIXED, "gradient_checkpointing=full", "compile=true"))
        for context in (2048, 8192, 16_384)
    ),
    ("llama3_2_1b", 2048, (*MIXED, "gradient_checkpointing=full", "lm_head=exact")),
    ("llama3_2_1b", 2048, (*MIXED, "gradient_checkpointing=full")),
    ("llama3_2_1b", 2048, (*MIXED, "gradient_checkpointing=full", "kernels=liger")),
    ("llama3_2_1b", 2048, (*MIXED, "gradient_checkpointing=none", "compile=true")),
    ("llama3_2_1b", 0, (*MIXED, "gradient_checkpointing=full", "compile=true")),
    *(("llama3_2_3b", context, (*MIXED, "gradient_checkpointing=full", "compile=true")) for context in (2048, 16_384)),
    *(("llama3_1_8b", context, (*LEAST, "gradient_checkpointing=full", "compile=true")) for context in (2048, 16_384)),
    ("llama3_1_8b", 2048, (*ALONE, "optimizer.kind=adafactor", "gradient_checkpointing=full", "compile=true")),
]
"""Recipe, tokens of each conversation of a row (0: lengths of ShareGPT's), settings; what matters most comes first."""
PEERS = [("llama3_2_1b", 2048), ("llama3_2_1b", 16_384), ("llama3_2_3b", 2048)]


def lengths_of(context: int, row: int) -> tuple[int, ...]:
    """Of a row's conversations."""
    if context:
        return (context,) * (row // context)
    with (PACKAGE / "estimate" / "sharegpt_lengths.csv").open() as file:
        sizes = [min(int(r["tokens"]), 2048) for r in csv.DictReader(line for line in file if not line.startswith("#"))]
    taken: list[int] = []
    for size in sizes:
        if sum(taken) + size > row:
            break
        taken.append(size)
    return tuple(taken)


def flops_of_row(flops: Flops, batch: Batch) -> float:
    """Useful ones, forward and backward: recomputation and padding count nothing."""
    pieces = (batch.labels[0, 1:] != -100).split([*batch.lengths[:-1], batch.lengths[-1] - 1])
    supervised = np.array([int(piece.sum()) for piece in pieces])
    return float(flops.of_conversations(np.array(batch.lengths), supervised).sum())


def figures(tokens: int, flops: float | None, seconds: float, peak: float | None) -> dict[str, Any]:
    """Per second; MFU where the card's peak is known."""
    found: dict[str, Any] = {"tokens_per_second": tokens / seconds, "ms": seconds * 1e3}
    if flops:
        found["tflops"] = flops / seconds / 1e12
        found["mfu"] = flops / seconds / peak if peak else None
    if torch.cuda.is_available():
        found |= {
            "gib": torch.cuda.max_memory_allocated() / 2**30,
            "reserved_gib": torch.cuda.max_memory_reserved() / 2**30,
        }
    return found


def timed(found: Found, name: str, context: int, overrides: Sequence[str]) -> dict[str, Any]:
    """The median of four optimizer steps of one row, behind two that warm up."""
    recipe = ["model=tiny"] if found.tiny else [f"model={name}", "model.kind=scratch", f"model.tokenizer={TOKENIZER}"]
    at_least = max(context, 2048)
    config = load(
        "train",
        "experiment=vicuna",
        *recipe,
        "data=quickstart",
        f"context_length={256 if found.tiny else at_least}",
        *overrides,
    )
    with torch.device(found.device):
        model = build_model(config, None if not found.tiny else encoder(config), found.device)
    lm = SupervisedLM.of(model, config)
    row = 512 if found.tiny else ROW
    batch = row_of(lengths_of(min(context, 128) if found.tiny else context, row), lm.head.weight.shape[0])
    if found.device == "cuda":
        batch = batch.pin_memory()
        torch.cuda.reset_peak_memory_stats()
    trained = [p for p in lm.parameters() if p.requires_grad]
    optimizer = build_optimizer(trained, config.optimizer, "masters" if config.master_weights else "alone", 0)
    flops = flops_of(model)

    def step() -> None:
        (lm(SupervisedLM.row_loss, batch.to(found.device, non_blocking=True)) / batch.denominator).backward()
        gradients: list[Any] = [p.grad for p in trained if p.grad is not None]
        scale(gradients, clip_factor(torch.stack([squared_norm(g) for g in gradients]).sum().sqrt(), 1.0))
        optimizer.step()
        optimizer.zero_grad()

    taken = []
    for _ in range(6):
        start = time.perf_counter()
        step()
        if found.device == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    seconds = sorted(taken[2:])[len(taken[2:]) // 2]
    useful = flops and flops_of_row(flops, batch)
    return figures(sum(batch.lengths), useful, seconds, peak_flops(config)) | {"warm_up_s": taken[0]}


def encoder(config: Any) -> Any:
    """For the tiny recipe, whose vocabulary is the tokenizer's."""
    from vicuna_lit import make_encoder

    return make_encoder(config)


def ours(found: Found) -> None:
    """Each in a process's memory that the one before has left."""
    lines = (
        [("tiny", 128, ("precision=fp32", "gradient_checkpointing=full")), ("tiny", 0, ("precision=fp32",))]
        if found.tiny
        else OURS
    )
    for name, context, overrides in lines:
        what = f"ours {name} {context or 'ShareGPT lengths'} {' '.join(overrides)}"
        if "kernels=liger" in overrides and not find_spec("liger_kernel"):
            found.add(what, True, lacking="liger-kernel")
            continue
        found.attempt(what, lambda n=name, c=context, o=overrides: timed(found, n, c, o), lambda _: True)
        if found.device == "cuda":
            torch.cuda.empty_cache()


def job(found: Found) -> None:
    """The command that users run, once: what Lightning, the data and the books cost beside the step alone."""
    context = 256 if found.tiny else 8192
    data = found.folder / f"{context}.jsonl"
    write_conversations(data, context)
    recipe = (
        ["model=tiny"] if found.tiny else ["model=llama3_2_1b", "model.kind=scratch", f"model.tokenizer={TOKENIZER}"]
    )
    settings = [
        "experiment=vicuna", *recipe, f"data={data}", f"context_length={context}", "data.validation_fraction=0",
        f"tokens_per_device={512 if found.tiny else ROW}", "conversations_per_step=8", "trainer.max_steps=6",
        "samples.questions=[]", "wandb.mode=disabled", f"precision={'fp32' if found.tiny else 'bf16-mixed'}",
        f"run.dir={found.folder / 'job'}",
    ]  # fmt: skip

    def command() -> dict[str, Any]:
        done = subprocess.run([sys.executable, "-m", "vicuna_lit.train", *settings], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1][:200])
        result = json.loads((found.folder / "job" / "result.json").read_text())
        keys = ("step_seconds", "mfu", "model_tflops_per_second", "peak_memory_bytes", "peak_memory_reserved_bytes")
        return {key: result[key] for key in keys} | {"waited_for_data": result["lost_time"]["data"]}

    found.attempt("job llama3_2_1b", command, lambda f: f["step_seconds"] > 0)


def peers(found: Found) -> None:
    """transformers' Trainer and TRL's SFTTrainer with Liger's kernels, on dense rows of as many tokens."""
    for name, context in [("tiny", 128)] if found.tiny else PEERS:
        for peer in ("trainer", "trl"):

            def job(name: str = name, context: int = context, peer: str = peer) -> dict[str, Any]:
                return timed_peer(found, name, context, peer)

            found.attempt(f"{peer} {name} {context}", job, lambda _: True)
            if found.device == "cuda":
                torch.cuda.empty_cache()


def timed_peer(found: Found, name: str, context: int, peer: str) -> dict[str, Any]:
    """Its own loop, six steps; the time from the end of one to the end of the next, the median of the last three."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    if peer == "trl" and not (find_spec("trl") and find_spec("datasets")):
        return {"lacking": "trl and datasets"}
    recipe = ["model=tiny"] if found.tiny else [f"model={name}", "model.kind=scratch", f"model.tokenizer={TOKENIZER}"]
    config = load("train", "experiment=vicuna", *recipe, "data=quickstart", f"context_length={context}", *MIXED)
    model: Any = build_model(config, encoder(config) if found.tiny else None, found.device)
    flops = flops_of(model)
    model.set_attn_implementation("sdpa")
    rows = (512 if found.tiny else ROW) // context
    batch = row_of((context,) * rows, model.config.vocab_size)
    one = [
        {"input_ids": i.tolist(), "labels": y.tolist()}
        for i, y in zip(batch.input_ids[0].split(context), batch.labels[0].split(context), strict=True)
    ]
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            if found.device == "cuda":
                torch.cuda.synchronize()
            ends.append(time.perf_counter())

    settings: dict[str, Any] = dict(
        output_dir=str(found.folder / peer), per_device_train_batch_size=rows, max_steps=6, bf16=not found.tiny,
        gradient_checkpointing=True, use_liger_kernel=bool(find_spec("liger_kernel")) and found.device == "cuda",
        optim="adamw_torch_fused", report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True,
        use_cpu=found.device == "cpu",
    )  # fmt: skip
    if found.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    if peer == "trl":
        from datasets import Dataset  # pyright: ignore[reportMissingImports]
        from transformers import AutoTokenizer
        from trl import SFTConfig, SFTTrainer  # pyright: ignore[reportMissingImports]

        tokenizer = AutoTokenizer.from_pretrained(PACKAGE / "quickstart" / "tokenizer")
        tokenizer.pad_token = tokenizer.eos_token
        arguments = SFTConfig(**settings, max_length=None)
        trainer: Any = SFTTrainer(
            model, arguments, train_dataset=Dataset.from_list(one * 6), processing_class=tokenizer, callbacks=[Clock()]
        )
    else:

        def stack(some: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
            return {key: torch.tensor([row[key] for row in some]) for key in some[0]}

        data: Any = one * 6
        trainer = Trainer(
            model, TrainingArguments(**settings), train_dataset=data, data_collator=stack, callbacks=[Clock()]
        )
    trainer.train()
    taken = [b - a for a, b in pairwise(ends[2:])]
    useful = flops and flops_of_row(flops, batch)
    said = figures(sum(batch.lengths), useful, sorted(taken)[len(taken) // 2], peak_flops(config))
    return said | {"liger": settings["use_liger_kernel"]}
