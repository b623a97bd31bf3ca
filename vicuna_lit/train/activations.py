"""How the layers are run: what is kept for the backward pass, and what is compiled.

Checkpointing and offloading keep the numbers to the bit, compiling to within rounding.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import nn
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint


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
        chosen = [layer.self_attn for layer in layers]  # pyright: ignore[reportAssignmentType]
    elif how != "none":
        every = 1 if how == "full" else int(how.removeprefix("every_"))
        chosen = list(layers[every - 1 :: every])
    for module in chosen:
        module.forward = partial(checkpoint, module.forward, use_reentrant=False)


def kept(offload: bool) -> AbstractContextManager[object]:
    """Where the backward pass's tensors lie that are made inside the block: on the device, or in CPU memory."""
    return save_on_cpu(pin_memory=torch.cuda.is_available()) if offload else nullcontext()
