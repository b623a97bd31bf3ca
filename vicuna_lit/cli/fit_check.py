"""What the jobs of a train sweep need, on this machine, before any of them starts."""

import json
from collections.abc import Sequence
from pathlib import Path

from vicuna_lit.config.compose import load
from vicuna_lit.config.estimate import EstimateConfig
from vicuna_lit.config.train import TrainConfig
from vicuna_lit.estimate.report import gib, row_of, say, show_all
from vicuna_lit.estimate.run import Estimator
from vicuna_lit.estimate.tables import gpu_here
from vicuna_lit.pages import counted
from vicuna_lit.whole_files import write_json

ESTIMATES = "estimates.json"


def mark(configs: Sequence[TrainConfig], folder: Path) -> None:
    """Prints what each job needs, and notes those that cannot fit in `estimates.json` of the sweep's folder.

    Raises:
        ConfigError: this machine's GPU is not known.
    """
    estimator, found = Estimator(), []
    for config in configs:
        found.append(estimator.estimate(_here(config)))
    show_all([row_of(e) for e in found], f"{counted(len(found), 'jobs')} in {folder}, estimated")
    cannot = {
        e.config.run.name: f"needs {gib(e.memory.likely)}, there are {gib(e.memory.limit)}; estimate=false tries"
        for e in found
        if not e.fits
    }
    if cannot:
        say(f"not started, for they cannot fit: {', '.join(cannot)}")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / ESTIMATES, {"cannot_fit": cannot})


def cannot_fit(config: TrainConfig) -> str | None:
    """Why a job of a sweep shall not start; None: it may."""
    file = Path(config.run.dir).parent / ESTIMATES
    if not config.estimate or not file.exists():
        return None
    return json.loads(file.read_bytes())["cannot_fit"].get(config.run.name)


def _here(config: TrainConfig) -> EstimateConfig:
    """The same run, on this machine's devices."""
    gpu = "cpu" if config.trainer.accelerator == "cpu" else gpu_here()
    usual = load("estimate").model_dump(include=set(EstimateConfig.model_fields) - set(TrainConfig.model_fields))
    return EstimateConfig.model_validate(
        usual | config.model_dump() | {"gpu": gpu, "count": config.trainer.devices, "price": 1e-9}
    )
