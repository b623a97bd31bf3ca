"""Mixtures of experts: how many there are, and how evenly the router loads them."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

COUNT = re.compile(r"num_(local_|routed_)?experts|n_routed_experts|moe_num_experts|num_moe_experts")
CHOSEN = re.compile(r"num_experts_per_tok(en)?|moe_top_?k|num_selected_experts|moe_k|top_k_experts")
"""Names of transformers' config fields: how many experts a layer has, and how many of them a token goes to."""


def experts_of(config: Any) -> tuple[int, int] | None:
    """How many experts a layer has, and how many a token goes to; None without experts."""
    fields = vars(config.get_text_config(decoder=True))

    def first(pattern: re.Pattern[str]) -> int | None:
        return next((v for k, v in fields.items() if pattern.fullmatch(k) and isinstance(v, int) and v > 0), None)

    count, chosen = first(COUNT), first(CHOSEN)
    return (count, chosen) if count and chosen and count > 1 else None


class ExpertLoad:
    """How many tokens each expert got, by layer."""

    def __init__(self) -> None:
        self.counts: dict[str, Tensor] = {}

    def gather(self) -> None:
        """Adds the counts of all ranks, on every rank."""
        if not torch.distributed.is_initialized():
            return
        everyone: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(everyone, self.counts)
        names = {name for counts in everyone for name in counts}
        self.counts = {n: torch.stack([counts[n] for counts in everyone if n in counts]).sum(0) for n in sorted(names)}

    def metrics(self) -> dict[str, float]:
        """`val/experts/busiest`: tokens of the busiest expert of any layer over the mean, 1 where all are alike;
        `val/experts/idle`: experts that got none. Empty without experts."""
        if not self.counts:
            return {}
        busiest = max(float(count.max() / count.double().mean()) for count in self.counts.values())
        idle = sum(int((count == 0).sum()) for count in self.counts.values())
        return {"val/experts/busiest": busiest, "val/experts/idle": float(idle)}


@contextmanager
def counted_experts(model: PreTrainedModel) -> Iterator[ExpertLoad]:
    """Inside the block the tokens of each expert are counted."""
    load, known = ExpertLoad(), experts_of(model.config)
    if known is None:
        yield load
        return

    def count(name: str, args: Any) -> None:
        """transformers calls a layer's experts with tokens, the indices of their experts, and their weights."""
        if len(args) > 1 and isinstance(args[1], Tensor) and not args[1].is_floating_point():
            found = args[1].flatten().bincount(minlength=known[0]).cpu()
            load.counts[name] = found + load.counts.get(name, 0)

    hooks = [
        module.register_forward_pre_hook(lambda _, args, name=name: count(name, args))
        for name, module in model.named_modules()
        if name.endswith(".experts")
    ]
    try:
        yield load
    finally:
        for hook in hooks:
            hook.remove()
