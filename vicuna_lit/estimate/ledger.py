"""Which part holds how many bytes, moment by moment, in a computation on tensors without content."""

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ACTIVATIONS, ATTENTION = "activations", "attention"


class MemoryTracker(TorchDispatchMode):
    """Counts the storages that are alive inside `with ledger:`, by part, and keeps the highest moment of each phase.

    Works on fake tensors, which have a size and no content, so a step of a 13B model needs no memory. What a
    kernel allocates inside itself is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live: Counter[str] = Counter()
        """Bytes of each part now."""
        self.peaks: dict[str, Counter[str]] = {}
        """Of each phase, the same at the moment when their sum was highest."""
        self.phase = "start"
        self.part = ACTIVATIONS
        """What new storages belong to."""
        self._part_of: dict[int, str | None] = {}
        """By storage; None: counted otherwise."""
        self._kept: list[Any] = []
        self._sum = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in STAND_INS and isinstance(args[0], FakeTensor):
            out = STAND_INS[func](*args, **(kwargs or {}))
        else:
            out = func(*args, **(kwargs or {}))
        part = ATTENTION if "scaled_dot_product" in str(func) else self.part
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._enter(leaf, part)
        return out

    def ignore(self, *tensors: Tensor) -> None:
        """Does not count these tensors: they are counted elsewhere."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._part_of[storage._cdata] = None
            self._kept.append(storage)

    def hold(self, part: str, size: float) -> None:
        """Adds bytes (or takes them away) that belong to no tensor here."""
        self.live[part] += int(size)
        self._sum += int(size)
        peak = self.peaks.get(self.phase)
        if peak is None or self._sum > peak.total():
            self.peaks[self.phase] = self.live.copy()

    def relabel(self, tensor: Tensor, part: str) -> None:
        """Moves what this tensor holds to another part."""
        storage = tensor.untyped_storage()
        before = self._part_of.get(storage._cdata)
        if before is not None:
            self._part_of[storage._cdata] = part
            self.live[before] -= storage.nbytes()
            self.live[part] += storage.nbytes()

    @contextmanager
    def within(self, part: str) -> Iterator[None]:
        """New storages inside the block belong to this part."""
        before, self.part = self.part, part
        try:
            yield
        finally:
            self.part = before

    def _enter(self, tensor: Tensor, part: str) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._part_of:
            return
        self._part_of[key] = part
        self.hold(part, storage.nbytes())
        weakref.finalize(storage, self._leave, key, storage.nbytes())

    def _leave(self, key: int, size: int) -> None:
        part = self._part_of.pop(key)
        if part is not None:
            self.hold(part, -size)


def _grouped_product(a: Tensor, b: Tensor, ends: Tensor, *_: Any) -> Tensor:
    """What a product by groups (of the tokens of each expert) gives; torch's own stand-in takes bf16 alone."""
    if b.ndim == 3:  # tokens × weights
        return a.new_empty(len(a), b.shape[2])
    return a.new_empty(len(ends), a.shape[0], b.shape[1])  # the gradient of the weights


def _added_product(_added_to: Tensor, a: Tensor, b: Tensor, dtype: torch.dtype, *, out: Tensor) -> Tensor:
    """A product that is added to a matrix of another dtype: as large as one that is written there.

    torch 2.11's own stand-in takes the dtype for a factor, and fails.
    """
    return torch.mm(a, b, out_dtype=dtype, out=out)


STAND_INS: dict[Any, Callable[..., Tensor]] = {
    torch.ops.aten._grouped_mm.default: _grouped_product,
    torch.ops.aten.addmm.dtype_out: _added_product,
}
"""What is computed with tensors without content, where torch cannot."""
