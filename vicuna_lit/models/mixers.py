"""Token mixers outside attention (convolutions, state spaces, linear attention), kept within conversations.

They carry a state from token to token along the whole row. Families take the boundaries of conversations by other
names, most of them only in kernels of a GPU. So each conversation is run by itself inside the row: right for them all.
"""

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vicuna_lit.config.train import Computation
from vicuna_lit.models.attention import RowLayout
from vicuna_lit.models.decoder import ATTENTION, decoder_layers, linear_layers

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
    """Of each decoder layer's attention and MLP the linear layers whose weights fsdp gathers in bf16.

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
    """Makes the layers' token mixers run one conversation at a time where a row's layout comes with it.

    The layout comes as a keyword. Some families' models keep it from their layers, and some layers from their
    attention; `current_row` and hooks bring it there. Hooks run before what is computed again in the backward pass
    (`checkpoint_layers`), so it is an argument of that too.
    """
    for layer in layers:
        mixers = token_mixers(nn.ModuleList([layer]))
        told = mixers or ([] if _hands_on(layer) else [m for n, m in layer.named_children() if n in ATTENTION])
        if not told:
            continue
        current: list[Any] = [None]  # the layout of the row that the layer is called with
        takes = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(layer.forward).parameters.values())
        layer.forward = partial(_with_layout, layer.forward, current, takes)
        layer.register_forward_pre_hook(partial(_told, _ROW), with_kwargs=True)
        for module in mixers:
            module.forward = partial(_by_conversation, module.forward, hasattr(module, "is_causal"))
        for module in told:
            module.register_forward_pre_hook(partial(_told, current), with_kwargs=True)


_ROW: list[Any] = [None]


@contextmanager
def current_row(layout: RowLayout) -> Iterator[None]:
    """Inside the block layers that their model gives no layout have this one."""
    _ROW[0] = layout
    try:
        yield
    finally:
        _ROW[0] = None


def _hands_on(layer: nn.Module) -> bool:
    """Whether a layer gives its attention the keywords that it does not know: those are named twice then."""
    try:
        return inspect.getsource(type(layer).forward).count("**") > 1
    except (OSError, TypeError):  # a class without a file
        return True


def _told(current: list[Any], _module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
    return (args, kwargs | {"layout": current[0]}) if kwargs.get("layout") is None and current[0] is not None else None


def _with_layout(forward: Any, current: list[Any], takes: bool, *args: Any, **kwargs: Any) -> Any:
    current[0] = kwargs.get("layout")
    if not takes:
        kwargs.pop("layout", None)
    try:
        return forward(*args, **kwargs)
    finally:
        current[0] = None


@torch.compiler.disable  # the lengths differ in every row
def _by_conversation(forward: Any, attends: bool, *args: Any, **kwargs: Any) -> Any:
    """Calls `forward` with each conversation's part of every argument that has the row's length."""
    layout = kwargs.pop("layout", None)
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
