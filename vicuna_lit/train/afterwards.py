"""The evaluation of the trained model against its base, as the run's last act."""

import json
import os
import subprocess
import sys
from pathlib import Path

from vicuna_lit.compose import ConfigError, load, quoted
from vicuna_lit.train.config import TrainConfig


def check_evaluation(config: TrainConfig) -> None:
    """
    Raises:
        ConfigError: `evaluate.at_end` is no valid config of `vicuna-evaluate`; said before anything is trained.
    """
    if config.evaluate.at_end is not None:
        if config.model.path is None:
            raise ConfigError(["evaluate.at_end: compares with the base, and this model begins with random weights"])
        load("evaluate", *_overrides(config))


def evaluate_result(config: TrainConfig) -> int:
    """Runs `vicuna-evaluate` in `evaluation/` of the run folder, in a process of its own; its exit code.

    Under torchrun the first rank does it.
    """
    if config.evaluate.at_end is None or os.environ.get("RANK", "0") != "0":
        return 0
    return subprocess.run([sys.executable, "-m", "vicuna_lit.evaluate", *_overrides(config)]).returncode


def _overrides(config: TrainConfig) -> list[str]:
    folder = Path(config.run.dir)
    models = ",".join(
        f"{{name: {name}, path: '{path}'}}" for name, path in (("base", config.model.path), ("trained", folder / "hf"))
    )
    ours = [f"models=[{models}]", f"run.name='{config.run.name}: base and trained'", f"run.dir='{folder}/evaluation'"]
    ours += [f"wandb.{key}={_value(getattr(config.wandb, key))}" for key in ("mode", "project", "entity", "group")]
    return [*ours, *(f"{key}={_value(value)}" for key, value in (config.evaluate.at_end or {}).items())]


def _value(value: str | float | None) -> str:
    """As Hydra reads it."""
    return quoted(value) if isinstance(value, str) else json.dumps(value)
