"""The train job: a config in, a run folder out."""

import logging
import shutil
import statistics
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.loggers import WandbLogger
from transformers.utils import logging as transformers_logging

from vicuna_lit.data.datamodule import ConversationData
from vicuna_lit.folder import write_json
from vicuna_lit.tokenizer import make_encoder
from vicuna_lit.train.checkpoint import Checkpoints, newest
from vicuna_lit.train.config import TrainConfig
from vicuna_lit.train.exam import Exam
from vicuna_lit.train.export import export, export_dtype, exported_bytes
from vicuna_lit.train.finetune import save_adapter
from vicuna_lit.train.folder import Result, already_done, open_folder
from vicuna_lit.train.logbook import Logbook, log_replies, start_wandb
from vicuna_lit.train.model import SupervisedLM, build_model
from vicuna_lit.train.module import SupervisedModule
from vicuna_lit.train.strategies import trainer_arguments
from vicuna_lit.train.terminal import conclude, console, describe
from vicuna_lit.train.world import World, join, largest_of_ranks, launch


def fit(config: TrainConfig) -> Result:
    """Runs the job, or finds it already done in its folder.

    With `trainer.devices` above 1 it starts that many processes and waits for them; under torchrun it is one
    of them.

    Raises:
        RunError, DataError, ModelError, TemplateError, MissingPath: bad input, before anything is written
            (but for a ModelError or OSError when the disk fills).
        ProcessesFailed: a process that this one started ended with an error, which it has printed.
    """
    config, world = join(config)
    folder = Path(config.run.dir)
    console.quiet = world.rank > 0
    if not config.dry_run and (done := already_done(config, folder)):
        console.print(f"{folder} already holds this run's result; run.dir=<another folder> starts a new one.")
        conclude(done, folder)
        return done
    _quiet()
    if config.trainer.devices > 1 and not config.dry_run and World.of_environment() is None:
        launch(config)
        done = already_done(config, folder)
        assert done is not None
        return done
    clock = time.perf_counter()
    L.seed_everything(config.seed, verbose=False)
    encoder = make_encoder(config)
    data = ConversationData(config, encoder, world.rank, world.size)
    data.setup()
    start = None if config.dry_run else newest(config, folder)
    elsewhere = config.strategy.kind == "fsdp" and world.rank > 0  # the first rank reads the weights and deals them
    model = build_model(config, encoder, "meta" if config.dry_run or elsewhere else "cpu")
    describe(config, data, model)
    if config.dry_run:
        supervised = int(data.plan.step_supervised.sum())
        return Result("dry_run", str(folder), data.plan.steps, supervised_tokens=supervised, data=data.statistics())
    run = _Run(config, world, data, SupervisedLM.of(model, config), folder, clock)
    return run.train(start, None) if world.rank else run.on_first_rank(start)


class _Run:
    """One process's part of a run."""

    def __init__(
        self,
        config: TrainConfig,
        world: World,
        data: ConversationData,
        lm: SupervisedLM,
        folder: Path,
        clock: float,
    ):
        self.config, self.world, self.data, self.lm = config, world, data, lm
        self.folder, self.clock = folder, clock

    def on_first_rank(self, start: Path | None) -> Result:
        """Trains, and keeps the folder and the W&B run."""
        open_folder(self.config, self.folder, self.lm.model)
        if start is None:  # checkpoints of an earlier run here would be taken for this one's
            shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)
        wandb_run: Any = None
        try:
            wandb_run = start_wandb(self.config, self.data, self.folder)
            result = self.train(start, wandb_run)
            wandb_run.summary.update({k: v for k, v in asdict(result).items() if isinstance(v, int | float | str)})
        except BaseException as error:
            write_json(self.folder / "result.json", {"status": "failed", "error": repr(error)[:1000]})
            if wandb_run is not None:
                wandb_run.finish(exit_code=1)
            raise
        wandb_run.finish()
        write_json(self.folder / "result.json", asdict(result))
        conclude(result, self.folder)
        return result

    def train(self, start: Path | None, wandb_run: Any) -> Result:
        """Takes part in the training; the result is the same on every rank but for its times."""
        config, data = self.config, self.data
        logbook = Logbook(self.folder, writes=self.world.rank == 0)
        exam = Exam(data, logbook)
        checkpoints = Checkpoints(self.folder, config.checkpoint.every_steps)
        callbacks = [logbook, exam, LambdaCallback(on_train_end=self._export), checkpoints]
        trainer = L.Trainer(
            **trainer_arguments(config, self.world),
            max_epochs=1,
            max_steps=data.plan.steps,
            accumulate_grad_batches=data.plan.accumulation,
            limit_val_batches=0,
            log_every_n_steps=1,
            logger=WandbLogger(experiment=wandb_run) if wandb_run is not None else False,
            callbacks=callbacks,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(SupervisedModule(self.lm, config, data.plan), data, ckpt_path=start, weights_only=False)
        if wandb_run is not None:
            log_replies(wandb_run, exam.replies_before, exam.replies_after)
        questions = zip(exam.replies_before, exam.replies_after, strict=True)
        return Result(
            status="finished",
            run_dir=str(self.folder),
            steps=data.plan.steps,
            tokens=int(data.plan.step_tokens.sum()),
            supervised_tokens=logbook.supervised_tokens,
            supervised_tokens_per_second=logbook.tokens_per_second,
            step_seconds=statistics.median(logbook.step_seconds or [0.0]),
            peak_memory_bytes=largest_of_ranks(logbook.memory.overall),
            model_bytes=exported_bytes(self.lm.model, export_dtype(config)),
            seconds=time.perf_counter() - self.clock,
            heldout_loss_before=(exam.before or {}).get("heldout/loss"),
            heldout_loss=exam.after.get("heldout/loss"),
            heldout=exam.after,
            replies=[{"question": q, "before": old, "after": new} for (q, old), (_, new) in questions],
            data=data.statistics(),
        )

    def _export(self, *_: Any) -> None:
        save_adapter(self.lm.model, self.folder / "adapter", self.config.model.path, self.world.rank == 0)
        export(self.lm.model, self.data.encoder, self.folder / "hf", export_dtype(self.config))


def _quiet() -> None:
    """Silences advice that does not apply here."""
    for library in ("lightning.pytorch", "lightning.fabric", "bitsandbytes"):
        logging.getLogger(library).setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", ".*LeafSpec.*")
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*your dataloader is not resumable.*")  # it starts at the right row by itself
    warnings.filterwarnings("ignore", ".*DeepSpeed handles gradient clipping.*")  # and is told the limit
    warnings.filterwarnings("ignore", ".*Please use `torch.distributed.*")  # DeepSpeed's calls
    warnings.filterwarnings("ignore", ".*There is a wandb run already in progress.*")
