"""Rounding to bf16, to the nearest number or by chance.

Rounded to the nearest, an update of less than half the gap to the next bf16 number (1/256 of a weight) is lost, every
time. Rounded up with the probability of the part that is cut off, it arrives on average (Gupta et al. 2015, §3;
Zamirai et al. 2020 for bf16 weights).

The chances are a pure function of the seed, the step, the tensor and an element's place in it: a run that goes on
after an interruption draws the same ones, and so do all ranks, on every device.
"""

import hashlib

import torch
from torch import Tensor

SLICE = 2**22
"""Elements that are rounded at one time: their chances take 4 bytes each."""


def round_to_nearest(target: Tensor, exact: Tensor) -> None:
    """Writes fp32 numbers into a bf16 tensor."""
    target.copy_(exact)


def round_by_chance(target: Tensor, exact: Tensor, *draw: int | str) -> None:
    """Writes fp32 numbers into a bf16 tensor, each up or down so that the mean is the number.

    Args:
        draw: what the chances are a function of, besides an element's place.
    """
    salt = int.from_bytes(hashlib.blake2b(repr(draw).encode(), digest_size=4).digest(), "little", signed=True)
    out, exact = target.view(-1), exact.reshape(-1)
    for start in range(0, len(exact), SLICE):
        part = exact[start : start + SLICE]
        # The upper half of an fp32 number is its bf16 number towards 0, whatever its sign.
        added = part.view(torch.int32) + _sixteen_bits(start, len(part), salt, part.device)
        rounded = (added & -65536).view(torch.float32)
        out[start : start + SLICE] = torch.where(part.isfinite(), rounded, part)


def _sixteen_bits(start: int, count: int, salt: int, device: torch.device) -> Tensor:
    """Evenly distributed numbers from 0 to 65535, int32; a hash of the place: https://github.com/skeeto/hash-prospector
    (`lowbias32`), on whose upper bits the low ones of a place have the same say as the high ones.
    """
    x = torch.arange(start, start + count, dtype=torch.int32, device=device).add_(salt)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B - 2**32)):
        x ^= (x >> shift) & (2 ** (32 - shift) - 1)
        x *= factor
    return (x >> 16) & 0xFFFF
