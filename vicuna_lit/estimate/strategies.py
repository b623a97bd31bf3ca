"""What a strategy keeps on a device, in bytes: the parts that no activation has to do with.

The sources of the rules: torch 2.13's `fully_shard` and `DistributedDataParallel`, DeepSpeed 0.19's
`stage_1_and_2.py` and `stage3.py`. `experiments/007_estimate` holds each against a real run.
"""

import re
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn
from transformers import PreTrainedModel

from vicuna_lit.config.choices import DDPConfig, FSDPConfig, SingleConfig, ZeroConfig
from vicuna_lit.config.train import Computation
from vicuna_lit.models.decoder import LINEAR, decoder_layers

GRADIENTS, WEIGHTS_HERE, COMMUNICATION = "gradients", "gathered weights", "communication"
SENDING, STEP = "sending of gradients", "optimizer step"

BUCKET = 500_000_000
"""Elements of DeepSpeed's bucket of gradients."""
CPU_DEEPSPEED = 60 * 2**20
"""Resident memory of its code, as measured by `experiments/007_estimate`."""
LIVE = 1_000_000_000
"""Elements of gathered weights that ZeRO-3 keeps because they are needed again soon."""
NUMBER = re.compile(r"layer_?(idx|id|index|number)$")
"""A layer's own number, which makes it no other kind."""

Place = Literal["only", "first", "later"]
"""A row's place in its step. Later rows find the gradients of earlier ones."""


@dataclass(frozen=True)
class Weights:
    """A model's weights on one device, before sharding."""

    all: int
    """Elements."""
    trained: int
    """Elements."""
    bytes: int
    """Of all, in the dtype they compute in; a weight in 4 bits has 0.516 with its scales."""
    trained_bytes: int
    """Of one element of a trained weight, and of its gradient."""
    kinds: tuple[int, ...]
    """Of each layer, see `kinds_of`."""

    @classmethod
    def of(cls, model: PreTrainedModel, quantised: bool) -> "Weights":
        """Counts them.

        Args:
            quantised: the decoder's frozen linear layers are in 4 bits, as `finetune=qlora` loads them.
        """
        every = list(model.parameters())
        trained = [p for p in every if p.requires_grad]
        linear = [m.weight for m in decoder_layers(model).modules() if isinstance(m, LINEAR)] if quantised else []
        packed = {id(weight) for weight in linear if not weight.requires_grad}
        size = sum(p.numel() * (0.516 if id(p) in packed else p.element_size()) for p in every)
        count, widest = sum(p.numel() for p in every), max(p.element_size() for p in trained)
        return cls(count, sum(p.numel() for p in trained), int(size), widest, kinds_of(model))


def kinds_of(model: PreTrainedModel) -> tuple[int, ...]:
    """A number for each layer, the same where both hold and compute the same."""
    said = getattr(model.config, "layer_types", None) or ()
    seen: dict[Hashable, int] = {}
    kinds = []
    for i, layer in enumerate(decoder_layers(model)):
        kind = (said[i] if i < len(said) else None, *(_looks(path, m) for path, m in layer.named_modules()))
        kinds.append(seen.setdefault(kind, len(seen)))
    return tuple(kinds)


def _looks(path: str, module: nn.Module) -> Hashable:
    """What a module is and holds: its settings (a window, whether positions are rotated), its weights."""
    plain: dict[str, Any] = {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, bool | int | float | str | None) and not NUMBER.search(key)
    }
    weights = [(n, p.shape, p.dtype, p.requires_grad) for n, p in module.named_parameters(recurse=False)]
    return path, type(module), *sorted(plain.items()), *weights


@dataclass(frozen=True)
class StrategyMemory:
    """How a strategy holds weights and gradients on one device."""

    fixed: Counter[str]
    """Bytes that stay during forward and backward pass."""
    after: dict[str, Counter[str]]
    """Bytes after the backward pass: while the last gradients are sent, and while the optimizer works."""
    gathers: Literal["no", "by layer", "and keeps"] = "no"
    """Whether whole weights are gathered on the device for use, and whether they are freed again."""
    gradients: Literal["kept", "added", "copied", "scattered"] = "kept"
    """A new gradient is kept, added to the one before, copied into a bucket, or scattered with its layer's."""
    sent_bytes: int = 0
    """Of a gradient's element while it is sent, where a layer's leave together."""
    on_host: int = 0
    """Bytes in the CPU's memory, where the strategy offloads."""
    process: int = 0
    """Bytes of the process besides, where it runs on a CPU."""
    is_ready_at_once: bool = False
    """Whether the optimizer has its state before the first step, and not at its end."""


def moments(config: Computation, bytes_each: int) -> float:
    """Bytes of the optimizer's state for a trained weight."""
    match config.optimizer.kind:
        case "adamw":
            return 2.0 * bytes_each
        case "adamw_8bit":
            return 2.0 + 8 / 256  # a scale for each block of 256
        case "adafactor":
            return 0.0  # sums over rows and columns


def residence(config: Computation, weights: Weights, world: int, row: Place, on_cpu: bool) -> StrategyMemory:
    """What each of `world` devices holds.

    Args:
        row: its place in its step.
        on_cpu: there memory that is never written costs nothing, and offloading moves nothing.
    """
    match config.strategy:
        case SingleConfig():
            return _replicated(config, weights, row, buckets=False)
        case DDPConfig():
            return _replicated(config, weights, row, buckets=True)
        case FSDPConfig(offload=offload):
            return _fsdp(config, weights, world, row == "later", offload, on_cpu)
        case ZeroConfig(stage=3, offload=offload):
            return _by_deepspeed(_zero3(config, weights, world, offload and not on_cpu, on_cpu))
        case ZeroConfig(stage=stage):
            return _by_deepspeed(_zero(config, weights, world, row == "later", on_cpu, stage == 1))


def _by_deepspeed(held: StrategyMemory) -> StrategyMemory:
    return replace(held, process=CPU_DEEPSPEED, is_ready_at_once=True)


def _replicated(config: Computation, w: Weights, row: Place, buckets: bool) -> StrategyMemory:
    masters = config.precision == "bf16-true" and config.master_weights
    state = moments(config, 4 if masters else w.trained_bytes) + 4 * masters
    fixed = Counter(weights=w.bytes, optimizer=int(w.trained * state))
    gradients = w.trained * w.trained_bytes
    # DDP keeps its buckets; gradients move into them with the last row of a step, until then they are beside them.
    fixed[GRADIENTS] = gradients * (buckets + (row == "later"))
    at_step = fixed.copy()
    at_step[GRADIENTS] = gradients + 4 * w.trained * masters  # the copies' gradients, beside the weights'
    arriving = "added" if row == "later" else "copied" if buckets and row == "only" else "kept"
    return StrategyMemory(fixed, {STEP: at_step}, gradients=arriving)


def _fsdp(config: Computation, w: Weights, world: int, later: bool, offload: bool, on_cpu: bool) -> StrategyMemory:
    masters = config.precision == "bf16-true" and config.master_weights
    own = 4 if masters else w.trained_bytes
    sharded = Counter(
        weights=(w.all * 4 if masters else w.bytes) // world,
        optimizer=int(w.trained * moments(config, own) / world),
    )
    step = sharded + Counter(gradients=w.trained * own // world)
    here, at_step, host = (step if later else sharded), step, 0
    if offload and not on_cpu:
        here, at_step, host = Counter(), Counter(), step.total()
    sent = own * (2 if on_cpu else 1)  # gloo reduces a copy
    return StrategyMemory(here, {STEP: at_step}, "by layer", "scattered", sent, host)


def _zero(config: Computation, w: Weights, world: int, later: bool, on_cpu: bool, kept: bool) -> StrategyMemory:
    """Stages 1 and 2.

    Args:
        kept: gradients stay whole until the step, as in stage 1.
    """
    own = w.trained / world
    fixed = Counter(
        weights=w.bytes,
        optimizer=int(own * (4 + moments(config, 4))),  # with its own part in fp32, a copy also of fp32 weights
    )
    buckets = 0 if on_cpu else 2 * BUCKET * w.trained_bytes  # two, to overlap
    at_step = fixed.copy()
    at_step[GRADIENTS] = int(2 * own * 4)
    if kept:
        fixed[GRADIENTS] = w.trained * w.trained_bytes if later else 0
        at_step[COMMUNICATION] = buckets
        at_step[GRADIENTS] = max(at_step[GRADIENTS], w.trained * w.trained_bytes)
        return StrategyMemory(fixed, {STEP: at_step}, gradients="added" if later else "kept")
    sending = fixed.copy()
    sending[GRADIENTS] = int(own * w.trained_bytes)
    sending[COMMUNICATION] = buckets or 2 * min(BUCKET, w.trained) * w.trained_bytes  # gloo reduces a copy
    fixed[GRADIENTS] = sending[GRADIENTS] if later else 0
    fixed[COMMUNICATION] = buckets
    return StrategyMemory(fixed, {SENDING: sending, STEP: at_step}, gradients="copied" if buckets else "kept")


def _zero3(config: Computation, w: Weights, world: int, offload: bool, on_cpu: bool) -> StrategyMemory:
    own = w.trained / world
    sharded = Counter(
        weights=w.bytes // world,
        optimizer=int(own * (4 + moments(config, 4))),
        gradients=int(own * w.trained_bytes),
    )
    here = Counter() if offload else sharded.copy()
    at_step = here + Counter(gradients=0 if offload else int(own * 4))
    bucket = min(BUCKET, w.trained) * w.trained_bytes
    # The bucket, the same in the order in which ranks get it, and gloo's copy of that.
    sending = here + Counter({COMMUNICATION: (3 if on_cpu else 2) * bucket})
    sending[WEIGHTS_HERE] = int(min(w.all, LIVE) * w.bytes / w.all)
    here[COMMUNICATION] = 0 if on_cpu else BUCKET * w.trained_bytes
    gathers = "and keeps" if w.all <= LIVE else "by layer"
    after = {SENDING: sending, STEP: at_step}
    host = sharded.total() if offload else 0
    return StrategyMemory(here, after, gathers, "kept" if on_cpu else "copied", on_host=host)
