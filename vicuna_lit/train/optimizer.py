"""The optimizer of a config, its learning rate, and fp32 copies of bf16 weights."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from vicuna_lit.tokenizer import need_package
from vicuna_lit.train.config import OptimizerConfig


def build_optimizer(parameters: Iterable[nn.Parameter], config: OptimizerConfig, *, master_weights: bool) -> Optimizer:
    """The optimizer; weight decay on matrices only.

    Args:
        master_weights: where weights are bf16, work on fp32 copies of them.
    """
    trained = list(parameters)
    masters = [nn.Parameter(p.detach().float()) if master_weights and p.dtype != torch.float32 else p for p in trained]
    groups = [
        {"params": [p for p in masters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in masters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]  # DeepSpeed drops empty ones, and the schedule counts them
    match config.kind:
        case "adamw":
            inner: Optimizer = torch.optim.AdamW(groups, config.lr, config.betas, config.eps, fused=True)
        case "adamw_8bit":
            inner = _adamw_8bit(groups, config)
        case "adafactor":
            inner = torch.optim.Adafactor(groups, config.lr)
    pairs = [(p, m) for p, m in zip(trained, masters, strict=True) if p is not m]
    return MasterWeights(inner, pairs) if pairs else inner


def _adamw_8bit(groups: list[dict[str, Any]], config: OptimizerConfig) -> Optimizer:
    need_package("bitsandbytes", "optimizer.kind=adamw_8bit", extra="qlora")
    from bitsandbytes.optim.adamw import AdamW8bit

    return AdamW8bit(groups, config.lr, config.betas, config.eps)


class MasterWeights(Optimizer):
    """Steps an optimizer on fp32 copies and rounds the bf16 weights from them.

    In bf16 itself an update of less than 1/256 of a weight would be lost (Micikevicius et al. 2018, §3.1).

    Args:
        inner: over the copies.
        pairs: (weight, its fp32 copy).
    """

    def __init__(self, inner: Optimizer, pairs: list[tuple[nn.Parameter, nn.Parameter]]):
        super().__init__(inner.param_groups, inner.defaults)
        self.inner, self.pairs = inner, pairs
        self.param_groups, self.state = inner.param_groups, inner.state

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step; the closure runs the backward pass and clips the bf16 gradients."""
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        for weight, master in self.pairs:
            master.grad = None if weight.grad is None else weight.grad.float()
        self.inner.step()
        for weight, master in self.pairs:
            weight.copy_(master)
            master.grad = None
        return result

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Frees the gradients of weights and copies."""
        self.inner.zero_grad(set_to_none)
        for weight, _ in self.pairs:
            weight.grad = None


def lr_factor(step: int, steps: int, config: OptimizerConfig) -> float:
    """The share of the peak rate at a step: linear warm-up from 0, then down to 0 (transformers' curves)."""
    warmup = math.ceil(config.warmup_ratio * steps)
    if step < warmup:
        return step / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    match config.schedule:
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        case "linear":
            return max(0.0, 1 - progress)
        case "constant":
            return 1.0
