"""Lightning's callbacks that a config may name: `callbacks=[early_stopping,lr_monitor,profiler]`."""

from typing import Literal

from pydantic import PositiveInt

from vicuna_lit.config.base import Config, NonNegative

OWN_CALLBACKS = "own_callbacks"
"""In a run's `config.json`: the callbacks that a script has given, each in words (`Extensions.identity`)."""


class EarlyStoppingConfig(Config):
    """Lightning's `EarlyStopping`: ends the run when a figure falls no more; its last weights are exported."""

    monitor: str
    """`val/loss`, or what an own module logs in its validation."""
    patience: PositiveInt
    """So many looks in a row without improvement end the run."""
    min_delta: NonNegative
    """What counts as an improvement, in the figure's unit (nats)."""


class LRMonitorConfig(Config):
    """Lightning's `LearningRateMonitor`: the rate of each parameter group at every step."""

    log_momentum: bool
    """The momentum (Adam's first beta) too."""


class ProfilerConfig(Config):
    """Lightning's profilers, written to the run's folder."""

    kind: Literal["simple", "pytorch"]
    """simple: seconds by hook, `fit-profile.txt`; pytorch: by operator and kernel of a few steps, and
    a Chrome trace."""


class DecidingCallbacks(Config):
    """Callbacks that change the result."""

    early_stopping: EarlyStoppingConfig | None
    """null: every planned step is taken. `callbacks=[early_stopping]` sets it, as with all of these."""


class WatchingCallbacks(Config):
    """Callbacks that look on."""

    lr_monitor: LRMonitorConfig | None
    profiler: ProfilerConfig | None


class CallbacksConfig(WatchingCallbacks, DecidingCallbacks):
    """Of Lightning, by name: `callbacks=[early_stopping,lr_monitor,profiler]` (`conf/callbacks`)."""
