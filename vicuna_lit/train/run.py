"""The train job: a config in, a run folder out. `fit` → `load_run` (data, plan, model) → `_train` → `RunRecord.finish`.

Two starts of one run may differ in every key that `Recipe` lacks (`resume.MAY_CHANGE`): those of `Layout` and
`RunSettings`. All three are in `config/train.py`. Of `trainer`, `epochs` and `max_steps` are the recipe's and the rest
(`devices`, `accelerator`, `peak_tflops`) is layout; of `callbacks`, `early_stopping` is the recipe's and the rest
(`WatchingCallbacks`) is run settings. What the files hold, and a script's own module, must stay too (`check_resume`); a
script's other callbacks are said. The first start decides `template_date` and `taken_before` (`as_begun`), and the
Hub's commits (`hub.fetched`).

Where things go (`conf/` is beside the package; CONTRIBUTING.md has the same with what tests and documentation need):

- a key: a field with its docstring in the one of the three classes that it belongs to, and its default in
  `conf/train.yaml`; what it must have of other keys is checked in `config/train_checks.py`. A folder of an earlier
  version lacks it, which counts as null: one of the recipe with another default refuses it, and says "absent". A test
  asks for what a layout key needs besides: a value in `tests/proof/test_invariance.py`, which shows that the losses
  stay; and for a key of the tokens: its part of `about` in `data/source.py`, which names the kept tokens;
- a loss: `SupervisedModule.loss` in a subclass, `fit(module=…)`; a validation still takes the cross-entropy;
- a callback: `fit(callbacks=…)`; one with a name: its keys and a field in `config/callbacks.py` (`DecidingCallbacks`
  where it changes the result), null and its name in the help of `conf/train.yaml`, `conf/callbacks/`, its case in
  `Extensions.and_configured`; `test_choices.py` names what is absent;
- a strategy: a class in `config/choices.py` with its facts, and in `StrategyConfig` there; `conf/strategy/`; a class in
  `train/strategies/`. The type checker names the two cases that it needs, in `strategy_of` and in the estimate's
  `residence`, and each fact and method that is absent. A new kind of shard also: `partition` (`models/export.py`),
  `whole` (`models/adapters.py`) and `_traffic` (`estimate/time.py`);
- a template: a YAML file in `conf/template/`; for `template=auto` its family in `data/auto_template.py`
  (`FAMILIES`; Llama's versions in `_llama`);
- a figure of each step: `MetricsCallback.on_train_batch_end` for what is measured, `MetricsCallback.figures` for what
  follows from `COLUMNS` and the plan (asked again on resume, of rows that lack a column which is newer than they are);
  of a validation: `ValidationLoss.metrics`; its panel in `wandb_workspace.py`. Or `self.log` in a module or callback of
  one's own, under any name that the run does not write itself (`HistoryLogger`).
"""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import Logger

from vicuna_lit.config.halving import step_of
from vicuna_lit.config.train import TrainConfig
from vicuna_lit.data.datamodule import ConversationDataModule
from vicuna_lit.file_hashes import Hashes
from vicuna_lit.models.automatic import on_gpu
from vicuna_lit.models.causal_lm import SupervisedLM
from vicuna_lit.records.conversation import Conversation
from vicuna_lit.run_folder import RunError, locked
from vicuna_lit.train.callbacks.checkpointing import CheckpointCallback, RestoreCallback, find_resume_point
from vicuna_lit.train.callbacks.export import ExportCallback
from vicuna_lit.train.callbacks.metrics import MetricsCallback
from vicuna_lit.train.callbacks.stopping import StopAfterStep
from vicuna_lit.train.callbacks.validating import ValidationCallback
from vicuna_lit.train.console import conclude, console, say_done
from vicuna_lit.train.distributed import DistributedEnv, broadcast_object, launch
from vicuna_lit.train.early import refuse_early
from vicuna_lit.train.extensions import NOTHING_HELD_OUT, Extensions, profiler_of, with_data
from vicuna_lit.train.lineage import origin_of
from vicuna_lit.train.loss_before import loss_before_cache
from vicuna_lit.train.module import SupervisedModule
from vicuna_lit.train.preemption import Stopped, stop_signal
from vicuna_lit.train.result import Result
from vicuna_lit.train.resume import already_done, changed_settings, check_resume, input_hashes, other_callbacks
from vicuna_lit.train.run_record import RunRecord
from vicuna_lit.train.seeding import seeded
from vicuna_lit.train.setup import join_run, load_run, preemptible, say_plan
from vicuna_lit.train.strategies import keep_signals, strategy_of, trainer_arguments
from vicuna_lit.train.throughput import Throughput
from vicuna_lit.train.tracking.history_logger import HistoryLogger


def fit(
    config: TrainConfig,
    callbacks: Sequence[L.Callback] | L.Callback = (),
    loggers: Sequence[Logger] | Logger = (),
    module: type[SupervisedModule] = SupervisedModule,
    data: Iterable[Conversation | dict[str, Any]] | None = None,
) -> Result:
    """Runs the job, resumes it, or finds it already done in its folder.

    With `trainer.devices` above 1 it starts that many processes and waits for them; under torchrun it is one of them.
    Told to stop (SIGTERM, SIGUSR1, Ctrl-C), all of them save their shards after the step in progress, and raise
    `Preempted`; the result has the status `preempted`, and the same call resumes the run.

    Args:
        callbacks: of Lightning, such as `EarlyStopping("val/loss")`; their state is part of the checkpoints.
        loggers: of Lightning; they see what `SupervisedModule` says that it logs.
        module: another loss, for instance. Its name is part of what the run is.
        data: conversations in place of the config's, or records as they would stand in a file.

    Raises:
        RunError, DataError, ModelError, TemplateError, MissingPath: bad input, or the disk is full.
        ProcessesFailed: a process that this one started ended with an error, which it has printed.
    """
    config = config if data is None else with_data(config, data)
    extensions = Extensions.given(callbacks, loggers, module)
    return preemptible(config, lambda: _fit(config, extensions))


def _fit(config: TrainConfig, extensions: Extensions) -> Result:
    extensions = extensions.and_configured(config.callbacks)
    extensions.refuse_unknown_monitors()
    process = join_run(config)
    config, env, folder = process.config, process.env, Path(process.config.run.dir)
    if config.dry_run:
        return say_plan(process, extensions.described, extensions.identity)
    if done := already_done(config, folder, extensions.identity):
        return say_done(done, folder, other_callbacks(config, folder, extensions.identity, done))
    refuse_early(config)
    if config.trainer.accelerator == "gpu" and not on_gpu(config):
        raise RunError("trainer.accelerator=gpu: torch finds no GPU here; trainer.accelerator=auto trains on the CPU")
    stop_signal.check()
    if config.trainer.devices > 1 and DistributedEnv.of_environment() is None:
        extensions.refuse_other_processes(config.trainer.devices)
        console.quiet = True  # the first rank speaks
        return launch(config)
    with locked(folder, stop_signal.check) if env.rank == 0 else nullcontext(), seeded(config.seed):
        # Whoever held the lock may have finished the run.
        if done := broadcast_object(already_done(config, folder, extensions.identity) if env.rank == 0 else None):
            return say_done(done, folder, other_callbacks(config, folder, extensions.identity, done))
        start = find_resume_point(folder / "checkpoints", config.resume, env)
        hashes = broadcast_object(input_hashes(config) if env.rank == 0 else None)
        if start:
            check_resume(config, folder, hashes, extensions.identity)
        origin = origin_of(config, folder, start is not None, hashes, extensions.identity, env)
        device = strategy_of(config).build_device(env)
        config, data, model, described = load_run(process, ConversationDataModule, device, extensions.described)
        extensions.check_early_stopping(config.validation.every_steps, len(data.validation))
        if config.halving and not len(data.validation):
            raise RunError(f"halving judges by the validation loss, and {NOTHING_HELD_OUT}")
        # `check_resume` refused what may not change; what may is said here, where each `auto` has its value.
        for line in changed_settings(config, folder, extensions.identity) if start else ():
            console.print(f"changed since the last start: {line}", highlight=False)
        data.start = start.step if start else 0
        record = RunRecord(config, env, data, SupervisedLM.of(model, config), start, extensions, origin)
        with record.open(hashes, process.opening, described):
            result = record.finish(_train(record, hashes))
    if env.rank == 0:
        conclude(config, result, folder, record.doubts())
    return result


def _train(record: RunRecord, hashes: Hashes) -> Result:
    """Every step of the plan that is left, by Lightning's loop; the result is the same on every rank."""
    config, data, extensions = record.config, record.data, record.extensions
    resumed, times, history = record.resumed, record.times, record.history
    throughput = Throughput(config, record.lm.model, data.plan)
    metrics = MetricsCallback(record.folder, resumed.get("rows", []), history, times, throughput, config.verbose)
    checkpoints = CheckpointCallback(
        record.folder / "checkpoints", config.checkpoint, record.env, record.start, times,
        about=lambda: record.state(metrics, validation, checkpoints.ended), best=lambda: validation.best,
    )  # fmt: skip
    new = record.env.rank == 0 and not (record.start or record.origin) and extensions == Extensions()
    cache = loss_before_cache(config, data, hashes) if new else None  # callbacks see every validation
    validation = ValidationCallback(data, history, times, resumed.get("validation"), checkpoints.stop_if_told, cache)
    validation.shows = config.verbose
    record.fill_history(metrics, validation)
    done, steps = data.start, data.plan.steps
    over = done == steps or bool(resumed.get("ended"))
    stop = None if over else step_of(config.stop_after, steps, config.validation.interval(steps))
    if stop is not None and done >= stop and not validation.lacks(done):
        return record.result(metrics, validation, checkpoints, done, stopped=True)
    metrics.stop = stop
    trainer = L.Trainer(
        **trainer_arguments(config, record.env),
        max_epochs=1, max_steps=steps - done,
        accumulate_grad_batches=data.plan.accumulation,
        limit_train_batches=0 if over else None,
        check_val_every_n_epoch=2,  # never by Lightning: `ValidationCallback` knows the steps of the run
        num_sanity_val_steps=0, inference_mode=False, log_every_n_steps=1,
        logger=[HistoryLogger(history, record.logged), *extensions.loggers],
        profiler=profiler_of(config.callbacks, record.folder),
        callbacks=[
            metrics, RestoreCallback(checkpoints.folder, record.env, record.start, record.origin),
            *extensions.for_trainer, checkpoints, validation, StopAfterStep(stop, checkpoints),
            ExportCallback(record, validation, checkpoints, done, over),
        ],
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    keep_signals(trainer)
    try:
        with checkpoints.telling_who_left():
            trainer.fit(extensions.module(record.lm, config, data.plan, done), data)
    except Stopped as stopped:
        return record.result(metrics, validation, checkpoints, stopped.step, stopped=True)
    return record.result(metrics, validation, checkpoints, done + trainer.global_step)
