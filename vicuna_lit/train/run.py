"""The train job: a config in, a run folder out."""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import Logger
from transformers import PreTrainedModel

from vicuna_lit.config.halving import step_of
from vicuna_lit.config.train import TrainConfig
from vicuna_lit.data.auto_template import template_and_tokenizer
from vicuna_lit.data.conversation import Conversation
from vicuna_lit.data.datamodule import ConversationDataModule
from vicuna_lit.data.tokenizer import Tokenizer, make_encoder
from vicuna_lit.estimate.memory import resolved_here
from vicuna_lit.file_hashes import Hashes
from vicuna_lit.hub import fetched
from vicuna_lit.models.architecture import model_config
from vicuna_lit.models.automatic import on_gpu
from vicuna_lit.models.causal_lm import SupervisedLM, build_model
from vicuna_lit.models.proof import prove
from vicuna_lit.run_folder import RunError, locked
from vicuna_lit.train.callbacks.checkpointing import CheckpointCallback, find_resume_point
from vicuna_lit.train.callbacks.export import ExportCallback
from vicuna_lit.train.callbacks.metrics import MetricsCallback
from vicuna_lit.train.callbacks.stopping import StopAfterStep
from vicuna_lit.train.callbacks.validation import Validation
from vicuna_lit.train.console import conclude, console, describe, quiet_libraries, say_done, say_stopped
from vicuna_lit.train.distributed import DistributedEnv, broadcast_object, join, launch, same_bits
from vicuna_lit.train.early import refuse_early
from vicuna_lit.train.extensions import Extensions, profiler_of, with_data
from vicuna_lit.train.first_validation import first_validation
from vicuna_lit.train.lineage import origin_of
from vicuna_lit.train.module import SupervisedModule
from vicuna_lit.train.preemption import Preempted, Stopped, stop_signal
from vicuna_lit.train.record import RunRecord
from vicuna_lit.train.run_folder import Result, already_done, as_begun, changed_settings, check_resume, files_read
from vicuna_lit.train.strategies import built_on, keep_signals, trainer_arguments
from vicuna_lit.train.throughput import Throughput
from vicuna_lit.train.times import Opening
from vicuna_lit.train.tracking.history_logger import HistoryLogger


def fit(
    config: TrainConfig,
    callbacks: Sequence[L.Callback] = (),
    loggers: Sequence[Logger] = (),
    module: type[SupervisedModule] = SupervisedModule,
    data: Iterable[Conversation | dict[str, Any]] | None = None,
) -> Result:
    """Runs the job, resumes it, or finds it already done in its folder.

    With `trainer.devices` above 1 it starts that many processes and waits for them; under torchrun it is one
    of them. Told to stop (SIGTERM, SIGUSR1, Ctrl-C) it saves its state and returns a result with the status
    `preempted`; the same call goes on from there.

    Args:
        callbacks: of Lightning, such as `EarlyStopping("val/loss")`; their state is part of the checkpoints.
        loggers: of Lightning; they see what `SupervisedModule` says that it logs.
        module: another loss, for instance. Its name is part of what the run is.
        data: conversations in place of the config's, or records as they would stand in a file.

    Raises:
        RunError, DataError, ModelError, TemplateError, MissingPath: bad input, before anything is written
            (but for a ModelError or OSError when the disk fills).
        ProcessesFailed: a process that this one started ended with an error, which it has printed.
    """
    if data is not None:
        config = with_data(config, data)
    with stop_signal.listening(), same_bits(config.deterministic):
        stop_signal.grace_seconds = config.checkpoint.grace_seconds
        try:
            return _fit(config, Extensions(tuple(callbacks), tuple(loggers), module))
        except Preempted as stop:
            say_stopped(config, stop.step)
            return Result("preempted", config.run.dir, steps=stop.step)


def _fit(config: TrainConfig, extensions: Extensions) -> Result:
    opening = Opening(stop_signal.started)
    opening.lap("imports")
    config, env = join(fetched(config, weights=not config.dry_run))
    folder = Path(config.run.dir)
    console.quiet = env.rank > 0
    stop_signal.announces = env.rank == 0
    quiet_libraries()
    scripted, extensions = extensions, extensions.and_configured(config.callbacks)
    config, tokenizer = template_and_tokenizer(config) if env.rank == 0 else (config, None)
    config = broadcast_object(as_begun(config, folder) if env.rank == 0 else None)
    if config.show_masks:
        raise RunError("show_masks is for vicuna-train without -m; a script shows a mask with vicuna_lit.show_mask")
    if config.dry_run:
        _, data, _ = _load(config, env, opening, tokenizer)
        told = {"supervised_tokens": int(data.plan.step_supervised.sum()), "data": data.statistics()}
        return Result("dry_run", config.run.dir, data.plan.steps, **told)
    if done := already_done(config, folder, extensions.identity):
        return say_done(done, folder)
    refuse_early(config)
    if config.trainer.accelerator == "gpu" and not on_gpu(config):
        raise RunError("trainer.accelerator=gpu: torch finds no GPU here; trainer.accelerator=auto trains on the CPU")
    stop_signal.check()
    if config.trainer.devices > 1 and DistributedEnv.of_environment() is None:
        scripted.refuse_other_processes(config.trainer.devices)
        console.quiet = True  # the first rank speaks
        return launch(config)
    with locked(folder, stop_signal.check) if env.rank == 0 else nullcontext():
        # Whoever held the lock may have finished the run.
        if done := broadcast_object(already_done(config, folder, extensions.identity) if env.rank == 0 else None):
            return say_done(done, folder)
        start = find_resume_point(folder / "checkpoints", config.resume, env)
        files = broadcast_object(files_read(config) if env.rank == 0 else None)
        if start:
            check_resume(config, folder, files, extensions.identity)
        origin = origin_of(config, folder, start is not None, files, extensions.identity, env)
        L.seed_everything(config.seed, verbose=False)
        config, data, model = _load(config, env, opening, tokenizer)
        extensions.check_early_stopping(config.validation.every_steps, len(data.validation))
        # Again, because now there is no `auto` left.
        for line in changed_settings(config, folder, extensions.identity) if start else ():
            console.print(f"changed since the last start: {line}", highlight=False)
        data.start = start.step if start else 0
        record = RunRecord(config, env, data, SupervisedLM.of(model, config), start, extensions, origin)
        record.opening = opening
        with record.open(files):
            result = record.finish(_train(record, files))
    if env.rank == 0:
        conclude(result, folder, brief=bool(config.run.swept))
    return result


def _train(record: RunRecord, files: Hashes) -> Result:
    """Every step of the plan that is left, by Lightning's loop; the result is the same on every rank."""
    config, data, extensions = record.config, record.data, record.extensions
    before, times, history = record.before, record.times, record.history
    throughput = Throughput(config, record.lm.model, data.plan)
    metrics = MetricsCallback(record.folder, before.get("rows", []), history, times, throughput)
    checkpoints = CheckpointCallback(
        record.folder / "checkpoints", config.checkpoint, record.env, record.start, record.origin, times,
        about=lambda: record.state(metrics, validation), best=lambda: validation.best,
    )  # fmt: skip
    unwatched = record.env.rank == 0 and not (record.start or record.origin) and extensions == Extensions()
    first = first_validation(config, data, files) if unwatched and len(data.validation) else None
    validation = Validation(data, history, times, before.get("validation"), checkpoints.stop_if_told, first)
    record.fill_history(metrics, validation)
    done, steps = data.start, data.plan.steps
    stop = step_of(config.stop_after, steps, config.validation.interval(steps))
    if stop is not None and done >= stop:
        return record.result(metrics, validation, checkpoints, done, stopped=True)
    trainer = L.Trainer(
        **trainer_arguments(config, record.env),
        max_epochs=1, max_steps=steps - done,
        accumulate_grad_batches=data.plan.accumulation,
        limit_train_batches=None if done < steps else 0,
        check_val_every_n_epoch=2,  # never by Lightning: there is one epoch, and `Validation` knows the run's steps
        num_sanity_val_steps=0, inference_mode=False, log_every_n_steps=1,
        logger=[HistoryLogger(history), *extensions.loggers],
        profiler=profiler_of(config.callbacks, record.folder),
        callbacks=[
            metrics, checkpoints, validation, *extensions.all_callbacks, StopAfterStep(stop, checkpoints),
            ExportCallback(record, validation, checkpoints, done),
        ],
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    keep_signals(trainer)
    try:
        trainer.fit(extensions.module(record.lm, config, data.plan, done), data)
    except Stopped as stopped:
        return record.result(metrics, validation, checkpoints, stopped.step, stopped=True)
    return record.result(metrics, validation, checkpoints, done + trainer.global_step)


def _load(
    config: TrainConfig, env: DistributedEnv, opening: Opening, tokenizer: Tokenizer | None
) -> tuple[TrainConfig, ConversationDataModule, PreTrainedModel]:
    """The config with a value for each `auto`, the data and the model of this process; the first one describes them."""
    encoder = make_encoder(config, loaded=tokenizer)
    opening.lap("tokenizer")
    proof = prove(model_config(config, encoder.tokenizer))
    opening.lap("proof")
    data = ConversationDataModule(config, encoder, env.rank, env.size)
    data.setup()
    opening.lap("conversations")
    stop_signal.check()
    model = build_model(config, encoder, built_on(config, env))
    opening.lap("model")
    stop_signal.check()
    # The first rank's memory decides for all.
    config = broadcast_object(resolved_here(config, model, data.plan) if env.rank == 0 else None)
    describe(config, data, model, proof)
    return config, data, model
