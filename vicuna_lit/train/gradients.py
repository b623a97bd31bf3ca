"""The gradient of a step: how it is summed over micro-batches, its norm, and clipping to it."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

SMALL = 2**20
"""Elements up to which a gradient may be copied in fp64."""
ROW = 128


def squared_norm(gradient: Tensor) -> Tensor:
    """The sum of a gradient's squares, fp64, to a relative 1e-7, however it is cut.

    torch's fp32 norm of many elements is off by up to 5e-4 (on a CPU, which adds them one behind the other), another
    amount for every cut; its fp64 norm copies the whole tensor to fp64. So the norms of short rows are taken in fp32
    and their squares summed in fp64; what is small is summed in fp64 alone.
    """
    flat = gradient.reshape(-1)
    whole = flat.numel() // ROW * ROW if flat.numel() > SMALL else 0
    square = torch.linalg.vector_norm(flat[whole:], dtype=torch.float64).square()
    if not whole:
        return square
    rows = torch.linalg.vector_norm(flat[:whole].view(-1, ROW), dim=1, dtype=torch.float32)
    return square + torch.linalg.vector_norm(rows, dtype=torch.float64).square()


def clip_factor(norm: Tensor, limit: float) -> Tensor:
    """What brings a gradient of this norm to the limit; 1 where it is below."""
    return torch.clamp(limit / (norm + 1e-6), max=1.0)


def scale(gradients: Sequence[Tensor], factor: Tensor) -> None:
    """Multiplies gradients in place. Whether the factor is 1 is asked only where the answer costs no waiting."""
    if factor.is_cuda or float(factor) != 1.0:
        for gradient in gradients:
            gradient.mul_(factor.to(gradient.device))


def sum_in_fp32(weights: Iterable[Tensor]) -> None:
    """From now on gradients of bf16 weights are summed in fp32 by autograd, 4 bytes an element.

    In bf16 the sum of 64 micro-batches would be off by about 1% (each addition rounds to 1/256), another amount for
    every layout.
    """
    for weight in weights:
        if weight.dtype == torch.bfloat16:
            weight.grad_dtype = torch.float32
