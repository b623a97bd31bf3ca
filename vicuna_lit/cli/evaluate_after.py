"""The evaluation of the trained model against its base, as the run's last act."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from vicuna_lit.config.compose import ConfigError, load
from vicuna_lit.config.search_path import KEY
from vicuna_lit.config.texts import quoted
from vicuna_lit.config.train import TrainConfig
from vicuna_lit.run_folder import RUN_ID
from vicuna_lit.tracking.session import run_name
from vicuna_lit.train.preemption import PREEMPTED, stop_signal

OF_THE_RUN = (RUN_ID, "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH")
"""What the environment says of the train run: its evaluation is another run of W&B's."""
SAME = ("mode", "project", "entity", "group", "console", "samples", "alert")
"""What the evaluation's W&B run has of the run's."""


def check_evaluation(config: TrainConfig) -> None:
    """
    Raises:
        ConfigError: `evaluate_after` is no valid config of `vicuna-evaluate`; said before anything is trained.
    """
    if config.evaluate_after is not None:
        if config.model.path is None:
            raise ConfigError(["evaluate_after: compares with the base, and this model begins with random weights"])
        load("evaluate", *_overrides(config))


def evaluate_result(config: TrainConfig, environment: dict[str, str] | None = None) -> int:
    """Runs `vicuna-evaluate` in `evaluation/` of the run folder, in a process of its own; its exit code.

    Under torchrun the first rank does it. It is told to stop where this process is.

    Args:
        environment: of that process, besides this one's.

    Returns:
        The exit code of the command: where it was told to stop, that of a run that was.
    """
    if config.evaluate_after is None or os.environ.get("RANK", "0") != "0":
        return 0
    command = [sys.executable, "-m", "vicuna_lit.evaluate", *_overrides(config)]
    others = {key: value for key, value in os.environ.items() if key not in OF_THE_RUN}
    process, told = subprocess.Popen(command, env=others | (environment or {})), 0
    while (code := _ended(process)) is None:
        if stop_signal.signals > told:  # a terminal's Ctrl-C has come to both, and counts there once
            told = stop_signal.signals
            process.terminate()
    return PREEMPTED if told else code


def _ended(process: subprocess.Popen[bytes]) -> int | None:
    """Its exit code; None: it runs on."""
    with suppress(subprocess.TimeoutExpired):
        return process.wait(0.2)
    return None


def _overrides(config: TrainConfig) -> list[str]:
    folder = Path(config.run.dir)
    models = ",".join(
        f"{{name: {name}, path: {quoted(str(path))}}}"
        for name, path in (("base", config.model.path), ("trained", folder / "hf"))
    )
    ours = [f"models=[{models}]", f"run.name={quoted(f'{config.run.name}: base and trained')}"]
    ours.append(f"run.dir={quoted(f'{folder}/evaluation')}")
    ours += [f"wandb.{key}={_value(getattr(config.wandb, key))}" for key in SAME]
    ours.append(f"wandb.name={quoted(f'{run_name(config.wandb, config.run)}: base and trained')}")
    return [*_search_path(), *ours, *(f"{key}={_value(value)}" for key, value in (config.evaluate_after or {}).items())]


def _search_path() -> list[str]:
    """The folders in which this job's files of `conf` are looked for; a script has none."""
    places = HydraConfig.get().searchpath if HydraConfig.initialized() else []
    return [f"{KEY}=[{','.join(map(quoted, places))}]"] if places else []


def _value(value: str | float | None) -> str:
    """As Hydra reads it."""
    return quoted(value) if isinstance(value, str) else json.dumps(value)
