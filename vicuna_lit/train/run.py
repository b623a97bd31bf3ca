"""The train job: a config in, a run folder out."""

from contextlib import nullcontext
from pathlib import Path

import lightning as L
from transformers import PreTrainedModel

from vicuna_lit.data.datamodule import ConversationData
from vicuna_lit.folder import read_json
from vicuna_lit.tokenizer import make_encoder
from vicuna_lit.train.config import TrainConfig
from vicuna_lit.train.folder import Result, already_done, changed_layout, locked
from vicuna_lit.train.model import SupervisedLM, build_model
from vicuna_lit.train.preemption import Preempted, notice
from vicuna_lit.train.recovery import choose
from vicuna_lit.train.session import Session
from vicuna_lit.train.terminal import conclude, console, describe, quiet_libraries
from vicuna_lit.train.world import World, join, launch, of_first_rank


def fit(config: TrainConfig) -> Result:
    """Runs the job, goes on with it, or finds it already done in its folder.

    With `trainer.devices` above 1 it starts that many processes and waits for them; under torchrun it is one
    of them. Told to stop (SIGTERM, SIGUSR1, Ctrl-C) it saves its state and returns a result with the status
    `preempted`; the same call goes on from there.

    Raises:
        RunError, DataError, ModelError, TemplateError, MissingPath: bad input, before anything is written
            (but for a ModelError or OSError when the disk fills).
        ProcessesFailed: a process that this one started ended with an error, which it has printed.
    """
    with notice.listening():
        notice.grace_seconds = config.checkpoint.grace_seconds
        try:
            return _fit(config)
        except Preempted as stop:
            return _stopped(config, stop.step)


def _stopped(config: TrainConfig, step: int) -> Result:
    """Says how it goes on."""
    again = "the same command goes on from there"
    if config.resume == "never":
        again = "the same command with resume=auto goes on from there"
    console.print(f"stopped after step {step}: {again}" if step else "stopped before the first step", highlight=False)
    return Result("preempted", config.run.dir, steps=step)


def _fit(config: TrainConfig) -> Result:
    config, world = join(config)
    folder = Path(config.run.dir)
    console.quiet = world.rank > 0
    notice.speaks = world.rank == 0
    quiet_libraries()
    if config.dry_run:
        return _dry_run(config, world, folder)
    if done := already_done(config, folder):
        return _found(done, folder)
    if config.trainer.devices > 1 and World.of_environment() is None:
        try:
            launch(config)
        except Preempted:
            console.quiet = True  # the first rank has said it
            stopped = read_json(folder, "result.json") or {}
            raise Preempted(stopped.get("steps", 0)) from None
        done = already_done(config, folder)
        assert done is not None
        return done
    with locked(folder) if world.rank == 0 else nullcontext():
        # Whoever held the lock may have finished the run.
        if done := of_first_rank(already_done(config, folder) if world.rank == 0 else None):
            return _found(done, folder)
        start = choose(folder / "checkpoints", config.resume, world)
        for line in changed_layout(config, folder) if start else ():
            console.print(f"another layout than before: {line}", highlight=False)
        L.seed_everything(config.seed, verbose=False)
        data, model = _load(config, world)
        return Session(config, world, data, SupervisedLM.of(model, config), folder, start).run()


def _found(done: Result, folder: Path) -> Result:
    console.print(f"{folder} already holds this run's result; run.dir=<another folder> starts a new one.")
    conclude(done, folder)
    return done


def _load(config: TrainConfig, world: World) -> tuple[ConversationData, PreTrainedModel]:
    """Data and model of this process, described on the first."""
    encoder = make_encoder(config)
    data = ConversationData(config, encoder, world.rank, world.size)
    data.setup()
    notice.check()
    elsewhere = config.strategy.kind == "fsdp" and world.rank > 0  # the first rank reads the weights and deals them
    model = build_model(config, encoder, "meta" if config.dry_run or elsewhere else "cpu")
    notice.check()
    describe(config, data, model)
    return data, model


def _dry_run(config: TrainConfig, world: World, folder: Path) -> Result:
    data, _ = _load(config, world)
    supervised = int(data.plan.step_supervised.sum())
    return Result("dry_run", str(folder), data.plan.steps, supervised_tokens=supervised, data=data.statistics())
