"""How much memory a device needs: the highest moment of the longest row of the plan, by part."""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from vicuna_lit.config.train import Computation
from vicuna_lit.data.packing import Rows
from vicuna_lit.data.plan import Plan
from vicuna_lit.estimate.simulate import Repeats, RowSize, repeats, simulate
from vicuna_lit.estimate.strategies import Place, Weights, residence
from vicuna_lit.models.automatic import on_gpu, resolved
from vicuna_lit.models.causal_lm import SupervisedLM, build_model, model_config
from vicuna_lit.models.mixers import gathered_in_bf16

FRAGMENTATION, PROCESS = "fragmentation", "process"
CUDA_CONTEXT = 2**30 * 6 // 10
"""What a process takes of a GPU before it holds a tensor: kernels, and NCCL's buffers."""
LEAST, USUAL, MOST = 0.0, 0.04, 0.10
"""Shares of what tensors hold that CUDA's allocator holds besides: with blocks of all sizes (torchtitan and others
set `expandable_segments` against it); not measured here."""
CPU_PROCESS = 590 * 2**20
"""Resident memory of a train process besides its tensors: Python, torch, Lightning, a few conversations, the kernels'
work space, measured by `experiments/007_estimate`; DeepSpeed and PEFT come on top."""
CPU_PEFT = 55 * 2**20
HEAP_BLOCK = 32 * 2**20
"""glibc takes larger blocks from the kernel and gives them back; smaller ones lie in a heap with holes."""
HOLES = 22
"""So many of the largest blocks in it are lost in the heap's holes, as measured there."""

C = TypeVar("C", bound=Computation)


@dataclass(frozen=True)
class Memory:
    """Bytes of one device, the one with the longest row."""

    parts: dict[str, int]
    """At the highest moment; they add up to `likely`."""
    low: int
    likely: int
    high: int
    moment: str
    """When that is: the backward pass, or one of `StrategyMemory.after`."""
    limit: int
    on_host: int
    """Of the CPU's memory, for one process, where the strategy offloads."""
    row: tuple[int, int]
    """Tokens of the longest row, and how many of them are supervised."""
    weights: Weights

    @property
    def fits(self) -> bool:
        """Whether the likely peak does."""
        return self.likely <= self.limit


LEVELS = ("none", "every_4", "every_2", "full")
"""Of `gradient_checkpointing`, by how much is computed again; `auto` takes the first that fits."""


def lightest(memory: Callable[[str], Memory]) -> str:
    """The first of `LEVELS` whose highest estimate fits; `full` where none does.

    A run that ends for lack of memory costs more than the next level.

    Args:
        memory: estimates a level.
    """
    return next((level for level in LEVELS[:-1] if (found := memory(level)).high <= found.limit), LEVELS[-1])


def resolved_here(config: C, model: PreTrainedModel, plan: Plan) -> C:
    """The config with a choice in the place of each `auto`, for a run on this machine.

    On a GPU the level of recomputation follows from its memory: seconds for each level that is tried.

    Args:
        model: the config's, on any device.
    """
    config = resolved(config, model, on_gpu(config))
    if config.gradient_checkpointing != "auto":
        return config
    weights = Weights.of(build_model(config, None, "meta"), config.finetune.facts.in_4_bits)
    limit = torch.cuda.get_device_properties().total_memory
    level = lightest(lambda level: memory_of(at_level(config, level), plan, weights, limit))
    return at_level(config, level)


def at_level(config: C, level: str) -> C:
    """The config with this level of `gradient_checkpointing`."""
    return config.model_copy(update={"gradient_checkpointing": level})


def memory_of(config: Computation, plan: Plan, weights: Weights, gpu: int | None) -> Memory:
    """What the longest row of a plan needs.

    Args:
        config: with a choice in the place of each `auto` (`automatic.resolved`, `lightest`).
        weights: of the whole model.
        gpu: bytes of one; None: a process on this machine's CPU.

    Raises:
        ModelError: the model cannot be built.
    """
    layers, repeat = len(weights.kinds), _repeats(config, weights)
    peak, moment, row, on_host, own_process = Counter(), "", ((1,), 0), 0, 0
    for place, longest, begun in _cases(plan):
        held = residence(config, weights, plan.world_size, place, gpu is None)
        if not begun and not held.is_ready_at_once:
            held = replace(held, fixed=held.fixed - Counter(optimizer=held.fixed["optimizer"]))
        busy = simulate(lambda n: _shortened(config, n), layers, longest, held, repeat, "cuda" if gpu else "cpu")
        for when, this in ({"backward pass": busy} | held.after).items():
            if this.total() > peak.total():
                peak, moment = this, when
        row, on_host, own_process = max(row, longest, key=_size), held.on_host, held.process
    parts, tokens = {part: size for part, size in peak.items() if size}, _size(row)
    sum_, process, limit = sum(parts.values()), CUDA_CONTEXT, gpu
    lost = [int(sum_ * share) for share in (LEAST, USUAL, MOST)]
    if limit is None:
        process = CPU_PROCESS + own_process
        process += CPU_PEFT * config.finetune.facts.adapters
        limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // plan.world_size
        holes = _holes(config, tokens[0])
        lost = [0, holes, 3 * holes]
    low, likely, high = (sum_ + process + more for more in lost)
    parts |= {FRAGMENTATION: lost[1], PROCESS: process}
    return Memory(parts, low, likely, high, moment, limit, on_host, tokens, weights)


def _holes(config: Computation, tokens: int) -> int:
    """Bytes of glibc's heap that no block fits into."""
    size = model_config(config)
    inner = getattr(size, "intermediate_size", None) or 4 * size.hidden_size  # GPT-2 and BLOOM say nothing
    blocks = [tokens * width * 4 for width in (size.hidden_size, inner)]
    return HOLES * max((b for b in blocks if b < HEAP_BLOCK), default=0)


def _cases(plan: Plan) -> list[tuple[Place, RowSize, bool]]:
    """The rows one of which sets the peak: place in the step, row, and whether the optimizer has made its state, at the
    end of the first step."""
    out: list[tuple[Place, RowSize, bool]] = []
    if plan.steps > 1:
        out = [(place, row, True) for place, row in _longest(plan, plan.rows[1:])]
    longest = max((sum(row[0]) for _, row, _ in out), default=0)
    for place, row in _longest(plan, plan.rows[:1]):
        if sum(row[0]) > longest:
            out.append((place, row, False))
    return out


def _longest(plan: Plan, steps: Rows) -> list[tuple[Place, RowSize]]:
    """The longest of the steps' first rows, and of the later ones, which find gradients; one where both are alike."""
    first = longest_row(plan, steps, slice(0, 1))
    if plan.accumulation == 1:
        return [("only", first)]
    later = longest_row(plan, steps, slice(1, None))
    if sum(later[0]) > 0.98 * sum(first[0]):
        return [("later", max(first, later, key=_size))]
    return [("first", first), ("later", later)]


def _size(row: RowSize) -> tuple[int, int]:
    return sum(row[0]), row[1]


def longest_row(plan: Plan, steps: Rows, which: slice) -> RowSize:
    """Tokens of each conversation of the row with the most tokens, and how many are supervised (the most of those);
    of equals the first. One token where there is no conversation.

    Args:
        which: of the rows that a rank has in a step.
    """
    first, places = int(steps.bounds[0]), np.flatnonzero(np.diff(steps.bounds))  # rows without any take no place
    if not len(places):
        return (1,), 0
    starts, drawn = steps.bounds[places] - first, steps.order[first : int(steps.bounds[-1])]
    tokens, supervised = (np.add.reduceat(of[drawn], starts, dtype=np.int64) for of in (plan.lengths, plan.supervised))
    chosen = np.isin(places % steps.accumulation, range(steps.accumulation)[which])
    for sums in (tokens, supervised):
        chosen &= sums == sums[chosen].max(initial=0)
    if not chosen.any():
        return (1,), 0
    place = int(places[chosen.argmax()])
    row = steps.order[steps.bounds[place] : steps.bounds[place + 1]]
    return tuple(plan.lengths[row].tolist()), int(plan.supervised[row].sum())


def _shortened(config: Computation, layers: int) -> SupervisedLM:
    """The real model on the meta device, with its first layers, in the numbers that it computes in."""
    model = build_model(config, None, "meta", layers)
    if config.strategy.facts.fp32_copies == "shards":  # they are counted by themselves
        if config.precision == "bf16-true":
            for parameter in model.parameters():
                parameter.data = parameter.data.bfloat16()
        for linear in gathered_in_bf16(model, config):
            nn.ModuleList(linear).to(torch.bfloat16)
    # Neither compiled nor by Liger: those kernels need their hardware, and keep no more than plain layers.
    return SupervisedLM.of(model, config.model_copy(update={"compile": False, "kernels": "torch"}))


def _repeats(config: Computation, weights: Weights) -> Repeats | None:
    """How layers repeat, checkpointing included; None where a short model would not train what the whole one does."""
    if not config.finetune.facts.alike_in_layers:
        return None
    how = config.gradient_checkpointing
    every = int(how.removeprefix("every_")) if how.startswith("every_") else 1
    return repeats([(kind, i % every) for i, kind in enumerate(weights.kinds)])
