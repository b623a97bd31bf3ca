"""What a run prints before it starts and when it is done."""

import logging
import math
import shlex
import warnings
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rich.markup import escape
from rich.table import Table
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from vicuna_lit import notebook
from vicuna_lit.config.choices import LoraConfig
from vicuna_lit.config.train import TrainConfig
from vicuna_lit.data.plan import Plan
from vicuna_lit.data.planned import PlannedData
from vicuna_lit.hub import hide_progress, hides_progress
from vicuna_lit.models.adapters import describe_adapters
from vicuna_lit.models.experts import experts_of
from vicuna_lit.models.proof import Proof
from vicuna_lit.pages import counted
from vicuna_lit.train.notes import notes
from vicuna_lit.train.result import Result

console = notebook.console(soft_wrap=True)
_NOTED: list[str] = []
"""What the newest run of this process has noted before it began."""
MOST_REPLIES = 6
"""That are shown on the screen."""
MOST_OF_A_REPLY = 160
"""Characters that are shown of one; a model that knows nothing repeats itself to the limit."""
FILES = {
    "hf": "the model: transformers opens this folder",
    "adapter": "the adapters alone: PEFT opens this folder",
    "result.json": "losses, speed, memory, replies",
    "metrics.csv": "one row per step",
    "validation.csv": "the validation loss of each held-out conversation",
    "report.html": "what was run, curves, replies, where the time went",
    "wandb": "the W&B run",
}
"""Of a run's folder: what each is."""


def describe(
    config: TrainConfig, data: PlannedData, model: PreTrainedModel, proof: Proof, own: str = ""
) -> dict[str, str]:
    """Prints what will run (model, data, steps, tokens, layout), where the config wants it, and notes; returns the
    lines by their names, for the report.

    Args:
        config: with a choice in the place of each `auto`.
        own: what a script has added, `Extensions.described`.
    """
    rows = _of_every_run(config, data, model, proof) | _of_some_runs(config, data, model, own)
    if config.verbose:
        table = Table.grid(padding=(0, 2))
        for name, text in rows.items():
            table.add_row(name, text)
        console.print(table)
    _say_notes(list(notes(config, data, getattr(model.config, "max_position_embeddings", None))), config.verbose)
    return rows


def _say_notes(found: list[str], verbose: bool) -> None:
    """In a loop of runs that print a line each, those of the run before are not printed again, but counted."""
    if found and found == _NOTED and not verbose:
        found = [f"{counted(len(found), 'notes')} as of the run before; report.html has them"]
    else:
        _NOTED[:] = found
    for line in found:
        console.print(f"[yellow]note:[/] {escape(line)}", highlight=False)


def _of_every_run(config: TrainConfig, data: PlannedData, model: PreTrainedModel, proof: Proof) -> dict[str, str]:
    plan = data.plan
    adapters = sum(p.numel() for name, p in model.named_parameters() if ".lora_" in name)
    parameters, trained = model.num_parameters() - adapters, model.num_parameters(only_trainable=True)
    part = f"{trained:,} trained ({trained / parameters:.2%}), " if trained != parameters else ""
    tokens, supervised = int(plan.step_tokens.sum()), int(plan.step_supervised.sum())
    return {
        "model": f"{parameters:,} parameters, {part}{type(model).__name__}, {config.precision}; {proof}",
        **_of_the_data(data),
        "steps": f"{counted(plan.steps, 'steps')} of {counted(config.conversations_per_step, f'{config.step_unit}s')}, "
        f"{counted(round(plan.epochs, 2) or plan.epochs, 'epochs')}",
        "tokens": f"{tokens:,} tokens, {supervised:,} supervised ({supervised / tokens:.0%})",
        "recipe": _recipe(config),
        "layout": f"{spread(config, plan)} a step of up to {plan.tokens_per_device:,} tokens, {plan.fill:.0%} full",
        "kernels": f"attention {config.attention}, layers {'by Liger' if config.kernels == 'liger' else 'of torch'}"
        f"{', compiled' * bool(config.compile)}; gradient checkpointing: {config.gradient_checkpointing}",
    }


def _of_the_data(data: PlannedData) -> dict[str, str]:
    """What is trained on, and what was rejected."""
    report = data.report
    held, pieces = len(np.unique(data.validation.records)), len(data.validation)
    in_pieces = f" as {counted(pieces, 'examples')}" if pieces != held else ""
    dropped = ", ".join(f"{n} {reason}" for reason, n in report.rejected_by_reason.items()) or "none"
    lost = ", ".join(f"{n} {reason}" for reason, n in report.exchanges_rejected_by_reason.items())
    first = next((f"; the first, {r.id}: {r.reason} ({r.detail})" for r in report.first_rejections if r.detail), "")
    return {
        "data": f"{report.records_kept:,} of {report.records_in:,} training records → "
        f"{counted(len(data.train), 'examples')}; {held:,} others held out{in_pieces}",
        "rejected": f"{dropped}; exchanges of kept records: {lost or 'none'}; turns cut: {report.turns_cut}{first}",
    }


def _of_some_runs(config: TrainConfig, data: PlannedData, model: PreTrainedModel, own: str) -> dict[str, str]:
    """What only some configs have."""
    rows = {"own": own} if own else {}
    if config.model.add_tokens:
        rows["added"] = _added(config.model.add_tokens, data)
    if config.extends is not None:
        after = f"the order goes on after {config.taken_before or 0:,} {config.step_unit}s"
        rows["extends"] = f"{config.extends}: its weights and optimizer state; {after}"
    if config.data.sources:
        rows["sources"] = _sources(data)
    if found := experts_of(model.config):
        rows["experts"] = (
            f"{found[0]} a layer, {found[1]} of them a token; the loss has no part for the router's balance"
        )
    if isinstance(config.finetune, LoraConfig):
        rows["finetune"] = describe_adapters(model, config.finetune.targets)
    return rows


def _added(tokens: tuple[str, ...], data: PlannedData) -> str:
    """`2 tokens: <|im_start|>, <|im_end|>; <s> was one already`."""
    encoder = data.encoder
    there = [t for t in tokens if encoder.tokenizer.convert_tokens_to_ids(t) not in encoder.new_ids]
    new = ", ".join(t for t in tokens if t not in there) or "none"
    said = f"{len(tokens) - len(there)} tokens: {new}"
    return said + (f"; {', '.join(there)} {'were tokens' if len(there) > 1 else 'was one'} already" if there else "")


def _sources(data: PlannedData) -> str:
    """`code: 120 of 400 examples drawn in a pass, 31% of the supervised tokens`, for each source of a mixture."""
    return "; ".join(
        f"{name}: {d['in_one_pass']:,} drawn in a pass, of {len(data.train.parts[name]):,} examples; "
        f"{d['share_of_supervised_tokens']:.1%} of the run's supervised tokens"
        for name, d in data.drawn.items()
    )


def _recipe(config: TrainConfig) -> str:
    """The choices that decide most, and that a forgotten `experiment=` would have made for the user."""
    o, template = config.optimizer, config.template
    name = template.name if template.kind == "text" else "the model's own"
    warmup = f", warm-up {o.warmup_ratio:.0%}" if o.warmup_ratio else ""
    warmup += f", cool-down {o.cooldown_ratio:.0%}" if o.cooldown_ratio else ""
    return (
        f"{o.kind}, lr {o.lr:g}, {o.schedule}{warmup}; context {config.context_length:,}; template {name}; "
        f"loss on {config.loss_on}; finetune {config.finetune.kind}; seed {config.seed}"
    )


def spread(config: TrainConfig, plan: Plan) -> str:
    """`zero3_offload, 8 processes × 2 rows`."""
    processes = f"{plan.world_size} process{'es' if plan.world_size > 1 else ''}"
    rows = f"{plan.accumulation} row{'s' if plan.accumulation > 1 else ''}"
    return f"{config.strategy.facts.name}, {processes} × {rows}"


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**29 else f"{count / 2**20:.0f} MiB"


def _short(reply: str) -> str:
    """A reply that is longer stands whole in the report."""
    if not reply.strip():
        return "(empty)"
    return reply if len(reply) <= MOST_OF_A_REPLY else f"{reply[:MOST_OF_A_REPLY].rstrip()} … (whole in report.html)"


def say_done(result: Result, folder: Path, doubts: Iterable[str] = ()) -> Result:
    """Says in one line that the run's result was there already, and what it was computed with otherwise; returns it."""
    before, after = result.val_loss_before, result.val_loss
    losses = f", validation loss {before:.4f} → {after:.4f}" if before is not None and after is not None else ""
    steps = f"{result.steps} step{'s' * (result.steps != 1)}"
    model = f"the model is in {folder / 'hf'}; run.dir=<another folder> starts a new one"
    if result.status == "stopped":
        steps, model = f"step {result.steps} of {result.planned}", "it stopped there: without stop_after it goes on"
    elif not _whole_model(folder / "hf"):
        model = "the model is gone, or not whole; run.dir=<another folder> trains it again"
    console.print(f"{folder} already holds this run's result: {steps}{losses}; {model}", highlight=False, markup=False)
    for line in doubts:
        console.print(
            f"note: its callbacks, or their values, were others: {line}", style="yellow", markup=False, highlight=False
        )
    return result


def say_stopped(config: TrainConfig, step: int) -> None:
    """Says after which step a run has stopped, and how it goes on."""
    again = "the same command goes on from there"
    if config.resume == "never":
        again = "the same command with resume=auto goes on from there"
    console.print(f"stopped after step {step}: {again}" if step else "stopped before a step was saved", highlight=False)


def conclude(config: TrainConfig, result: Result, folder: Path, said: Collection[str] = ()) -> None:
    """Prints doubts (`notes`), the losses and, but for a job of a sweep, the replies and where everything lies.

    Args:
        config: with `verbose=false` the losses are in one line, and all else is left out.
        said: doubts that stand above already, since the start of this run printed them.
    """
    brief = bool(config.run.swept)
    if config.verbose and not brief:
        _say_replies(result)
    for line in (note for note in result.notes if note not in said):
        console.print(f"[yellow]note:[/] {escape(line)}", highlight=False)
    if not config.verbose:
        _say_in_a_line(result, folder)
        return
    _say_losses(result)
    _say_end(result, brief)
    if not brief and result.status != "stopped":
        _say_files(folder)


def _say_in_a_line(result: Result, folder: Path) -> None:
    before, after, done = result.val_loss_before, result.val_loss, counted(result.steps, "steps")
    losses = f"validation loss {before:.4f} → {after:.4f}, " if before is not None and after is not None else ""
    end = f"; stopped there, of {result.planned}" if result.status == "stopped" else ""
    end += f"; {result.ended_early}" if result.ended_early else ""
    console.print(f"{folder}: {losses}{done} in {result.seconds:.0f} s{end}", markup=False, highlight=False)


def _say_replies(result: Result) -> None:
    for pair in result.replies[:MOST_REPLIES]:
        console.print(f"\n[bold]{escape(pair['question'])}[/]", highlight=False)
        for when, colour in (("before", "bright_black"), ("after", "green")):
            said = f"  {f'{when}:':<7} {_short(pair[when])}"
            console.print(said, style=colour, markup=False, highlight=False, soft_wrap=True)
    if more := len(result.replies[MOST_REPLIES:]):
        console.print(f"\n… {more} more replies in report.html", highlight=False)


def _say_losses(result: Result) -> None:
    if result.val_loss is not None and result.val_loss_before is not None:
        before, after = result.val_loss_before, result.val_loss
        console.print(f"\nvalidation loss {before:.4f} → {after:.4f} (perplexity {math.exp(min(20.0, after)):.2f})")


def _say_end(result: Result, brief: bool) -> None:
    """After which step, and what it has taken."""
    if result.lost_time.get("starts", 1) > 1:
        counts = {key: result.lost_time[key] for key in ("starts", "steps_replayed", "total")}
        shares = {k: seconds / counts["total"] for k, seconds in result.lost_time.items() if k not in counts}
        parts = ", ".join(f"{cause} {share:.0%}" for cause, share in shares.items() if share >= 0.005)
        console.print(
            f"{counted(counts['starts'], 'starts')}, {counted(counts['steps_replayed'], 'steps')} taken again; "
            f"time: {parts}"
        )
    if result.status == "stopped":
        how = "" if brief else ", as stop_after says: the same command without it goes on"
        console.print(f"stopped after step {result.steps} of {result.planned}{how}", highlight=False)
    if result.ended_early:
        console.print(f"ended after step {result.steps}: {escape(result.ended_early)}", highlight=False)
    speed = f"{result.supervised_tokens_per_second:,.0f} supervised tokens/s"
    steps = f"{result.steps} step{'s' * (result.steps != 1)}"
    training = sum(result.lost_time.get(what, 0.0) for what in ("useful", "data", "saving"))
    besides = "sample replies" if result.val_loss is None else "validation"
    whole = f"; {result.seconds:.0f} s with start and {besides}" if 0 < training < result.seconds - 1 else ""
    console.print(f"{steps} in {training or result.seconds:.0f} s, {speed}{whole}", soft_wrap=True)
    console.print(f"peak memory {_size(result.peak_memory_bytes)} a process (the model: {_size(result.model_bytes)})")


def _say_files(folder: Path) -> None:
    """Where everything lies, and what to do with the model."""
    for name, what in FILES.items():
        if (folder / name).exists():
            console.print(f"  {folder / name}", what, sep="  ", highlight=False, soft_wrap=True)
    chat = shlex.join(["vicuna-chat", f"model={folder / 'hf'}", "--terminal"])
    console.print("next, talk to it, or train a real model (docs/quickstart.md):", highlight=False)
    console.print(f"  {chat}", highlight=False, markup=False, soft_wrap=True)
    console.print("  vicuna-train experiment=smollm2_sharegpt", highlight=False)


def _whole_model(folder: Path) -> bool:
    """Whether weights and configs have their bytes; of weights the headers are read, which say how many."""
    files = [*folder.glob("*.safetensors"), folder / "config.json", folder / "tokenizer_config.json"]
    try:
        for file in files[:-2]:
            with safe_open(file, framework="pt"):
                pass
    except (OSError, SafetensorError):
        return False
    return len(files) > 2 and all(file.is_file() and file.stat().st_size for file in files)


LIBRARIES = tuple(map(logging.getLogger, ("lightning.pytorch", "lightning.fabric", "bitsandbytes")))


def quiet_libraries() -> None:
    """Silences advice that does not apply here."""
    for library in LIBRARIES:
        library.setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", ".*LeafSpec.*")
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*DeepSpeed handles gradient clipping.*")  # and is told the limit
    warnings.filterwarnings("ignore", ".*Please use `torch.distributed.*")  # DeepSpeed's calls


@contextmanager
def libraries_restored() -> Iterator[None]:
    """After the block libraries say as much as they did before it, whatever `quiet_libraries` has silenced."""
    levels, verbosity = [library.level for library in LIBRARIES], transformers_logging.get_verbosity()
    shows_progress, hub_is_quiet = transformers_logging.is_progress_bar_enabled(), hides_progress()
    try:
        yield
    finally:
        for library, level in zip(LIBRARIES, levels, strict=True):
            library.setLevel(level)
        transformers_logging.set_verbosity(verbosity)
        if shows_progress:
            with warnings.catch_warnings(action="ignore"):  # of the hub's, where the environment forbids its own
                transformers_logging.enable_progress_bar()
        if hub_is_quiet:
            hide_progress()
