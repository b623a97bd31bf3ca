"""The train job: a config in, a run folder out."""

import logging
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import WandbLogger
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from vicuna_lit.chat.engine import Chat
from vicuna_lit.data.datamodule import ConversationData
from vicuna_lit.data.tokenize import Encoder
from vicuna_lit.folder import write_json
from vicuna_lit.tokenizer import make_encoder
from vicuna_lit.train.attention import plain_attention
from vicuna_lit.train.config import TrainConfig
from vicuna_lit.train.folder import Result, already_done, open_folder
from vicuna_lit.train.logbook import Logbook, heldout_metrics, log_replies, peak_memory_bytes, start_wandb
from vicuna_lit.train.model import SupervisedLM, build_model, export
from vicuna_lit.train.module import SupervisedModule
from vicuna_lit.train.terminal import conclude, console, describe

PRECISION = {"fp32": "32-true", "bf16-mixed": "bf16-mixed"}


def fit(config: TrainConfig) -> Result:
    """Runs the job, or finds it already done in its folder.

    Raises:
        RunError, DataError, ModelError, TemplateError, MissingPath: bad input, before anything is written
            (but for a ModelError or OSError when the disk fills).
    """
    folder = Path(config.run.dir)
    if not config.dry_run and (done := already_done(config, folder)):
        console.print(f"{folder} already holds this run's result; run.dir=<another folder> starts a new one.")
        conclude(done, folder)
        return done
    _quiet()
    clock = time.perf_counter()
    L.seed_everything(config.seed, verbose=False)
    encoder = make_encoder(config)
    data = ConversationData(config, encoder)
    data.setup()
    model = build_model(config, encoder, "meta" if config.dry_run else "cpu")
    describe(config, data, model)
    if config.dry_run:
        return Result(
            "dry_run", str(folder), data.plan.steps, int(data.plan.step_supervised.sum()), data=data.statistics()
        )
    open_folder(config, folder, model)
    try:
        result = _run(config, data, model, encoder, folder, clock)
    except BaseException as error:
        write_json(folder / "result.json", {"status": "failed", "error": repr(error)[:1000]})
        raise
    write_json(folder / "result.json", asdict(result))
    conclude(result, folder)
    return result


def _run(
    config: TrainConfig, data: ConversationData, model: PreTrainedModel, encoder: Encoder, folder: Path, clock: float
) -> Result:
    module = SupervisedModule(SupervisedLM(model), config.optimizer, data.plan)
    run = start_wandb(config, data, folder)
    logbook = Logbook(folder)
    trainer = _trainer(config, data, logbook, run)
    try:
        before = _heldout(trainer, module, data)
        module.to(trainer.strategy.root_device)  # Lightning takes it off the device after each call
        replies_before = _answer(config, model, encoder)
        trainer.fit(module, data)
        after = _heldout(trainer, module, data)
        module.to(trainer.strategy.root_device)
        replies_after = _answer(config, model, encoder)
        log_replies(run, replies_before, replies_after)
        export(model, encoder, folder / "hf")
        questions = zip(replies_before, replies_after, strict=True)
        result = Result(
            status="finished",
            run_dir=str(folder),
            steps=data.plan.steps,
            supervised_tokens=logbook.supervised_tokens,
            supervised_tokens_per_second=logbook.tokens_per_second,
            peak_memory_bytes=peak_memory_bytes(),
            seconds=time.perf_counter() - clock,
            heldout_loss_before=before.get("heldout/loss"),
            heldout_loss=after.get("heldout/loss"),
            heldout=after,
            replies=[{"question": q, "before": old, "after": new} for (q, old), (_, new) in questions],
            data=data.statistics(),
        )
        run.summary.update({k: v for k, v in asdict(result).items() if isinstance(v, int | float | str)})
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()
    return result


def _trainer(config: TrainConfig, data: ConversationData, logbook: Logbook, run: Any) -> L.Trainer:
    every, accumulation = config.heldout.every_steps, data.plan.accumulation
    between = every is not None and every < data.plan.steps and len(data.heldout) > 0
    return L.Trainer(
        accelerator=config.trainer.accelerator,
        devices=config.trainer.devices,
        precision=PRECISION[config.precision],  # pyright: ignore[reportArgumentType]
        max_epochs=1,
        max_steps=data.plan.steps,
        accumulate_grad_batches=accumulation,
        limit_val_batches=None if len(data.heldout) else 0,
        val_check_interval=every * accumulation if between and every else None,
        check_val_every_n_epoch=None if between else 2,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        use_distributed_sampler=False,
        logger=WandbLogger(experiment=run),
        callbacks=[logbook],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _heldout(trainer: L.Trainer, module: SupervisedModule, data: ConversationData) -> dict[str, float]:
    if not len(data.heldout):
        return {}
    when = "after" if trainer.global_step else "before"
    with console.status(f"held-out loss {when} training: {len(data.heldout)} conversations …"):
        trainer.validate(module, data, verbose=False)
    console.print(f"held-out loss {when} training: {module.heldout.loss:.4f}", highlight=False)
    return heldout_metrics(module.heldout)


def _answer(config: TrainConfig, model: PreTrainedModel, encoder: Encoder) -> list[tuple[str, str]]:
    """The model's replies to the sample questions, turn after turn."""
    out, training = [], model.training
    model.eval()
    with plain_attention(model):
        for questions in config.sample.questions:
            chat = Chat(model, encoder)
            out += [(question, chat.say(question, config.sample.max_new_tokens)) for question in questions]
    model.train(training)
    return out


def _quiet() -> None:
    """Silences advice that does not apply here."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", ".*LeafSpec.*")
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*There is a wandb run already in progress.*")
