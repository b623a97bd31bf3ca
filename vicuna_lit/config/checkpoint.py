"""When a run is saved."""

from pydantic import PositiveFloat, PositiveInt

from vicuna_lit.config.base import Config


class CheckpointConfig(Config):
    """When the state of the run is saved, so that the same command goes on from there."""

    every_steps: PositiveInt | None
    """Saved after so many steps; null: not by steps."""
    every_minutes: PositiveFloat | None
    """Saved after so many minutes; null: not by time. With both null only when told to stop."""
    at_end: bool
    """Saved also after the last step, so that another run can extend this one. `every_steps` does so too, but not where
    a callback ends the run."""
    keep: PositiveInt
    """Complete checkpoints that stay, besides the one with the lowest validation loss."""
    grace_seconds: PositiveFloat
    """How long the step in progress may take after a signal. Then the last finished step is saved in its place; after
    twice as long the process exits."""
