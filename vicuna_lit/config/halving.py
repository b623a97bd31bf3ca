"""Stopping early without error: a run after a step, and a sweep's worse settings after a part of their steps."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PositiveInt, field_validator

from vicuna_lit.config.base import Config

Part = Annotated[float, Field(gt=0, lt=1)]
"""Of all steps, or of all settings."""


class HalvingConfig(Config):
    """Successive halving of a sweep (Jamieson and Talwalkar 2016): at each rung all runs wait for the last one, and the
    settings with the lowest mean validation loss over their seeds go on."""

    rungs: tuple[Part, ...]
    """Parts of a run's steps after which it is judged, such as [0.1, 0.3]; of each the last validation up to there."""
    keep: Part
    """Part of the settings that goes on from each rung, rounded up."""

    @field_validator("rungs")
    @classmethod
    def _rise(cls, rungs: tuple[float, ...]) -> tuple[float, ...]:
        if not rungs or list(rungs) != sorted(set(rungs)):
            raise ValueError(f"{list(rungs)}: parts of all steps, at least one, each larger than the one before")
        return rungs


def step_of(stop_after: int | float | None, steps: int, interval: int | None) -> int | None:
    """The step after which a run of so many stops; None: after its last.

    Args:
        stop_after: a step, or a part of all: then the last validation up to there, or the first one.
        interval: steps from one validation to the next; None: there are none in between.
    """
    if isinstance(stop_after, float):
        step = int(stop_after * steps + 1e-9)
        stop_after = max(1, step) if interval is None else max(1, step // interval) * interval
    return None if stop_after is None or stop_after >= steps else stop_after


def _step_or_part(given: Any) -> Any:
    """YAML's true is a 1 to pydantic, and 1.0 too: neither says which of the two is meant."""
    if isinstance(given, bool) or (isinstance(given, float) and given >= 1):
        raise ValueError(f"{given}: a step is a whole number, such as 100, and a part of all is below 1, such as 0.3")
    return given


StopAfter = Annotated[PositiveInt | Part | None, BeforeValidator(_step_or_part)]
