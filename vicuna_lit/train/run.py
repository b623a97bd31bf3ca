"""The train job: a config in, a run folder out."""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import Logger
from transformers import PreTrainedModel

from vicuna_lit.config.train import TrainConfig
from vicuna_lit.data.auto_template import template_and_tokenizer
from vicuna_lit.data.conversation import Conversation
from vicuna_lit.data.datamodule import ConversationDataModule
from vicuna_lit.data.packing import Plan
from vicuna_lit.data.tokenizer import Tokenizer, make_encoder
from vicuna_lit.estimate.memory import lightest_here
from vicuna_lit.file_hashes import refuse_other_files
from vicuna_lit.hub import fetched
from vicuna_lit.models.architecture import model_config
from vicuna_lit.models.automatic import on_gpu, resolved
from vicuna_lit.models.causal_lm import SupervisedLM, build_model
from vicuna_lit.models.proof import prove
from vicuna_lit.run_folder import RunError, locked, read_json
from vicuna_lit.train.callbacks.checkpointing import CheckpointCallback, find_resume_point
from vicuna_lit.train.callbacks.export import ExportCallback
from vicuna_lit.train.callbacks.metrics import MetricsCallback
from vicuna_lit.train.callbacks.validation import Validation
from vicuna_lit.train.console import conclude, console, describe, quiet_libraries
from vicuna_lit.train.distributed import DistributedEnv, broadcast_object, join, launch, same_bits
from vicuna_lit.train.early import refuse_early
from vicuna_lit.train.extensions import Extensions, profiler_of, with_data
from vicuna_lit.train.identity import files_read
from vicuna_lit.train.module import SupervisedModule
from vicuna_lit.train.preemption import Preempted, stop_signal
from vicuna_lit.train.record import RunRecord
from vicuna_lit.train.run_folder import Result, already_done, changed_layout, dated, files_of_run, result_in
from vicuna_lit.train.strategies import built_on, keep_signals, trainer_arguments
from vicuna_lit.train.throughput import Throughput
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
            return _stopped(config, stop.step)


def _stopped(config: TrainConfig, step: int) -> Result:
    """Says how it goes on."""
    again = "the same command goes on from there"
    if config.resume == "never":
        again = "the same command with resume=auto goes on from there"
    console.print(f"stopped after step {step}: {again}" if step else "stopped before the first step", highlight=False)
    return Result("preempted", config.run.dir, steps=step)


def _fit(config: TrainConfig, own: Extensions) -> Result:
    config, env = join(fetched(config, weights=not config.dry_run))
    folder = Path(config.run.dir)
    console.quiet = env.rank > 0
    stop_signal.announces = env.rank == 0
    quiet_libraries()
    scripted, own = own != Extensions(), own.and_configured(config.callbacks)
    config, tokenizer = template_and_tokenizer(config) if env.rank == 0 else (config, None)
    config = broadcast_object(dated(config, folder) if env.rank == 0 else None)
    if config.show_masks:
        raise RunError("show_masks is for vicuna-train without -m; a script shows a mask with vicuna_lit.show_mask")
    if config.dry_run:
        return _dry_run(config, env, folder, tokenizer)
    if done := already_done(config, folder, own.identity):
        return _found(done, folder)
    refuse_early(config)
    if config.trainer.accelerator == "gpu" and not on_gpu(config):
        raise RunError("trainer.accelerator=gpu: torch finds no GPU here; trainer.accelerator=auto trains on the CPU")
    stop_signal.check()
    if config.trainer.devices > 1 and DistributedEnv.of_environment() is None:
        if scripted:
            raise RunError(
                f"own callbacks, loggers and modules cannot be sent to processes that this one starts: run the script "
                f"by `torchrun --nproc-per-node {config.trainer.devices}`, then each process runs it"
            )
        try:
            launch(config)
        except Preempted:
            console.quiet = True  # the first rank has said it
            stopped = read_json(folder, "result.json") or {}
            raise Preempted(stopped.get("steps", 0)) from None
        done = result_in(folder)
        assert done is not None
        return done
    with locked(folder, stop_signal.check) if env.rank == 0 else nullcontext():
        # Whoever held the lock may have finished the run.
        if done := broadcast_object(already_done(config, folder, own.identity) if env.rank == 0 else None):
            return _found(done, folder)
        start = find_resume_point(folder / "checkpoints", config.resume, env)
        files = broadcast_object(files_read(config) if env.rank == 0 else None)
        if start:  # raises where a key of the recipe differs
            changed_layout(config, folder, own.identity)
            anew = "run.dir=<another folder>, or resume=never starts anew"
            refuse_other_files(folder, files_of_run(folder), files, anew)
        L.seed_everything(config.seed, verbose=False)
        config, data, model = _load(config, env, tokenizer)
        own.check_early_stopping(config.validation.every_steps, len(data.validation))
        for line in changed_layout(config, folder, own.identity) if start else ():  # again: no `auto` is left now
            console.print(f"changed since the last start: {line}", highlight=False)
        record = RunRecord(config, env, data, SupervisedLM.of(model, config), start, own)
        with record.open(files):
            result = record.finish(_train(record))
    if env.rank == 0:
        conclude(result, folder, brief=bool(config.run.swept))
    return result


def _train(record: RunRecord) -> Result:
    """Every step of the plan that is left, by Lightning's loop; the result is the same on every rank."""
    config, data, own = record.config, record.data, record.own
    before, times, history = record.before, record.times, record.history
    throughput = Throughput(config, record.lm.model, data.plan)
    metrics = MetricsCallback(record.folder, before.get("rows", []), history, times, throughput)
    checkpoints = CheckpointCallback(
        record.folder / "checkpoints", config.checkpoint, record.env, record.start, times,
        about=lambda: record.state(metrics, validation), best=lambda: validation.best,
    )  # fmt: skip
    validation = Validation(data, history, times, before.get("validation"), checkpoints.stop_if_told)
    record.fill_history(metrics, validation)
    done, steps = data.start, data.plan.steps
    trainer = L.Trainer(
        **trainer_arguments(config, record.env),
        max_epochs=1,
        max_steps=steps - done,
        accumulate_grad_batches=data.plan.accumulation,
        limit_train_batches=None if done < steps else 0,
        check_val_every_n_epoch=2,  # never by Lightning: there is one epoch, and `Validation` knows the run's steps
        num_sanity_val_steps=0,
        inference_mode=False,
        log_every_n_steps=1,
        logger=[HistoryLogger(history), *own.loggers],
        profiler=profiler_of(config.callbacks, record.folder),
        callbacks=[
            metrics, checkpoints, validation, *own.all_callbacks, ExportCallback(record, validation, checkpoints, done),
        ],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    keep_signals(trainer)
    trainer.fit(own.module(record.lm, config, data.plan, done), data)
    return record.result(metrics, validation, checkpoints, done + trainer.global_step)


def _found(done: Result, folder: Path) -> Result:
    console.print(f"{folder} already holds this run's result; run.dir=<another folder> starts a new one.")
    conclude(done, folder)
    return done


def _load(
    config: TrainConfig, env: DistributedEnv, tokenizer: Tokenizer | None
) -> tuple[TrainConfig, ConversationDataModule, PreTrainedModel]:
    """The config with a value for each `auto`, the data and the model of this process; the first one describes them."""
    encoder = make_encoder(config, loaded=tokenizer)
    proof = prove(model_config(config, encoder.tokenizer))
    data = ConversationDataModule(config, encoder, env.rank, env.size)
    data.setup()
    stop_signal.check()
    model = build_model(config, encoder, built_on(config, env))
    stop_signal.check()
    chosen = _resolved(config, env, model, data.plan)
    describe(chosen, data, model, proof)
    return chosen, data, model


def _resolved(config: TrainConfig, env: DistributedEnv, model: PreTrainedModel, plan: Plan) -> TrainConfig:
    """Replaces each `auto` of the layout by a value, the same on every rank."""
    config = resolved(config, model, on_gpu(config))
    if config.gradient_checkpointing != "auto":
        return config
    level = lightest_here(config, plan) if env.rank == 0 else None
    return config.model_copy(update={"gradient_checkpointing": broadcast_object(level)})


def _dry_run(config: TrainConfig, env: DistributedEnv, folder: Path, tokenizer: Tokenizer | None) -> Result:
    _, data, _ = _load(config, env, tokenizer)
    supervised = int(data.plan.step_supervised.sum())
    return Result("dry_run", str(folder), data.plan.steps, supervised_tokens=supervised, data=data.statistics())
