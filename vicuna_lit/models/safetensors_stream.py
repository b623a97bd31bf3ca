"""safetensors files written piece by piece, so that no tensor need be whole in memory.

The format: header size (8 bytes, little-endian), JSON header, raw numbers one tensor behind the other.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

PIECE = 16 * 2**20
"""Numbers that travel or are written at one time."""
DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16",
    torch.int64: "I64", torch.int32: "I32", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


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


def as_bytes(piece: Tensor) -> memoryview:
    """The numbers of a flat tensor; copied only where they lie on another device."""
    return piece.detach().cpu().contiguous().view(torch.uint8).numpy().data


def host_bytes(flats: Iterable[Tensor]) -> Iterator[memoryview]:
    """The numbers of flat tensors, in their order. Each stretch of them is to be used before the next is asked for:
    what lies on a GPU comes through two buffers, of which one fills while the other is hashed and written.
    """
    for on_gpu, some in groupby(flats, key=lambda flat: flat.is_cuda):
        cut = (piece for flat in some for piece in flat.split(PIECE))
        if on_gpu:
            buffers = [torch.empty(4 * PIECE, dtype=torch.uint8, pin_memory=True) for _ in range(2)]
            cut = staged((piece.detach().view(torch.uint8) for piece in cut), buffers, _send)
        yield from map(as_bytes, cut)


def staged(
    sources: Iterable[Tensor], buffers: Sequence[Tensor], send: Callable[[Tensor, Tensor], Callable[[], Any]]
) -> Iterator[Tensor]:
    """Copies of flat tensors, each in one of two buffers in turn; the next is under way while one is used.

    Args:
        send: begins to copy into a buffer (first) from a source; what it returns waits for the end.
    """
    coming: tuple[Tensor, Callable[[], Any]] | None = None
    for i, source in enumerate(sources):
        buffer = buffers[i % 2][: source.numel()]
        arrived = send(buffer, source)
        if coming:
            coming[1]()
            yield coming[0]
        coming = buffer, arrived
    if coming:
        coming[1]()
        yield coming[0]


def _send(buffer: Tensor, source: Tensor) -> Callable[[], Any]:
    buffer.copy_(source, non_blocking=True)
    return torch.cuda.current_stream(source.device).record_event().synchronize


def aside(tensors: Iterable[Tensor]) -> AbstractContextManager[Any]:
    """A context, to be entered by another thread, whose work on the GPU is on a stream of its own: behind all that
    this thread has launched before this call, beside what it launches from then on.
    """
    device = next((tensor.device for tensor in tensors if tensor.is_cuda), None)
    if device is None:
        return nullcontext()
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    return torch.cuda.stream(stream)
