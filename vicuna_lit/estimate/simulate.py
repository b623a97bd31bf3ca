"""One micro-batch of the real model, forward and backward, with tensors that have sizes and no content."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import scaled_dot_product_attention

from vicuna_lit.data.batch import Batch
from vicuna_lit.estimate.ledger import ATTENTION, Ledger
from vicuna_lit.estimate.strategies import COMMUNICATION, GRADIENTS, WEIGHTS_HERE, Residence
from vicuna_lit.train import attention
from vicuna_lit.train.loss import chosen_loss
from vicuna_lit.train.model import SupervisedLM

HEAD = "head and logits"
Row = tuple[tuple[int, ...], int]
"""Tokens of each of its conversations, and how many of them all the loss is taken on."""


def simulate(
    make: Callable[[int], SupervisedLM],
    layers: int,
    row: Row,
    held: Residence,
    period: int | None,
) -> Counter[str]:
    """Bytes of each part at the highest moment of a micro-batch.

    Layers that are alike need not all be run: at any point of either pass, memory is a straight line over their
    number. Two short models give the line.

    Args:
        make: a new model on the meta device, with so many layers.
        layers: of the whole model.
        period: after how many layers they repeat; None: they do not.
    """
    few = 2 * (period or 0)
    if not period or layers <= few + period:
        return max(_phases(make(layers), row, held, layers).values(), key=Counter.total)
    short, longer = (_phases(make(n), row, held, period) for n in (few, few + period))
    return max((_extended(short[k], longer[k], (layers - few) / period) for k in short), key=Counter.total)


def _extended(short: Counter[str], longer: Counter[str], times: float) -> Counter[str]:
    return Counter({part: int(short[part] + (longer[part] - short[part]) * times) for part in longer | short})


def _phases(lm: SupervisedLM, row: Row, held: Residence, period: int) -> dict[str, Counter[str]]:
    """The highest moment of each phase: the first layers and the last ones, forward and backward, and the head."""
    lengths, supervised = row
    ledger = Ledger()
    with FakeTensorMode(allow_non_fake_inputs=True), _labelled(ledger):
        lm.to_empty(device="cpu")
        lm.model.tie_weights()
        ids = torch.empty(1, sum(lengths), dtype=torch.int64)
        ledger.ignore(ids, *lm.parameters(), *lm.buffers())
        for part, size in held.fixed.items():
            ledger.hold(part, size)
        for parameter in lm.parameters():
            if parameter.requires_grad and held.gradients == "added":
                parameter.grad = torch.empty_like(parameter)
                ledger.ignore(parameter.grad)
        _name_phases(lm, ledger, period)
        for group in _groups(lm, ledger, held):
            group.watch()
        with ledger:
            loss = lm(partial(_loss, ledger=ledger, supervised=supervised), Batch(ids, ids, ids, lengths, 1))
            loss.backward()
    return ledger.peaks


def _loss(lm: SupervisedLM, batch: Batch, ledger: Ledger, supervised: int) -> Tensor:
    """As `SupervisedLM.loss_sum`, of so many positions: without content nobody knows which."""
    hidden = lm.hidden(batch)
    ledger.phase = HEAD
    with ledger.within(HEAD):
        chosen = torch.empty(max(1, supervised), dtype=torch.int64)
        how = "chunked" if lm.how_head == "liger" else lm.how_head  # both make the logits of some positions at a time
        return chosen_loss(hidden[0, :-1][chosen], lm.head, chosen, how)


def _name_phases(lm: SupervisedLM, ledger: Ledger, period: int) -> None:
    layers = list(lm.layers)

    def enter(name: str) -> Callable[..., None]:
        def now(*_: Any) -> None:
            ledger.phase = name

        return now

    for i, layer in enumerate(layers):
        near = i if i < period else i - len(layers) if i >= len(layers) - period else None
        name = "between" if near is None else str(near)

        def after(_module: Any, _inputs: Any, output: Tensor, name: str = name) -> None:
            if output.requires_grad:
                output.register_hook(enter(f"backward {name}"))

        layer.register_forward_pre_hook(enter(f"forward {name}"))
        layer.register_forward_hook(after)


@contextmanager
def _labelled(ledger: Ledger) -> Iterator[None]:
    """Inside the block what attention allocates is counted as such, and no kernel needs its hardware."""
    before = dict(attention.KERNELS)

    def attend(name: str, q: Tensor, k: Tensor, v: Tensor, layout: Any, scale: float | None) -> Tensor:
        with ledger.within(ATTENTION):
            if name.startswith("sdpa"):
                return before[name](q, k, v, layout, scale)
            grouped = q.shape[1] != k.shape[1]  # flash, varlen, flex: one kernel over the row, which keeps as much
            return scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=grouped)

    attention.KERNELS.update({name: partial(attend, name) for name in before})
    try:
        yield
    finally:
        attention.KERNELS.update(before)


def _groups(lm: SupervisedLM, ledger: Ledger, held: Residence) -> list["_Group"]:
    inside = {id(p) for p in lm.layers.parameters()}
    outside = [p for p in lm.parameters() if id(p) not in inside]
    layers = [_Group(layer, list(layer.parameters()), ledger, held) for layer in lm.layers]
    return [*layers, _Group(None, outside, ledger, held)]


class _Group:
    """Weights that are gathered, and whose gradients leave, together: a layer's, or all that are in none."""

    def __init__(self, module: nn.Module | None, parameters: list[nn.Parameter], ledger: Ledger, held: Residence):
        self.module, self.ledger, self.held = module, ledger, held
        self.trained = [p for p in parameters if p.requires_grad]
        self.size = sum(p.numel() for p in parameters) * held.gathered_bytes
        self.here = False
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
        self.module.register_forward_hook(self._after_forward)

    def _gather(self) -> None:
        if not self.here:
            self.here = True
            for size in (self.size, self.size, -self.size):  # as it arrives, and as matrices
                self.ledger.hold(WEIGHTS_HERE, size)

    def _release(self) -> None:
        if self.here and self.held.gathers == "by layer":
            self.here = False
            self.ledger.hold(WEIGHTS_HERE, -self.size)

    def _after_forward(self, _module: Any, inputs: Any, output: Tensor) -> None:
        self._release()
        if output.requires_grad:
            output.register_hook(lambda _: self._gather())
            if not self.trained and inputs[0].requires_grad:
                inputs[0].register_hook(lambda _: self._release())

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
