"""One micro-batch of the real model, forward and backward, with tensors that have sizes and no content."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import scaled_dot_product_attention

from vicuna_lit.config.train import LMHead
from vicuna_lit.data.batch import Batch
from vicuna_lit.estimate.ledger import ATTENTION, MemoryTracker
from vicuna_lit.estimate.strategies import COMMUNICATION, GRADIENTS, WEIGHTS_HERE, StrategyMemory
from vicuna_lit.models import attention
from vicuna_lit.models.causal_lm import SupervisedLM
from vicuna_lit.models.loss import loss_sum

HEAD, BETWEEN = "head and logits", "between"
RowSize = tuple[tuple[int, ...], int]
"""Tokens of each of its conversations, and how many of them all the loss is taken on."""


@dataclass(frozen=True)
class Repeats:
    """Some first layers, then layers that repeat: with each further period a model's memory grows by the same."""

    first: int
    """Layers before the first that repeats."""
    period: int
    few: int
    """Layers of the shortest model whose first ones (with a period) and last ones (a period) are the whole one's, and
    do not overlap; each longer one has a period more, and so the whole one."""


def repeats(kinds: Sequence[Hashable]) -> Repeats | None:
    """The pattern that needs the fewest layers; None where the whole model is not longer than those."""
    count, best = len(kinds), None
    for period in range(1, count // 3 + 1):
        first = count - period
        while first and kinds[first - 1] == kinds[first - 1 + period]:
            first -= 1
        few = first + 2 * period + (count - first) % period
        if few + period < count and (best is None or few + period < best.few + best.period):
            best = Repeats(first, period, few)
    return best


def simulate(
    make: Callable[[int], SupervisedLM],
    layers: int,
    row: RowSize,
    held: StrategyMemory,
    repeat: Repeats | None,
    device: str,
) -> Counter[str]:
    """Bytes of each part at the highest moment of a micro-batch.

    Layers that are alike need not all be run: at any point of either pass, memory is a straight line over their
    number. Two short models give the line.

    Args:
        make: a new model on the meta device, with so many layers.
        layers: of the whole model.
        repeat: how they do; None: they are all run.
        device: the type that the run will be on, `cuda` or `cpu`: the LM head takes larger chunks on a GPU.
    """
    if repeat is None:
        return max(_phases(make(layers), row, held, (layers, 0), device).values(), key=Counter.total)
    first, period, few = repeat.first, repeat.period, repeat.few
    short, longer = (_phases(make(n), row, held, (first + period, period), device) for n in (few, few + period))
    ends = [_extended(short[k], longer[k], (layers - few) // period) for k in short if k != BETWEEN]
    return max(ends, key=Counter.total)


def _extended(short: Counter[str], longer: Counter[str], times: int) -> Counter[str]:
    return Counter({part: short[part] + (longer[part] - short[part]) * times for part in longer | short})


def _phases(
    lm: SupervisedLM, row: RowSize, held: StrategyMemory, ends: tuple[int, int], device: str
) -> dict[str, Counter[str]]:
    """The highest moment of each phase: both passes through the first and last layers (`ends`), and the head."""
    lengths, supervised = row
    ledger = MemoryTracker()
    with FakeTensorMode(allow_non_fake_inputs=True), _labelled(ledger):
        lm.to_empty(device="cpu")
        lm.model.tie_weights()
        _positions_as_they_are(lm)
        ids = torch.empty(1, sum(lengths), dtype=torch.int64)
        ledger.ignore(ids, *lm.parameters(), *lm.buffers())
        for part, size in held.fixed.items():
            ledger.hold(part, size)
        for parameter in lm.parameters():
            if parameter.requires_grad and held.gradients == "added":
                parameter.grad = torch.empty_like(parameter)
                ledger.ignore(parameter.grad)
        _name_phases(lm, ledger, *ends)
        for group in _groups(lm, ledger, held):
            group.watch()
        with ledger:
            compute = partial(_loss, ledger=ledger, supervised=supervised, device=device)
            loss = lm(compute, Batch(ids, ids, ids, lengths, 1))
            loss.backward()
    return ledger.peaks


def _positions_as_they_are(lm: SupervisedLM) -> None:
    """Dynamic RoPE asks how far positions reach, which these have not; its frequencies are as many either way."""
    module: Any
    for module in lm.modules():
        if "dynamic" in str(getattr(module, "rope_type", "")):
            kinds = module.rope_type
            module.rope_type = dict.fromkeys(kinds, "default") if isinstance(kinds, dict) else "default"


def _loss(lm: SupervisedLM, batch: Batch, ledger: MemoryTracker, supervised: int, device: str) -> Tensor:
    """As `SupervisedLM.row_loss`, of so many positions: without content nobody knows which."""
    hidden = lm.hidden(batch)
    ledger.phase = HEAD
    with ledger.within(HEAD):
        chosen = torch.empty(max(1, supervised), dtype=torch.int64)
        # Liger's makes the logits of some positions at a time, too.
        how: LMHead = "exact" if lm.lm_head_kind == "liger" else lm.lm_head_kind
        return loss_sum(hidden[0].index_select(0, chosen), lm.head, chosen, how, device)


def _name_phases(lm: SupervisedLM, ledger: MemoryTracker, first: int, last: int) -> None:
    layers = list(lm.layers)

    def enter(name: str) -> Callable[..., None]:
        def now(*_: Any) -> None:
            ledger.phase = name

        return now

    for i, layer in enumerate(layers):
        near = i if i < first else i - len(layers) if i >= len(layers) - last else None
        forward, backward = (BETWEEN if near is None else f"{way} {near}" for way in ("forward", "backward"))

        def after(_module: Any, _inputs: Any, output: Tensor, backward: str = backward) -> None:
            if output.requires_grad:
                output.register_hook(enter(backward))

        layer.register_forward_pre_hook(enter(forward))
        layer.register_forward_hook(after)


@contextmanager
def _labelled(ledger: MemoryTracker) -> Iterator[None]:
    """Inside the block what attention allocates is counted as such, and no kernel needs its hardware."""
    before = dict(attention.KERNELS)

    def attend(name: str, q: Tensor, k: Tensor, v: Tensor, layout: Any, form: attention.Form) -> Tensor:
        with ledger.within(ATTENTION):
            if name.startswith("sdpa"):
                return before[name](q, k, v, layout, form)
            grouped = q.shape[1] != k.shape[1]  # flash, varlen, flex: one kernel over the row, which keeps as much
            return scaled_dot_product_attention(q, k, v, is_causal=True, scale=form.scale, enable_gqa=grouped)

    attention.KERNELS.update({name: partial(attend, name) for name in before})
    try:
        yield
    finally:
        attention.KERNELS.update(before)


def _groups(lm: SupervisedLM, ledger: MemoryTracker, held: StrategyMemory) -> list["_Group"]:
    apart = {id(p) for p in lm.layers.parameters() if lm.autocast and p.dtype == torch.bfloat16}
    parts = [part for layer in lm.layers for part in layer.children()]
    inside = {id(p) for p in lm.layers.parameters()}
    found: list[tuple[nn.Module | None, list[nn.Parameter]]] = [
        *((part, [p for p in part.parameters() if id(p) in apart]) for part in parts),
        *((layer, [p for p in layer.parameters() if id(p) not in apart]) for layer in lm.layers),
        (None, [p for p in lm.parameters() if id(p) not in inside]),
    ]
    return [_Group(module, parameters, ledger, held) for module, parameters in found if parameters]


class _Group:
    """Weights that are gathered, and whose gradients leave, together: of a layer, a part of one, or all in none."""

    def __init__(
        self, module: nn.Module | None, parameters: list[nn.Parameter], ledger: MemoryTracker, held: StrategyMemory
    ):
        self.module, self.ledger, self.held = module, ledger, held
        self.trained = [p for p in parameters if p.requires_grad]
        self.size = sum(p.numel() * p.element_size() for p in parameters)
        self.here = False
        self.going_back = False
        """Whether the backward pass has reached it: from now on recomputation finds the weights, and keeps them."""
        self.arrived = 0

    def watch(self) -> None:
        for parameter in self.trained:
            parameter.register_post_accumulate_grad_hook(self._gradient)
        if self.held.gathers == "no":
            return
        if self.module is None:
            self._gather()
            return
        self.module.register_forward_pre_hook(lambda *_: self._gather())
        self.module.register_forward_hook(self._after_forward, with_kwargs=True)

    def _gather(self) -> None:
        if not self.here:
            self.here = True
            for size in (self.size, self.size, -self.size):  # as it arrives, and as matrices
                self.ledger.hold(WEIGHTS_HERE, size)

    def _release(self) -> None:
        if self.here and self.held.gathers == "by layer":
            self.here = False
            self.ledger.hold(WEIGHTS_HERE, -self.size)

    def _after_forward(self, _module: Any, args: Any, named: dict[str, Any], output: Any) -> None:
        if self.going_back:
            return
        self._release()
        came = next(value for value in (*args, *named.values()) if isinstance(value, Tensor))
        left = output if isinstance(output, Tensor) else output[0]
        if left.requires_grad:
            left.register_hook(lambda _: self._come_back())
            if not self.trained and came.requires_grad:
                came.register_hook(lambda _: self._release())

    def _come_back(self) -> None:
        self.going_back = True
        self._gather()

    def _gradient(self, parameter: nn.Parameter) -> None:
        assert parameter.grad is not None
        self.ledger.relabel(parameter.grad, GRADIENTS)
        if self.held.gradients == "scattered":
            self._scatter()
        elif self.held.gradients == "copied":
            parameter.grad = None

    def _scatter(self) -> None:
        self.arrived += 1
        if self.arrived == len(self.trained):
            self._release()
            sent = sum(p.numel() for p in self.trained) * self.held.sent_bytes
            self.ledger.hold(COMMUNICATION, sent)
            for p in self.trained:
                p.grad = None
            self.ledger.hold(COMMUNICATION, -sent)
