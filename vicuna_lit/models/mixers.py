"""Token mixers outside attention (convolutions, state spaces, linear attention), kept within conversations.

They carry a state from token to token along the whole row. Families take the boundaries of conversations by other
names, most of them only in kernels of a GPU. So each conversation is run by itself inside the row: right for them all.
"""

import re
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vicuna_lit.config.train import Computation
from vicuna_lit.models.attention import RowLayout
from vicuna_lit.models.decoder import decoder_layers, linear_layers

NAMES = re.compile(r"Mamba|DeltaNet|ShortConv|LightningAttention|RecurrentBlock|KimiDelta|LinearAttention|RgLru")
"""Classes of transformers that mix tokens and hold neither a convolution nor a decay of their own."""


def token_mixers(layers: nn.ModuleList) -> list[nn.Module]:
    """The modules of the layers that carry a state along the row; the outermost where they are nested."""
    found: list[nn.Module] = []
    for layer in layers:
        inside: set[int] = set()
        for module in layer.modules():
            if module is layer or id(module) in inside or not _carries_state(module):
                continue
            found.append(module)
            inside |= {id(child) for child in module.modules()}
    return found


def gathered_in_bf16(model: PreTrainedModel, config: Computation) -> list[list[nn.Module]]:
    """Under fsdp: of each decoder layer's attention and MLP the linear layers whose weights travel in bf16.

    Those are the ones that multiply in bf16 and run once for a row. Routers stay in fp32, token mixers, which run once
    for each conversation, and experts, of which not all run. So does all that is compiled: groups of weights inside a
    layer cut its graph.
    """
    if config.precision != "bf16-mixed" or config.compile:
        return []
    layers = decoder_layers(model)
    mixed = {id(m) for mixer in token_mixers(layers) for m in mixer.modules()}
    plain = {id(m) for name, m in linear_layers(model).items() if type(m) is nn.Linear and ".experts." not in name}
    parts = [part for layer in layers for part in layer.children()]
    found = [[m for m in part.modules() if id(m) in plain - mixed] for part in parts]
    return [linear for linear in found if linear]


def _carries_state(module: nn.Module) -> bool:
    convolves = any(isinstance(child, nn.Conv1d) for child in module.children())
    return convolves or hasattr(module, "A_log") or bool(NAMES.search(type(module).__name__))


def keep_within_conversations(layers: nn.ModuleList) -> None:
    """Makes the layers' token mixers run one conversation at a time where a row's layout comes with it."""
    for layer in layers:
        if mixers := token_mixers(nn.ModuleList([layer])):
            current: list[Any] = [None]  # the layout of the row that the layer is called with: not all hand it on
            layer.forward = partial(_with_layout, layer.forward, current)
            for module in mixers:
                attends = hasattr(module, "is_causal")
                module.forward = partial(_by_conversation, module.forward, current, attends)


def _with_layout(forward: Any, current: list[Any], *args: Any, **kwargs: Any) -> Any:
    current[0] = kwargs.get("layout")
    try:
        return forward(*args, **kwargs)
    finally:
        current[0] = None


@torch.compiler.disable  # the lengths differ in every row
def _by_conversation(forward: Any, current: list[Any], attends: bool, *args: Any, **kwargs: Any) -> Any:
    """Calls `forward` with each conversation's part of every argument that has the row's length."""
    layout = current[0]
    kwargs.pop("layout", None)
    if layout is None:
        return forward(*args, **kwargs)
    row, outputs, start = sum(layout.lengths), [], 0
    for length in layout.lengths:
        cut = partial(_part, row=row, start=start, length=length)
        alone = {"layout": RowLayout((length,), layout.device)} if attends else {}
        outputs.append(forward(*map(cut, args), **{name: cut(value) for name, value in kwargs.items()}, **alone))
        start += length
    return _joined(outputs)


def _part(value: Any, row: int, start: int, length: int) -> Any:
    if isinstance(value, Tensor) and value.dim() > 1 and value.shape[1] == row:
        return value[:, start : start + length]
    if isinstance(value, tuple):
        return tuple(_part(v, row, start, length) for v in value)
    return value


def _joined(outputs: list[Any]) -> Any:
    if isinstance(outputs[0], tuple):
        return tuple(_joined(list(parts)) for parts in zip(*outputs, strict=True))
    return torch.cat(outputs, 1) if isinstance(outputs[0], Tensor) else outputs[0]
