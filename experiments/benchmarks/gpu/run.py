"""Speed, MFU and peak memory of 7B and 13B on the GPUs of this machine, beside published figures.

    python experiments/benchmarks/gpu/run.py           # 7B and 13B, contexts 2K to 16K, every attention
    python experiments/benchmarks/gpu/run.py --models llama_7b --contexts 2048 --attention varlen,flash
    python experiments/benchmarks/gpu/run.py --tiny    # any machine: shows that it runs

Every line is the real job (`vicuna_lit.train` under torchrun, one process per GPU) with random weights and
random conversations, for a few steps. MFU counts what is useful, and nothing twice:
6 FLOPs for each weight of the decoder and token, 6 for each weight of the head and supervised token, and
6 · layers · width · Σℓ² for causal attention within conversations; recomputation and padding count nothing.
"""

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from vicuna_lit import load, make_encoder
from vicuna_lit.data.datamodule import ConversationDataModule
from vicuna_lit.models.causal_lm import build_model
from vicuna_lit.records.conversation import Conversation, write_jsonl
from vicuna_lit.train import throughput

TOKENIZER = "package://vicuna_lit/quickstart/tokenizer"
STEPS, CONVERSATIONS = 6, 16
PUBLISHED = {
    ("llama_7b", 2048): "68% fms-fsdp, 64.2% llm-foundry (8×A100); 46.4% llm-foundry (8×H100)",
    ("llama_7b", 4096): "54.8% llm-foundry (8×A100); 40.4% llm-foundry (8×H100)",
    ("llama_7b", 16384): "52.0% llm-foundry (8×A100)",
    ("llama_13b", 2048): "61% fms-fsdp, 59.6% llm-foundry (8×A100)",
}
"""MFU over dense tokens in bf16, as published with fms-fsdp and llm-foundry."""


def settings(model: str, context: int, strategy: str, attention: str, folder: Path, devices: int) -> list[str]:
    """One line's overrides of the train job."""
    size = ["model=tiny"] if model == "tiny" else [f"model={model}", "model.kind=scratch"]
    return [
        *size, f"model.tokenizer={TOKENIZER}", "model.rope_scaling=linear", f"strategy={strategy}",
        f"attention={attention}", f"context_length={context}", f"tokens_per_device={max(context, 8192)}",
        f"conversations_per_step={CONVERSATIONS}", f"trainer.max_steps={STEPS}", f"trainer.devices={devices}",
        "precision=bf16-mixed", "gradient_checkpointing=full", f"data={folder / f'{context}.jsonl'}",
        "data.validation_fraction=0", "samples.questions=[]", "wandb.mode=disabled", "optimizer.lr=1e-5",
    ]  # fmt: skip


def write_conversations(file: Path, context: int) -> None:
    """Random words; a quarter of the context to all of it, in two exchanges."""
    dice = random.Random(0)
    words = ["model", "answer", "question", "weather", "number", "write", "the", "a", "of", "and"]

    def text(tokens: int) -> str:
        return " ".join(dice.choices(words, k=max(1, tokens // 3)))

    def conversation() -> Conversation:
        n = dice.randint(context // 4, context * 3 // 4) // 4
        return Conversation.of(text(n), text(n), text(n), text(n))

    write_jsonl((conversation() for _ in range(STEPS * CONVERSATIONS)), file)


def useful_flops(overrides: list[str], devices: int) -> tuple[float, int]:
    """FLOPs and tokens of the whole run."""
    config = load("train", *overrides)
    encoder = make_encoder(config)
    data = ConversationDataModule(config, encoder, world_size=devices)
    data.setup()
    model = build_model(config, encoder, "meta")
    c, head = model.config, model.get_output_embeddings().weight.numel()  # pyright: ignore[reportOptionalMemberAccess]
    decoder = sum(p.numel() for p in model.base_model.layers.parameters())  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
    taken = [i for step in data.plan.step_examples for i in step]
    squares = float((data.plan.lengths[taken].astype(float) ** 2).sum())
    tokens, supervised = int(data.plan.step_tokens.sum()), int(data.plan.step_supervised.sum())
    flops = 6 * decoder * tokens + 6 * head * supervised + 6 * c.num_hidden_layers * c.hidden_size * squares
    return flops, tokens


def train(overrides: list[str], folder: Path, devices: int) -> dict[str, Any]:
    """The run's result.json, or what stopped it."""
    run = Path(tempfile.mkdtemp(dir=folder)) / "run"
    torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={devices}", "-m"]
    command = [sys.executable, "-m", *(torchrun if devices > 1 else []), "vicuna_lit.train", *overrides]
    done = subprocess.run(
        [*command, f"run.dir={run}"], capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"}
    )
    if done.returncode:
        wrong = [line for line in done.stderr.splitlines() if "rror" in line or "out of memory" in line]
        return {"error": (wrong or done.stderr.splitlines() or ["?"])[0][:90]}
    return json.loads((run / "result.json").read_text())


def peak_flops(arguments: argparse.Namespace) -> float | None:
    """Dense bf16 FLOPs per second of one device."""
    if arguments.peak_tflops:
        return arguments.peak_tflops * 1e12
    return throughput.peak_flops(load("train", "precision=bf16-mixed"))


def main() -> None:
    """Prints a line for every combination as soon as it is measured."""
    parser = argparse.ArgumentParser()
    names = {"models": "llama_7b,llama_13b", "contexts": "2048,4096,8192,16384", "strategies": "fsdp,zero3",
             "attention": "sdpa_per_conversation,varlen,flash,flex"}  # fmt: skip
    for name, default in names.items():
        parser.add_argument(f"--{name}", default=default)
    parser.add_argument("--peak-tflops", type=float, help="of one device, where it is not known")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, two processes, on any machine")
    arguments = parser.parse_args()
    devices = torch.cuda.device_count()
    if arguments.tiny:
        devices = devices or 2
        arguments.models, arguments.contexts, arguments.attention = "tiny", "256", "sdpa_per_conversation"
        arguments.strategies = "fsdp"
    elif not devices:
        sys.exit("no NVIDIA GPU here; --tiny shows that the script runs")
    peak = peak_flops(arguments)
    print(f"{devices} × {torch.cuda.get_device_name() if torch.cuda.is_available() else 'CPU process'}, "
          f"{f'{peak / 1e12:.0f} TFLOP/s' if peak else 'peak unknown: --peak-tflops'}\n")  # fmt: skip
    print("| model | context | strategy | attention | tokens/s | MFU, useful | peak memory, GiB | published MFU |")
    print("|---|---|---|---|---|---|---|---|")
    grid = [getattr(arguments, name).split(",") for name in names]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for context in map(int, grid[1]):
            write_conversations(folder / f"{context}.jsonl", context)
        for model, context, strategy, attention in itertools.product(grid[0], map(int, grid[1]), grid[2], grid[3]):
            single = "single" if devices == 1 else strategy
            overrides = settings(model, context, single, attention, folder, devices)
            flops, tokens = useful_flops(overrides, devices)
            result = train(overrides, folder, devices)
            published = PUBLISHED.get((model, context), "–")
            if "error" in result:
                cells = [result["error"], "–", "–"]
            else:
                seconds = result["step_seconds"] * STEPS
                mfu = f"{flops / seconds / (peak * devices):.1%}" if peak else "–"
                cells = [f"{tokens / seconds:,.0f}", mfu, f"{result['peak_memory_bytes'] / 2**30:.1f}"]
            print(f"| {model} | {context:,} | {single} | {attention} | {' | '.join(cells)} | {published} |", flush=True)


if __name__ == "__main__":
    main()
