"""The loss: only supervised positions reach the LM head, and full logits never exist."""

from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy

from vicuna_lit.config.train import LMHead
from vicuna_lit.models.lm_head import Head, Products
from vicuna_lit.paths import ModelError


def loss_sum(
    states: Float[Tensor, "S D"],
    head: Head,
    targets: Int[Tensor, " S"],
    how: LMHead = "chunked",
    device: str | None = None,
    weights: Float[Tensor, " S"] | None = None,
) -> Float[Tensor, ""]:
    """Sum of the cross-entropies of the tokens that some last hidden states predict, in nats, Σ w · nll.

    Everything but the products is computed in fp32. `chunked` and `exact` sum the losses in fp64; with fp32 on a CPU
    (no bias, no softcap) they add in fp32 and in torch's own order, to be its loss to the bit. They compute the
    gradients with the loss, of what requires one, so it can be differentiated once.

    Args:
        how: `chunked` (some positions at a time, products in the dtype that the model computes in), `exact` (the same
            in fp32), `plain` (full logits of the supervised positions, in fp32), or `liger` (Liger's fused head in
            fp32, GPU).
        device: see `Products.of`.
        weights: in fp32; None: each counts once, at no cost.
    """
    products = Products.of(states, head.weight, how != "chunked", device)
    with torch.autocast(states.device.type, enabled=False):
        match how:
            case "plain" if weights is not None:
                return cross_entropy(head.logits(states), targets, reduction="none") @ weights
            case "plain":
                return cross_entropy(head.logits(states), targets, reduction="sum")
            case "liger" if len(targets):
                return _liger(states, head, targets, weights)
            case "chunked" | "exact" | "liger":
                pass  # below; Liger's kernel takes no empty row
        tensors = head.scaled(states), head.weight, head.bias
        if not torch.is_grad_enabled():
            tensors = (t if t is None else t.detach() for t in tensors)
        return _ChunkedLoss.apply(*tensors, targets, head.softcap, products, weights)  # pyright: ignore[reportReturnType]


@torch.no_grad()
def token_losses(
    states: Float[Tensor, "S D"], head: Head, targets: Int[Tensor, " S"], how: LMHead = "chunked"
) -> Float[Tensor, " S"]:
    """The cross-entropy of each of these tokens, in nats, with the products of `how`."""
    products = Products.of(states, head.weight, how != "chunked")
    with torch.autocast(states.device.type, enabled=False):
        states = head.scaled(states).to(products.dtype)
        head = replace(head, weight=head.weight.to(products.dtype))
        losses, room = torch.empty_like(targets, dtype=torch.float32), products.room(len(states), head)
        for part in products.chunks(len(states), head):
            logits, _ = products.logits(states[part], head, targets[part, None], room)
            losses[part] = cross_entropy(logits, targets[part], reduction="none")
    return losses


def require(how: LMHead) -> None:
    """Stops where a head cannot run.

    Raises:
        ModelError: what is missing, and what to choose instead.
    """
    if how == "liger" and not (torch.cuda.is_available() and find_spec("liger_kernel")):
        raise ModelError(
            "lm_head=liger needs an NVIDIA GPU and pip install liger-kernel; lm_head=chunked runs anywhere"
        )


def _liger(states: Tensor, head: Head, targets: Tensor, weights: Tensor | None) -> Tensor:
    """Liger's kernel knows no weights of tokens: those that count alike are summed together."""
    if weights is not None:
        total = states.new_zeros((), dtype=torch.float32)
        for weight in weights.unique().tolist():
            chosen = (weights == weight).nonzero()[:, 0]
            total = total + weight * _liger(states.index_select(0, chosen), head, targets[chosen], None)
        return total
    from liger_kernel.transformers.functional import (  # pyright: ignore[reportMissingImports]
        liger_fused_linear_cross_entropy,
    )

    bias = None if head.bias is None else head.bias.float()
    return liger_fused_linear_cross_entropy(
        head.scaled(states.float()), head.weight.float(), targets, bias=bias, reduction="sum", softcap=head.softcap
    )


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Any, weight: Any, bias: Any, targets: Any, *how: Any) -> Tensor:
        softcap, products, weights = how
        head = Head(weight.to(products.dtype), None if bias is None else bias.float(), softcap=softcap)
        sums = _Sums(states.to(products.dtype), head, products, ctx.needs_input_grad, weights is None)
        for part in products.chunks(len(targets), head):
            sums.add(part, targets[part, None], None if weights is None else weights[part, None])
        ctx.save_for_backward(sums.d_states, sums.d_weight, sums.d_bias)
        ctx.dtypes = [None if t is None else t.dtype for t in (states, weight, bias)]
        return sums.loss.float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        found = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        return *(None if d is None else d.mul_(factor).to(dtype) for d, dtype in found), None, None, None, None


class _Sums:
    """The loss and its gradients, in fp32 until they are used."""

    def __init__(self, states: Tensor, head: Head, products: Products, wanted: tuple[bool, ...], plain: bool):
        self.states, self.head, self.products, self.room = states, head, products, products.room(len(states), head)
        in_fp32: dict[str, Any] = {"dtype": torch.float32, "device": states.device}
        plain = plain and head.bias is None and head.softcap is None
        self.in_torchs_order = plain and (products.dtype, products.device) == (torch.float32, "cpu")
        self.loss = torch.zeros((), **in_fp32)
        if not self.in_torchs_order:
            self.loss = self.loss.double()
        self.d_states = torch.empty(states.shape, **in_fp32) if wanted[0] else None
        self.d_weight = torch.zeros(head.weight.shape, **in_fp32) if wanted[1] else None
        self.d_bias = torch.zeros(len(head.weight), **in_fp32) if wanted[2] else None
        self.scratch = torch.empty(head.weight.shape, **in_fp32) if wanted[1] and self.in_torchs_order else None

    def add(self, part: slice, targets: Int[Tensor, "C 1"], weights: Float[Tensor, "C 1"] | None) -> None:
        """Adds some positions, each as often as it counts."""
        logits, slope = self.products.logits(self.states[part], self.head, targets, self.room)
        logits.sub_(logits.amax(1, keepdim=True))
        own = logits.gather(1, targets)
        sums = logits.exp_().sum(1, keepdim=True)
        if self.in_torchs_order:
            self._add_in_torchs_order(part, targets[:, 0], logits, own[:, 0], sums)
            return
        own -= sums.log()
        self.loss -= (own if weights is None else own.double() * weights).sum(dtype=torch.float64)
        if self.d_states is self.d_weight is self.d_bias is None:
            return
        own.expm1_()  # the target's probability less one, to all its digits
        factor = 1 / sums
        if slope is not None:
            own *= slope.gather(1, targets)
            factor = slope.mul_(factor)
        if weights is not None:
            own, factor = own * weights, factor * weights
        gradient = self._gradient(logits, factor, targets, own)
        if self.d_states is not None:
            self.products.multiply(gradient, self.head.weight, self.d_states[part])
        if self.d_weight is not None:
            self.products.multiply(gradient.T, self.states[part], self.d_weight, add=True)

    def _gradient(self, exponentials: Tensor, factor: Tensor, targets: Tensor, own: Tensor) -> Tensor:
        """Of the logits, as it is multiplied on. A GPU rounds it at once, without a round trip through memory."""
        rounded = self.room[1][: len(own)]
        if self.products.device == "cuda" and self.d_bias is None:
            return torch.mul(exponentials, factor, out=rounded).scatter_(1, targets, own.to(rounded.dtype))
        gradient = exponentials.mul_(factor).scatter_(1, targets, own)
        if self.d_bias is not None:
            self.d_bias += gradient.sum(0)
        return gradient if gradient.dtype == rounded.dtype else rounded.copy_(gradient)

    def _add_in_torchs_order(self, part: slice, targets: Tensor, logits: Tensor, own: Tensor, sums: Tensor) -> None:
        """A plain matrix in fp32 on a CPU: targets apart, as torch's `linear_cross_entropy` has it, to the bit.

        There `index_add_` goes from one position to the next; elsewhere it would add in any order.
        """
        ones = torch.ones_like(own)
        self.loss -= own.dot(ones)
        self.loss += sums.log()[:, 0].dot(ones)
        if self.d_states is self.d_weight is None:
            return
        logits.mul_(1 / sums)
        if self.d_states is not None:
            taken = torch.index_select(self.head.weight, 0, targets, out=self.d_states[part])
            taken.neg_().addmm_(logits, self.head.weight)
        if self.d_weight is not None and self.scratch is not None:
            torch.mm(logits.T, self.states[part], out=self.scratch)
            self.scratch.index_add_(0, targets, self.states[part], alpha=-1)
            self.d_weight += self.scratch
