"""safetensors files written piece by piece, so that no tensor need be whole in memory.

The format: header size (8 bytes, little-endian), JSON header, raw numbers one tensor behind the other.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

PIECE = 16 * 2**20
"""Numbers that travel or are written at one time."""
DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.uint8: "U8"}


def header(tensors: Mapping[str, tuple[torch.dtype, torch.Size]]) -> bytes:
    """What comes before the numbers of these tensors, which must follow in this order."""
    described: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (dtype, shape) in tensors.items():
        end = offset + shape.numel() * dtype.itemsize
        described[name] = {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def pieces(flat: Tensor) -> Iterator[Tensor]:
    """A flat tensor in pieces of at most `PIECE` numbers."""
    for start in range(0, flat.numel(), PIECE):
        yield flat[start : start + PIECE]


def as_bytes(piece: Tensor) -> memoryview:
    """The numbers of a flat tensor; copied only where they lie on another device."""
    return piece.detach().cpu().contiguous().view(torch.uint8).numpy().data
