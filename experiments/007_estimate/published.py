"""Predicted peaks against those that others have published for 7B and 13B models.

    python -m experiments.007_estimate.published      # writes published.csv

A published peak is `torch.cuda.max_memory_allocated` where its source says so; the prediction is then what tensors
hold, without fragmentation and CUDA's context.
"""

import sys
from pathlib import Path

import numpy as np

from experiments import tables
from vicuna_lit import load
from vicuna_lit.data.plan import ExampleLengths, plan_run
from vicuna_lit.estimate.memory import FRAGMENTATION, PROCESS, Memory, memory_of
from vicuna_lit.estimate.run import Estimator
from vicuna_lit.estimate.tables import gpu_named

LITGPT = "litgpt tutorials/resource-tables.md @b732986, max_memory_allocated, GB"
TITAN = "torchtitan benchmarks/llama3_h100_202412 @31a17bf, max_memory_reserved, GiB"
CHAT = "github.com/lm-sys/FastChat/issues/407, a user's nvidia-smi, GB"
GB, GIB = 1e9, 2**30
BARE = [
    "experiment=quickstart",
    "gradient_checkpointing=none",
    "precision=bf16-true",
    "master_weights=false",
    "attention=flash",
    "strategy=single",
    "count=1",
]
QV = ["finetune=lora", "finetune.rank=8", "finetune.targets=[q_proj,v_proj]"]
QV4 = ["finetune=qlora", "finetune.rank=8", "finetune.targets=[q_proj,v_proj]"]
FULL = ["experiment=quickstart", "model=llama_7b", "precision=bf16-mixed", "strategy=fsdp", "count=8"]
TITANS = ["experiment=quickstart", "model=llama3_8b", "precision=bf16-true", "strategy=fsdp"]

ROWS = [
    # name, overrides, tokens of each conversation of a row, published, unit, source
    ("Llama 2 7B, LoRA (q, v), 1 × 1,304 tokens", ["model=llama2_7b", *BARE, *QV], [1304], 21.30, GB, LITGPT),
    ("Llama 2 7B, LoRA (q, v), 2 × 1,304 tokens", ["model=llama2_7b", *BARE, *QV], [1304] * 2, 29.07, GB, LITGPT),
    ("Llama 2 13B, LoRA (q, v), 1 × 1,304 tokens", ["model=llama2_13b", *BARE, *QV], [1304], 38.12, GB, LITGPT),
    ("Llama 2 7B, QLoRA (q, v), 1 × 1,304 tokens", ["model=llama2_7b", *BARE, *QV4], [1304], 13.84, GB, LITGPT),
    ("Llama 2 13B, QLoRA (q, v), 1 × 1,304 tokens", ["model=llama2_13b", *BARE, *QV4], [1304], 22.55, GB, LITGPT),
    ("LLaMA 7B, all weights, FSDP on 8, 1 × 2,048 tokens", FULL, [2048], 30.0, GB, CHAT),
]  # fmt: skip


def main() -> None:
    rows = []
    for name, overrides, lengths, published, unit, source in ROWS:
        memory = peak(overrides, lengths)
        held = sum(v for part, v in memory.parts.items() if part not in (FRAGMENTATION, PROCESS))
        predicted = (memory.likely if "nvidia-smi" in source else held) / unit
        rows.append(row(name, published, predicted, unit, source))
    few, many = (peak([*TITANS, f"count={count}"], [8192, 8192], rows=1).low for count in (8, 128))
    rows.append(row("Llama 3.1 8B, all weights, FSDP: 8 GPUs less 128", 82.4 - 67.0, (few - many) / GIB, GIB, TITAN))
    tables.write(Path(__file__).parent / "published.csv", rows)


def peak(overrides: list[str], lengths: list[int], rows: int = 2) -> Memory:
    """Of so many rows a step of such conversations, all tokens supervised."""
    shape = [
        f"tokens_per_device={sum(lengths)}",
        f"context_length={max(lengths)}",
        "attention=flash",
        "lm_head=plain",
        "price=1",
    ]
    config = load("estimate", "experiment=vicuna", *overrides, *shape)
    count = len(lengths) * config.count * rows
    tokens = np.full(2 * count, max(lengths))
    sizes = ExampleLengths(tokens, tokens, np.arange(2 * count), np.zeros(2 * count, int))
    plan = plan_run(config.model_copy(update={"conversations_per_step": count}), sizes, config.count)
    return memory_of(config, plan, Estimator().model(config)[0], gpu_named(config.gpu).memory)


def row(name: str, published: float, predicted: float, unit: float, source: str) -> dict[str, object]:
    found = {"run": name, "published": round(published, 2), "predicted": round(predicted, 1)}
    found |= {"unit": "GB" if unit == GB else "GiB", "error": f"{predicted / published - 1:+.0%}", "source": source}
    print(found, file=sys.stderr)
    return found


if __name__ == "__main__":
    main()
