"""What a run loads before it trains. A dry run ends there, and does without Lightning."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from transformers import PreTrainedModel

from vicuna_lit.config.train import TrainConfig
from vicuna_lit.data.auto_template import template_and_tokenizer
from vicuna_lit.data.planned import PlannedData
from vicuna_lit.data.tokenizer import Tokenizer, make_encoder
from vicuna_lit.estimate.memory import resolved_here
from vicuna_lit.hub import fetched
from vicuna_lit.models.architecture import model_config
from vicuna_lit.models.causal_lm import build_model
from vicuna_lit.models.proof import prove
from vicuna_lit.run_folder import RunError
from vicuna_lit.train.console import console, describe, libraries_restored, quiet_libraries, say_stopped
from vicuna_lit.train.distributed import DistributedEnv, broadcast_object, deterministic_kernels, join, plain_torch
from vicuna_lit.train.lineage import check_plan
from vicuna_lit.train.preemption import Preempted, stop_signal
from vicuna_lit.train.result import Result
from vicuna_lit.train.resume import NOTHING, as_begun, refused_in
from vicuna_lit.train.times import Opening

Data = TypeVar("Data", bound=PlannedData)


@dataclass(frozen=True)
class Process:
    """One process of a run, as it begins."""

    config: TrainConfig
    """With its files at hand, its template, and what the run's first start decides (`as_begun`)."""
    env: DistributedEnv
    tokenizer: Tokenizer | None
    """The first process's."""
    opening: Opening


def dry_run(config: TrainConfig) -> Result:
    """What `fit` says of a config that asks for a plan alone.

    Raises:
        RunError, DataError, ModelError, TemplateError, MissingPath: bad input.
    """
    return preemptible(config, lambda: say_plan(join_run(config)))


def preemptible(config: TrainConfig, job: Callable[[], Result]) -> Result:
    """The result of a job, or that it was told to stop."""
    with stop_signal.listening(), deterministic_kernels(config.deterministic), plain_torch(), libraries_restored():
        stop_signal.grace_seconds = config.checkpoint.grace_seconds
        try:
            return job()
        except Preempted as stop:
            say_stopped(config, stop.step)
            return Result("preempted", config.run.dir, steps=stop.step)


def join_run(config: TrainConfig) -> Process:
    """Joins the processes of the run; all have the config of the first."""
    opening = Opening(stop_signal.started)
    opening.lap("imports")
    config, env = join(fetched(config, weights=not config.dry_run))
    console.quiet = env.rank > 0
    stop_signal.announces = env.rank == 0
    quiet_libraries()
    config, tokenizer = template_and_tokenizer(config) if env.rank == 0 else (config, None)
    config = broadcast_object(as_begun(config, Path(config.run.dir)) if env.rank == 0 else None)
    if config.show_masks:
        raise RunError("show_masks is for vicuna-train without -m; a script shows a mask with vicuna_lit.show_mask")
    return Process(config, env, tokenizer, opening)


def say_plan(process: Process, own: str = "", identity: Mapping[str, Any] = NOTHING) -> Result:
    """Says what would run; the model has no weights.

    Args:
        own, identity: `described` and `identity` of a script's `Extensions`.
    """
    folder = Path(process.config.run.dir)
    check_plan(process.config, folder, identity)
    config, data, _, _ = load_run(process, PlannedData, "meta", own)
    if why := refused_in(folder, config, identity):
        console.print(f"note: the run itself would be refused: {why}", style="yellow", markup=False, highlight=False)
    told = {"supervised_tokens": int(data.plan.step_supervised.sum()), "data": data.statistics()}
    return Result("dry_run", config.run.dir, data.plan.steps, **told)


def load_run(
    process: Process, kind: type[Data], device: str, own: str = ""
) -> tuple[TrainConfig, Data, PreTrainedModel, dict[str, str]]:
    """The config with a value for each `auto`, the data and the model of this process, and what was printed of them.

    Args:
        kind: of the data.
        device: that the model is built on.
        own: what a script has added (`Extensions.described`).
    """
    config, env, opening = process.config, process.env, process.opening
    encoder = make_encoder(config, loaded=process.tokenizer)
    opening.lap("tokenizer")
    proof = prove(model_config(config, encoder.tokenizer))
    opening.lap("proof")
    data = kind(config, encoder, env.rank, env.size)
    data.read()
    opening.lap("conversations")
    stop_signal.check()
    model = build_model(config, encoder, device)
    opening.lap("model")
    stop_signal.check()
    # The first rank's memory decides for all.
    config = broadcast_object(resolved_here(config, model, data.plan) if env.rank == 0 else None)
    return config, data, model, describe(config, data, model, proof, own)
