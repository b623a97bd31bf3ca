"""Which layers of a model are alike, and how few of them stand for all."""

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from vicuna_lit.models.decoder import decoder_layers

NUMBER = re.compile(r"layer_?(idx|id|index|number)$")
"""A layer's own number, which makes it no other kind."""


@dataclass(frozen=True)
class Repeats:
    """Layers that begin anyhow and then repeat: a shorter model of the same first ones grows evenly."""

    first: int
    """Layers before the first that repeats."""
    period: int
    few: int
    """Layers of the shortest model whose first ones (with a period) and last ones (a period) are the whole one's, and
    do not overlap; each longer one has a period more, and so the whole one."""


def kinds_of(model: PreTrainedModel) -> tuple[int, ...]:
    """A number for each layer, the same where both hold and compute the same."""
    said = getattr(model.config, "layer_types", None) or ()
    seen: dict[Hashable, int] = {}
    kinds = []
    for i, layer in enumerate(decoder_layers(model)):
        kind = (said[i] if i < len(said) else None, *(_looks(path, m) for path, m in layer.named_modules()))
        kinds.append(seen.setdefault(kind, len(seen)))
    return tuple(kinds)


def _looks(path: str, module: nn.Module) -> Hashable:
    """What a module is and holds: its settings (a window, whether positions are rotated), its weights."""
    plain: dict[str, Any] = {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, bool | int | float | str | None) and not NUMBER.search(key)
    }
    weights = [(n, p.shape, p.dtype, p.requires_grad) for n, p in module.named_parameters(recurse=False)]
    return path, type(module), *sorted(plain.items()), *weights


def repeats(kinds: Sequence[Hashable]) -> Repeats | None:
    """The pattern that needs the fewest layers; None where the whole model is not longer than those."""
    count, best = len(kinds), None
    for period in range(1, count // 3 + 1):
        first = count - period
        while first and kinds[first - 1] == kinds[first - 1 + period]:
            first -= 1
        few = first + 2 * period + (count - first) % period
        if few + period < count and (best is None or few + period < best.few + best.period):
            best = Repeats(first, period, few)
    return best
