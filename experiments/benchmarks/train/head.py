"""The LM head's loss and gradients: ours, torch's `linear_cross_entropy` and full logits, in fp32 and in bf16.

    taskset -c 0 env OMP_NUM_THREADS=1 python -m experiments.benchmarks.train.head    # or on a GPU, as it is

Every way runs in turn, forward and backward, from the same hidden states of a row; ratios are taken within a round,
the table shows medians (minimum–maximum). On a CPU seconds are the process's own processor seconds, since others may
use the machine. Memory is the peak above what stood before, of the process or of the GPU. torch before 2.13 has no
`linear_cross_entropy`; it is left out there.
"""

import argparse
import ctypes
import resource
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from experiments import tables
from vicuna_lit.config.train import LMHead
from vicuna_lit.models.lm_head import Head, cpu_multiplies_bf16
from vicuna_lit.models.loss import loss_sum
from vicuna_lit.train.memory import PeakMemory

SUPERVISED = 0.6
"""Of a row's tokens, as in ShareGPT."""
FLOAT32, BFLOAT16 = torch.float32, torch.bfloat16
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Hidden states of all tokens, the head's matrix, labels → the sum of the losses."""


class Size(NamedTuple):
    """Of a row and a head."""

    width: int
    vocabulary: int
    tokens: int
    dtypes: tuple[torch.dtype, ...] = (FLOAT32, BFLOAT16)


TINY = [Size(16, 100, 32)]
ON_GPU = [Size(512, 32_000, 4096), Size(2048, 128_256, 8192)]


def sizes_on_cpu() -> list[Size]:
    """Without units for bf16 torch takes 8 to 50 times as long for it as for fp32: one small size then."""
    sizes = [Size(512, 32_000, 1024), Size(512, 151_936, 512)]
    if cpu_multiplies_bf16():
        return sizes
    return [*(size._replace(dtypes=(FLOAT32,)) for size in sizes), Size(256, 32_000, 128)]


def full(states: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """As transformers: logits of all tokens, then the loss in fp32."""
    return functional.cross_entropy((states @ weight.T).float(), labels, reduction="sum")


def torchs(states: Tensor, weight: Tensor, labels: Tensor, options: dict[str, Any]) -> Tensor:
    chosen = labels != -100
    return functional.linear_cross_entropy(
        states[chosen], weight, labels[chosen], reduction="sum", options=torch.nn.LinearCrossEntropyOptions(**options)
    )


def ours(states: Tensor, weight: Tensor, labels: Tensor, how: LMHead) -> Tensor:
    chosen = labels != -100
    return loss_sum(states[chosen], Head(weight), labels[chosen], how)


def ways(dtype: torch.dtype, device: str, vocabulary: int) -> dict[str, Loss]:
    """The first one is ours."""
    chunk = min(512, 2**25 // vocabulary) if device == "cpu" else min(2048, 2**28 // vocabulary)
    accurate: dict[str, Any] = {"acc_policy": "accurate", "batch_chunk_size": chunk, "chunking_method": None}
    found: dict[str, Loss] = {"**ours**": partial(ours, how="chunked")}
    if dtype == BFLOAT16:
        found["ours, `lm_head=exact` (in fp32)"] = partial(ours, how="exact")
    if hasattr(functional, "linear_cross_entropy"):
        found["torch's, chunks of its choice"] = partial(torchs, options={})
        found["torch's, `accurate`, chunks of our size"] = partial(torchs, options=accurate)
    return found | {"full logits, as transformers": full}


def in_dtype(loss: Loss, dtype: torch.dtype) -> Loss:
    """As `bf16-mixed` has it: weights in fp32, the head in an autocast region, which torch's own function ignores."""
    if dtype == FLOAT32:
        return loss
    if isinstance(loss, partial) and loss.func is torchs:
        return lambda states, weight, labels: loss(states.to(dtype), weight.to(dtype), labels)

    def cast(states: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(states.device.type, dtype):
            return loss(states, weight, labels)

    return cast


class Measured(NamedTuple):
    """A forward and backward pass."""

    seconds: float
    bytes: int
    loss: float


def measure(loss: Loss, states: Tensor, weight: Tensor, labels: Tensor) -> Measured:
    states.grad = weight.grad = None
    on_gpu = states.is_cuda
    if not on_gpu:
        ctypes.CDLL(None).malloc_trim(0)
    memory = PeakMemory()
    memory.step()
    if on_gpu:
        torch.cuda.synchronize()
        before, clock = torch.cuda.memory_allocated(), time.perf_counter
    else:
        before, clock = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize(), time.process_time
    start = clock()
    value = loss(states, weight, labels)
    value.backward()
    if on_gpu:
        torch.cuda.synchronize()
    return Measured(clock() - start, memory.step() - before, value.item())


def compare(size: Size, dtype: torch.dtype, device: str, rounds: int) -> list[list[str]]:
    """A line for each way."""
    torch.manual_seed(0)
    states = torch.randn(size.tokens, size.width, device=device, requires_grad=True)
    weight = (torch.randn(size.vocabulary, size.width, device=device) / size.width**0.5 * 2).requires_grad_()
    labels = torch.randint(0, size.vocabulary, (size.tokens,), device=device)
    labels[torch.rand(size.tokens, device=device) > SUPERVISED] = -100
    found = ways(dtype, device, size.vocabulary)
    true = ours(states.detach(), weight.detach(), labels, "exact").item()
    runs: dict[str, list[Measured]] = {name: [] for name in found}
    for turn in range(rounds + 1):
        order = list(found)[turn % len(found) :] + list(found)[: turn % len(found)]
        for name in order:
            runs[name].append(measure(in_dtype(found[name], dtype), states, weight, labels))
    first = runs[next(iter(found))][1:]
    lines = []
    for name, its in runs.items():
        ratios = [b.seconds / a.seconds for a, b in zip(first, its[1:], strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
        lines.append([
            name, f"{size.width}, {size.vocabulary:,}, {size.tokens:,}", "bf16" if dtype == BFLOAT16 else "fp32",
            f"{statistics.median(run.seconds for run in its[1:]) * 1e3:,.0f}", "1.00" if its[1:] == first else spread,
            f"{statistics.median(run.bytes for run in its[1:]) / 2**20:,.0f}",
            f"{abs(its[-1].loss / true - 1):.0e}",
        ])  # fmt: skip
    return lines


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5, help="timed ones, after a first that is not")
    parser.add_argument("--tiny", action="store_true", help="shows that it runs")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = TINY if options.tiny else ON_GPU if device == "cuda" else sizes_on_cpu()
    what = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    units = "" if device == "cuda" or cpu_multiplies_bf16() else " without units for bf16"
    print(f"torch {torch.__version__}, {what}{units}, {torch.get_num_threads()} threads\n")
    columns = ["head", "width, vocabulary, tokens", "products", "ms", "time, it / ours", "peak, MiB", "loss, error"]
    print(tables.markdown(columns, []))
    for size in sizes:
        for dtype in size.dtypes:
            for line in compare(size, dtype, device, options.rounds):
                print(f"| {' | '.join(line)} |", flush=True)


if __name__ == "__main__":
    main()
