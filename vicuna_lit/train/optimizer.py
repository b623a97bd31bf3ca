"""The optimizer of a config, its learning rate, and how bf16 weights are stepped in fp32."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vicuna_lit.config.optimizer import OptimizerConfig
from vicuna_lit.paths import need_package
from vicuna_lit.train.rounding import round_by_chance, round_to_nearest

AT_ONCE = 2**24
"""Elements of gradients and weights that are copied in fp32 for a moment; of one weight, if it has more."""
Bf16 = Literal["masters", "alone", "elsewhere"]
"""Who holds fp32 copies of bf16 weights. masters: the optimizer; alone: nobody; elsewhere: the strategy decides."""


def build_optimizer(
    parameters: Iterable[nn.Parameter],
    config: OptimizerConfig,
    bf16: Bf16 = "elsewhere",
    seed: int = 0,
    undecayed: Iterable[nn.Parameter] = (),
) -> Optimizer:
    """The optimizer; weight decay on matrices only.

    Args:
        bf16: how weights that are bf16 are stepped.
        seed: of the rounding by chance.
        undecayed: weights that may look like matrices and are none: several experts' biases, a state space's rates.
    """
    trained, no_matrices = list(parameters), {id(weight) for weight in undecayed}
    copied = [bf16 == "masters" and p.dtype == torch.bfloat16 for p in trained]
    masters = [nn.Parameter(p.detach().float()) if c else p for p, c in zip(trained, copied, strict=True)]
    decays = [p.ndim >= 2 and id(p) not in no_matrices for p in trained]
    groups = [
        {
            "params": [m for m, decayed in zip(masters, decays, strict=True) if decayed],
            "weight_decay": config.weight_decay,
        },
        {"params": [m for m, decayed in zip(masters, decays, strict=True) if not decayed], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]  # DeepSpeed drops empty ones, and the schedule counts them
    match config.kind:
        case "adamw":
            inner: Optimizer = torch.optim.AdamW(groups, config.lr, config.betas, config.eps, fused=True)
        case "adamw_8bit":
            inner = _adamw_8bit(groups, config)
        case "adafactor":
            inner = torch.optim.Adafactor(groups, config.lr)
    if any(copied):
        return MasterWeights(inner, list(zip(trained, masters, strict=True)))
    if bf16 == "alone" and any(p.dtype == torch.bfloat16 for p in trained):
        return Bf16Weights(inner, trained, config.rounding, seed, narrow_state=config.kind != "adamw_8bit")
    return inner


def _adamw_8bit(groups: list[dict[str, Any]], config: OptimizerConfig) -> Optimizer:
    need_package("bitsandbytes", "optimizer.kind=adamw_8bit", extra="qlora")
    from bitsandbytes.optim.adamw import AdamW8bit

    return AdamW8bit(groups, config.lr, config.betas, config.eps)


class InFp32(Optimizer):
    """Steps an optimizer in fp32 for weights that are bf16, a few at a time.

    Args:
        inner: does the steps.
        weights: all trained ones.
    """

    def __init__(self, inner: Optimizer, weights: list[nn.Parameter]):
        super().__init__(inner.param_groups, inner.defaults)
        self.inner, self.weights = inner, weights
        self.param_groups, self.state = inner.param_groups, inner.state
        self.factor: Tensor | None = None
        """By which the next step multiplies the gradients, in fp32; clipping gradients in bf16 would round them."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step; the closure runs the backward pass. The gradients are used up."""
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        gradients = [weight.grad for weight in self.weights]
        for weight in self.weights:
            weight.grad = None
        for some in self._some_at_a_time():
            taken = {i: gradient for i in some if (gradient := self._taken(gradients, i)) is not None}
            if taken:
                self._step(taken)
            taken.clear()
        self.factor = None
        return result

    def _some_at_a_time(self) -> Iterator[list[int]]:
        some, count = [], 0
        for i, weight in enumerate(self.weights):
            if some and count + weight.numel() > AT_ONCE:
                yield some
                some, count = [], 0
            some, count = [*some, i], count + weight.numel()
        yield some

    def _taken(self, gradients: list[Tensor | None], i: int) -> Tensor | None:
        """A weight's gradient in fp32, clipped, and out of the list, so that it is freed when it was used."""
        gradient, gradients[i] = gradients[i], None
        if gradient is None:
            return None
        gradient = gradient.float()
        return gradient if self.factor is None else gradient.mul_(self.factor)

    def _step(self, gradients: dict[int, Tensor]) -> None:
        """Steps some of the weights, named by their place, with their fp32 gradients."""
        raise NotImplementedError

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Frees the gradients."""
        for weight in self.weights:
            weight.grad = None


class MasterWeights(InFp32):
    """Keeps fp32 copies, and rounds the bf16 weights from them.

    In bf16 itself an update of less than 1/256 of a weight would be lost (Micikevicius et al. 2018, §3.1).

    Args:
        inner: over the copies.
        pairs: (weight, its fp32 copy).
    """

    def __init__(self, inner: Optimizer, pairs: list[tuple[nn.Parameter, nn.Parameter]]):
        super().__init__(inner, [weight for weight, _ in pairs])
        self.pairs = pairs

    def _step(self, gradients: dict[int, Tensor]) -> None:
        for i, gradient in gradients.items():
            self.pairs[i][1].grad = gradient
        self.inner.step()
        for i in gradients:
            weight, master = self.pairs[i]
            weight.copy_(master)
            master.grad = None


class Bf16Weights(InFp32):
    """Keeps nothing in fp32: weights, and what the optimizer keeps in their dtype, are fp32 for the moment of their
    step, and rounded after it.

    Args:
        narrow_state: the optimizer's state is bf16 between steps; else it has dtypes of its own.
    """

    def __init__(self, inner: Optimizer, weights: list[nn.Parameter], rounding: str, seed: int, *, narrow_state: bool):
        super().__init__(inner, weights)
        self.rounding, self.seed, self.narrow_state = rounding, seed, narrow_state
        self.steps_done = 0
        """Of the run; the chances of rounding are a function of it."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step."""
        result = super().step(closure)
        self.steps_done += 1
        return result

    def _step(self, gradients: dict[int, Tensor]) -> None:
        held = {}
        for i, gradient in gradients.items():
            weight, state = self.weights[i], self.state[self.weights[i]]
            held[i] = weight.data, {key: state[key] for key in self._narrow(i)}
            state.update({key: value.float() for key, value in held[i][1].items()})
            weight.data = weight.data.float()
            weight.grad = gradient
        self.inner.step()
        for i, (numbers, before) in held.items():
            weight, state = self.weights[i], self.state[self.weights[i]]
            exact, weight.data, weight.grad = weight.data, numbers, None
            self._round(numbers, exact, i, "weight")
            for key in self._narrow(i):
                narrow = before.get(key, torch.empty_like(state[key], dtype=torch.bfloat16))
                self._round(narrow, state[key], i, key)
                state[key] = narrow

    def _narrow(self, i: int) -> list[str]:
        """What of a weight's state is rounded as the weight is."""
        if not self.narrow_state or self.weights[i].dtype != torch.bfloat16:
            return []
        state = self.state[self.weights[i]]
        return [key for key, value in state.items() if isinstance(value, Tensor) and key != "step"]

    def _round(self, target: Tensor, exact: Tensor, *place: int | str) -> None:
        if target.dtype != torch.bfloat16 or self.rounding == "nearest":
            round_to_nearest(target, exact)
        else:
            round_by_chance(target, exact, self.seed, self.steps_done, *place)


def lr_factor(step: int, steps: int, config: OptimizerConfig) -> float:
    """The share of the peak rate at a step: linear warm-up from 0, then down to 0 (transformers' curves),
    or constant with a linear cool-down at the end.

    The last step at least comes after the warm-up: where there is but one, it would else be taken at a rate of 0.
    """
    warmup = min(math.ceil(config.warmup_ratio * steps), steps - 1)
    if step < warmup:
        return step / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    match config.schedule:
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        case "linear":
            return max(0.0, 1 - progress)
        case "constant":
            cooldown = math.ceil((config.cooldown_ratio or 0) * steps)
            return min(1.0, (steps - step) / cooldown) if cooldown else 1.0
