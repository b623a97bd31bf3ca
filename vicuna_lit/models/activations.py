"""How the layers are run: what is kept for the backward pass, and what is compiled.

Checkpointing and offloading keep the numbers to the bit, compiling to within rounding.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from vicuna_lit.models.decoder import attention_of


def compile_layers(layers: nn.ModuleList) -> None:
    """torch.compile of every layer, which all layers share: one graph before the attention and one behind it.

    The attention stays out (its kernels are compiled already, and the lengths of its conversations differ in
    every row), and row lengths are symbols, so no row compiles anything anew.
    """
    for layer in layers:
        layer.forward = torch.compile(layer.forward, dynamic=True)


def checkpoint_layers(layers: nn.ModuleList, how: str) -> None:
    """Recomputes in the backward pass: `none`, `full` (every layer), `every_<k>` (each k-th), `attention`
    (of every layer, its attention alone), as Chen et al. 2016.
    """
    chosen: list[nn.Module] = []
    if how == "attention":
        chosen = [attention_of(layer) for layer in layers]
    elif how != "none":
        every = 1 if how == "full" else int(how.removeprefix("every_"))
        chosen = list(layers[every - 1 :: every])
    for module in chosen:
        # Nothing here is random, so no generator's state has to be kept.
        module.forward = partial(checkpoint, module.forward, use_reentrant=False, preserve_rng_state=False)


class OnCpu(saved_tensors_hooks):
    """What is made for the backward pass inside the block lies in CPU memory until then.

    torch's `save_on_cpu` also moves weights, and their copies in bf16, which the backward pass needs as well: the whole
    model would cross the bus for every row. They stay where they are. Copies are made beside the computation, from a
    stream of their own, into pinned memory.

    Args:
        weights: of the model that runs inside the block.
    """

    def __init__(self, weights: Iterable[Tensor]):
        found = list(weights)
        self._storages = {w.untyped_storage().data_ptr() for w in found}
        self._shapes = {tuple(shape) for w in found if w.ndim == 2 for shape in (w.shape, w.shape[::-1])}
        self._stream = torch.cuda.Stream() if torch.cuda.is_initialized() else None
        super().__init__(self._pack, self._unpack)

    def moves(self, tensor: Tensor) -> bool:
        """Whether it is an activation. A matrix of a weight's shape counts as its copy, and stays."""
        own = tensor.untyped_storage().data_ptr() in self._storages
        return not own and not (tensor.ndim == 2 and tuple(tensor.shape) in self._shapes)

    def _pack(self, tensor: Tensor) -> Any:
        if not tensor.is_cuda or self._stream is None or not self.moves(tensor):
            return tensor
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            host.copy_(tensor, non_blocking=True)
            tensor.record_stream(self._stream)
            return host, tensor.device, self._stream.record_event()

    def _unpack(self, packed: Any) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        host, device, there = packed
        torch.cuda.current_stream().wait_event(there)
        return host.to(device, non_blocking=True)
