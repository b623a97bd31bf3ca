"""The optimizer of the train job and its learning rate."""

from typing import Literal

from pydantic import PositiveFloat, ValidationInfo, field_validator

from vicuna_lit.config.base import Config, Fraction, NonNegative


class OptimizerConfig(Config):
    """Optimizer and learning-rate schedule."""

    kind: Literal["adamw", "adamw_8bit", "adafactor"]
    """adamw_8bit (Dettmers et al. 2022): moments in 8 bits, by blocks of 256; adafactor (Shazeer and Stern 2018): sums
    over rows and columns in their place, lr relative to a weight's size, neither betas nor eps."""
    lr: PositiveFloat
    """The learning rate at its highest, after the warm-up."""
    betas: tuple[Fraction, Fraction]
    """AdamW's decay of the first and second moments."""
    eps: PositiveFloat
    """AdamW's term that keeps the denominator from 0."""
    weight_decay: NonNegative
    """Applied to matrices only, not to norms and biases."""
    schedule: Literal["cosine", "linear", "constant"]
    """After the warm-up, down to 0 at the last step (or constant, until a cool-down)."""
    warmup_ratio: Fraction
    """Share of all steps over which the rate rises from 0; the last step at least is not among them."""
    cooldown_ratio: Fraction | None
    """With schedule=constant: share of all steps, the last ones, over which the rate falls to 0 in a line (Hägele et
    al. 2024); null: it stays."""
    clip_norm: PositiveFloat | None
    """Largest norm of the step's gradient; null: not clipped, still measured."""
    rounding: Literal["nearest", "stochastic"]
    """Of weights (and the optimizer's state) that are kept in bf16 alone: to the nearest number, which loses small
    updates, or by chance, so that they arrive on average; needs precision=bf16-true and master_weights=false."""

    @field_validator("cooldown_ratio")
    @classmethod
    def _ends_a_constant_rate(cls, ratio: float | None, info: ValidationInfo) -> float | None:
        schedule, warmup = info.data.get("schedule"), info.data.get("warmup_ratio")
        if ratio is not None and schedule not in (None, "constant"):
            raise ValueError(f"{ratio:g} ends a constant rate, and {schedule} falls anyway: schedule=constant, or null")
        if ratio is not None and warmup is not None and warmup + ratio > 1:
            raise ValueError(f"{ratio:g} and warmup_ratio={warmup:g} together are more than all steps")
        return ratio
