"""Saving, reading back and exporting a model of any size: what each process needs above its shard.

    torchrun --standalone --nproc-per-node 2 experiments/benchmarks/scale/export.py LAYERS

No optimizer, so that large models fit. Prints one line of JSON with the largest figure of both processes.
"""

import gc
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from transformers import LlamaConfig, LlamaForCausalLM

from vicuna_lit import load
from vicuna_lit.data.tokenizer import make_encoder
from vicuna_lit.models.causal_lm import SupervisedLM
from vicuna_lit.models.export import export, exported_bytes
from vicuna_lit.train.checkpoint.format import Shards, find, save
from vicuna_lit.train.memory import PeakMemory
from vicuna_lit.train.strategies import strategy_of


def sharded(layers: int) -> SupervisedLM:
    """A LLaMA of so many layers: whole on the first rank, dealt to both."""
    config = load("train", "strategy=fsdp", "trainer.devices=2")
    with torch.device("cpu" if dist.get_rank() == 0 else "meta"):
        model = LlamaForCausalLM(
            LlamaConfig(hidden_size=2048, intermediate_size=5504, num_hidden_layers=layers, num_attention_heads=16)
        )
    lm = SupervisedLM(model)
    strategy_of(config).shard(lm, init_device_mesh("cpu", (2,), mesh_dim_names=("data_parallel",)))
    return lm


def measured(work, peak: PeakMemory) -> tuple[int, float]:
    """Bytes above what stood before, and seconds."""
    gc.collect()
    peak.step()
    before = Path("/proc/self/statm").read_text().split()[1]
    start = time.perf_counter()
    work()
    return peak.step() - int(before) * 4096, time.perf_counter() - start


def main(layers: int) -> None:
    """Builds, saves, reads back, exports."""
    dist.init_process_group("gloo")
    first, peak = dist.get_rank() == 0, PeakMemory()
    lm, strategy = sharded(layers), strategy_of(load("train", "strategy=fsdp", "trainer.devices=2"))
    encoder = make_encoder(load("train"))
    places: list[str | None] = [tempfile.mkdtemp() if first else None]
    dist.broadcast_object_list(places)
    folder = Path(str(places[0]))
    optimizer = torch.optim.AdamW(lm.parameters())  # without its state

    def read_back() -> None:
        shards = Shards(find(folder / "checkpoints").complete[0])
        for piece in strategy.local_shards(lm, optimizer):
            shards.read_into(piece)

    figures = {}
    for name, work in {
        "save": lambda: save(
            folder / "checkpoints", 1, dist.get_rank(), 2, strategy.local_shards(lm, optimizer), {"attempt": ""}
        ),
        "restore": read_back,
        "export": lambda: export(lm.model, encoder, folder / "hf"),
    }.items():
        dist.barrier()
        everyone: list = [None, None]
        dist.all_gather_object(everyone, measured(work, peak))
        figures[name] = {"bytes_above_shard": max(b for b, _ in everyone), "seconds": max(s for _, s in everyone)}
    if first:
        size = sum(p.numel() for p in lm.parameters())
        shutil.rmtree(folder)
        print(json.dumps({"parameters": size, "bytes": exported_bytes(lm.model, torch.float32), **figures}))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]))
