"""The train job: a config in, a run folder out."""

import json
import logging
import math
import shutil
import time
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import WandbLogger
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from vicuna_lit.chat.engine import reply
from vicuna_lit.compose import differences
from vicuna_lit.config import TrainConfig
from vicuna_lit.conversation import Conversation
from vicuna_lit.data.datamodule import ConversationData
from vicuna_lit.data.tokenize import Encoder
from vicuna_lit.train.attention import plain_attention
from vicuna_lit.train.logbook import Logbook, heldout_metrics, log_replies, peak_memory_bytes, start_wandb
from vicuna_lit.train.model import SupervisedLM, build_model, export, make_encoder
from vicuna_lit.train.module import SupervisedModule

console = Console()
PRECISION = {"fp32": "32-true", "bf16-mixed": "bf16-mixed"}


class RunError(ValueError):
    """The run folder cannot be used; the message says what to do."""


@dataclass(frozen=True)
class Result:
    """`result.json`. Losses are in nats per supervised token; null where nothing is held out."""

    status: str
    run_dir: str
    steps: int = 0
    supervised_tokens: int = 0
    supervised_tokens_per_second: float = 0.0
    peak_memory_bytes: int = 0
    seconds: float = 0.0
    heldout_loss_before: float | None = None
    heldout_loss: float | None = None
    heldout: dict[str, float] = field(default_factory=dict)
    """Split by turn and by position, after training."""
    replies: list[dict[str, str]] = field(default_factory=list)
    """Each sample question with the replies before and after."""
    data: dict[str, Any] = field(default_factory=dict)


def train(config: TrainConfig) -> Result:
    """Runs the job, or finds it already done in its folder.

    Raises:
        RunError, DataError, ModelError, TemplateError, MissingPath: bad input, before anything is written.
    """
    folder = Path(config.run.dir)
    if not config.dry_run and (done := _already_done(config, folder)):
        console.print(f"{folder} already holds this run's result; run.dir=<another folder> starts a new one.")
        return done
    _quiet()
    clock = time.perf_counter()
    L.seed_everything(config.seed, verbose=False)
    encoder = make_encoder(config)
    data = ConversationData(config, encoder)
    data.setup()
    model = build_model(config, encoder, "meta" if config.dry_run else "cpu")
    _describe(config, data, model)
    if config.dry_run:
        return Result("dry_run", str(folder), data.plan.steps, int(data.plan.step_supervised.sum()), data=data.statistics())
    _open_folder(config, folder, model)
    try:
        result = _fit(config, data, model, encoder, folder, clock)
    except BaseException as error:
        _write_json(folder / "result.json", {"status": "failed", "error": repr(error)[:1000]})
        raise
    _write_json(folder / "result.json", asdict(result))
    _conclude(result, folder)
    return result


def _fit(
    config: TrainConfig, data: ConversationData, model: PreTrainedModel, encoder: Encoder, folder: Path, clock: float
) -> Result:
    module = SupervisedModule(SupervisedLM(model), config.optimizer, data.plan)
    run = start_wandb(config, data, folder)
    logbook = Logbook(folder)
    trainer = _trainer(config, data, logbook, run)
    try:
        before = _heldout(trainer, module, data)
        replies_before = _answer(config, model, encoder)
        trainer.fit(module, data)
        after = _heldout(trainer, module, data)
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
    trainer.validate(module, data, verbose=False)
    return heldout_metrics(module.heldout)


def _answer(config: TrainConfig, model: PreTrainedModel, encoder: Encoder) -> list[tuple[str, str]]:
    """The model's replies to the sample questions, turn after turn."""
    out, training = [], model.training
    model.eval()
    with plain_attention(model):
        for questions in config.sample.questions:
            conversation = Conversation.of()
            for question in questions:
                conversation = conversation.say("user", question)
                text = reply(model, encoder, conversation, config.sample.max_new_tokens)
                conversation = conversation.say("assistant", text)
                out.append((question, text))
    model.train(training)
    return out


def _already_done(config: TrainConfig, folder: Path) -> Result | None:
    """The result in the folder, if it is of this very config.

    Raises:
        RunError: the folder holds another config's run; the message lists the differences.
    """
    saved = folder / "config.json"
    if not saved.exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise RunError(f"{folder}: exists and is no run folder; choose another with run.dir=<folder>")
        return None
    changed = differences(json.loads(saved.read_text()), config.model_dump(mode="json"))
    if changed:
        lines = "\n  ".join(changed)
        raise RunError(f"{folder} holds a run with other settings; choose another with run.dir=<folder>:\n  {lines}")
    result = folder / "result.json"
    values = json.loads(result.read_text()) if result.exists() else {}
    return Result(**values) if values.get("status") == "finished" else None


def _open_folder(config: TrainConfig, folder: Path, model: PreTrainedModel) -> None:
    """Creates the folder, checks that the results will fit, and writes the resolved config."""
    folder.mkdir(parents=True, exist_ok=True)
    need = sum(p.numel() * p.element_size() for p in model.parameters()) * 1.1 + 10e6
    free = shutil.disk_usage(folder).free
    if free < need:
        raise RunError(f"{folder}: the model needs about {need / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free")
    _write_json(folder / "config.json", config.model_dump(mode="json"))


def _write_json(path: Path, values: Any) -> None:
    """Writes to a temporary name first, so that the file is whole or not there."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(values, indent=1, ensure_ascii=False))
    part.replace(path)


def _quiet() -> None:
    """Silences advice that does not apply here."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*There is a wandb run already in progress.*")


def _describe(config: TrainConfig, data: ConversationData, model: PreTrainedModel) -> None:
    plan, account = data.plan, data.account
    table = Table.grid(padding=(0, 2))
    parameters = sum(p.numel() for p in model.parameters())
    tokens, supervised = int(plan.step_tokens.sum()), int(plan.step_supervised.sum())
    dropped = ", ".join(f"{n} {reason}" for reason, n in account.rejected_by_reason.items()) or "none"
    lost = ", ".join(f"{n} {reason}" for reason, n in account.exchanges_rejected_by_reason.items())
    rows = {
        "model": f"{parameters:,} parameters, {type(model).__name__}, {config.precision}",
        "data": f"{account.records_kept:,} of {account.records_in:,} records → {len(data.train):,} examples, "
        f"{len(data.heldout):,} held out",
        "rejected": f"{dropped}; exchanges of kept records: {lost or 'none'}; turns cut: {account.turns_cut}",
        "steps": f"{plan.steps:,} steps of {config.conversations_per_step} conversations, {plan.epochs:g} epochs",
        "tokens": f"{tokens:,} tokens, {supervised:,} supervised ({supervised / tokens:.0%})",
        "layout": f"{plan.accumulation} rows a step of up to {plan.tokens_per_device:,} tokens, {plan.fill:.0%} full",
    }
    for name, text in rows.items():
        table.add_row(name, text)
    console.print(table)


def _conclude(result: Result, folder: Path) -> None:
    for pair in result.replies:
        console.print(f"\n[bold]{pair['question']}[/]", highlight=False)
        console.print(f"  before: {pair['before']}", style="bright_black", markup=False, highlight=False)
        console.print(f"  after:  {pair['after']}", style="green", markup=False, highlight=False)
    if result.heldout_loss is not None and result.heldout_loss_before is not None:
        perplexity = math.exp(min(20.0, result.heldout_loss))
        console.print(
            f"\nheld-out loss {result.heldout_loss_before:.4f} → {result.heldout_loss:.4f} (perplexity {perplexity:.2f})"
        )
    console.print(
        f"{result.steps} steps in {result.seconds:.0f} s, {result.supervised_tokens_per_second:,.0f} supervised "
        f"tokens/s, peak memory {result.peak_memory_bytes / 2**30:.2f} GiB"
    )
    for name, what in {
        "hf": "the model: transformers, vLLM and others open this folder",
        "result.json": "losses, speed, memory, replies",
        "metrics.csv": "one row per step",
        "wandb": "the W&B run",
    }.items():
        if (folder / name).exists():
            console.print(f"  {folder / name}", what, sep="  ", highlight=False)
