"""What of a run the user may not have meant: said before it starts, and kept with its result."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from vicuna_lit.config.train import TrainConfig
from vicuna_lit.data.chat_template import TEMPLATE_REFUSES
from vicuna_lit.data.dataset import what_to_do
from vicuna_lit.data.planned import PlannedData
from vicuna_lit.data.splitting import TOO_LONG
from vicuna_lit.intervals import FEW_HELD_OUT
from vicuna_lit.train.optimizer import lr_factor

TOY, SHIPPED = "tiny", "package://vicuna_lit/quickstart/"
MOST_HELD_OUT = 0.5
"""A share that leaves enough to train on."""
A_FIFTH = 0.2
"""What is held out of few conversations, where no share makes enough of them, but there shall be a loss."""
SURE = 2.58
"""Standard deviations that a normal distribution falls below by once in 200."""
LOW_FOR_ADAPTERS = 5e-5
"""The QLoRA article takes 2e-4 for 7B and 13B, 1e-4 for larger ones."""
FEW_STEPS = 10
"""Optimizer steps that hardly move a model."""
GROWN = 2.0
"""Times the first training loss that the last one is where something is wrong."""
MANY_LOST = 0.05
"""A share of the records whose loss the user may not have meant."""
LOW = 0.2
"""Of the cross-entropy before training: what an own loss that is a mean in place of a sum is below."""
NO_CHANGE = 1e-5
"""Of a validation loss: below the decimals that are printed, above what rounding alone makes of it."""


def notes(config: TrainConfig, data: PlannedData, positions: int | None) -> Iterator[str]:
    """A line for each doubt.

    Args:
        positions: tokens that the model was made for; None: not known.
    """
    if (
        config.model.kind == "scratch"
        and config.model.name == TOY
        and not all(path.startswith(SHIPPED) for path in config.data.paths)
    ):
        yield (
            "your data train the quickstart's toy, a tiny model with random weights; "
            "model=<folder> fine-tunes a model of yours"
        )
    if config.data.sources and all(path.startswith(SHIPPED) for path in config.data.paths):
        yield "data=mixture has two sources of ours; 'data.sources=[{path: …, name: …, weight: 1}, …]' names yours"
    if not config.strategy.facts.one_process and data.plan.world_size == 1:
        several = "trainer.devices=auto takes every GPU, or a number"
        yield f"strategy={config.strategy.facts.name} runs in one process; {several}"
    steps, busy = data.plan.steps, int(np.diff(data.plan.rows.step_bounds).max(initial=0))
    if busy < data.plan.world_size:
        yield (
            f"{data.plan.world_size - busy:,} of {data.plan.world_size:,} processes never have anything to do: a step "
            f"has {busy:,} example{'s' * (busy != 1)} at most; with trainer.devices={busy} each step takes as long"
        )
    if steps < FEW_STEPS and config.trainer.max_steps is None:
        idle = " (the first at learning rate 0, by the warm-up)" * (not lr_factor(0, steps, config.optimizer))
        few = "step" if steps == 1 else "steps"
        yield (
            f"only {steps} optimizer {few}{idle} of {config.conversations_per_step} {config.step_unit}s; "
            "conversations_per_step=<fewer> or trainer.epochs=<more> makes more"
        )
    if left_out := len(data.plan.left_out):
        yield (
            f"{left_out:,} of {steps + left_out:,} steps are left out: of their conversations none fits; a longer "
            "context_length, or more conversations_per_step"
        )
    if config.finetune.facts.adapters and config.optimizer.lr < LOW_FOR_ADAPTERS:
        yield (
            f"optimizer.lr={config.optimizer.lr:g} is a rate for full fine-tuning; adapters mostly take ten times as "
            "much, such as optimizer.lr=2e-4"
        )
    yield from _of_sources(config, data)
    yield from _of_records(config, data, positions)
    yield from of_held_out(config, data)
    if positions and (far := int((data.validation.lengths > positions).sum())):
        are = f"{far:,} held-out example{'s are' if far > 1 else ' is'} longer"
        yield (
            f"{are} than the {positions:,} tokens that the model was made for, and the validation loss counts "
            f"positions that it has never seen; validation.context_length={positions} leaves none"
        )


def _of_records(config: TrainConfig, data: PlannedData, positions: int | None) -> Iterator[str]:
    """Records that the template cannot write, those that the context cannot hold, and replies that say nothing."""
    for name, account in data.reports.items():
        of = f" of source {name}" if name else ""
        refused = account.rejected_by_reason[TEMPLATE_REFUSES]
        if refused:
            first = next(r for r in account.first_rejections if r.reason == TEMPLATE_REFUSES)
            why = f"{first.id}: {first.detail}{what_to_do(first)}"
            yield f"the template refuses {refused:,} of {account.records_in:,} records{of}; the first, {why}"
        if empty := account.empty_replies:
            are = "replies" + of + " are" if empty > 1 else "reply" + of + " is"
            yield f"{empty:,} {are} empty, and trained on: to say nothing is learnt; vicuna-prepare drops such turns"
        long = account.rejected_by_reason[TOO_LONG]
        if long > MANY_LOST * account.records_in:
            yield (
                f"{long:,} of {account.records_in:,} records{of} hold no exchange that fits into "
                f"context_length={config.context_length}; a longer one takes them{_positions(config, positions)}"
            )
    yield from _of_empty_places(config, data)


def _of_empty_places(config: TrainConfig, data: PlannedData) -> Iterator[str]:
    """Steps that hold fewer conversations than was asked for, since many are refused."""
    if config.step_unit == "conversation" and "" in data.train.parts:
        refused, there = len(data.train.parts[""].refused), data.reports[""].records_numbered
        if refused > MANY_LOST * there:
            held = config.conversations_per_step * (1 - refused / there)
            yield (
                f"{refused:,} of {there:,} conversations are refused and leave their places in the steps empty, as no "
                f"setting may change the others': {held:.3g} of {config.conversations_per_step} are there in the mean; "
                "step_unit=example counts what fits"
            )


def of_held_out(config: TrainConfig, data: PlannedData) -> Iterator[str]:
    """Too few conversations for a validation loss."""
    for name, account in data.validation_reports.items():
        held_out, of = account.records_kept, f" of source {name}" if name else ""
        others = data.reports[name].records_kept if name in data.reports else 0
        prepared = data.source.parts[name].prepared if name in data.source.parts else None
        more = _more_held_out(config, held_out, others, prepared)
        if not len(data.validation.parts[name]):
            yield f"no conversation{of} is held out, so there is no validation loss{of}; {more}"
        elif held_out < FEW_HELD_OUT:
            are = f"{held_out} conversation{'s' if held_out > 1 else ''}{of} {'are' if held_out > 1 else 'is'}"
            yield f"{are} held out, too few for a validation loss that tells two runs apart; {more}"


def _positions(config: TrainConfig, positions: int | None) -> str:
    """What a longer context needs besides, of a model from scratch."""
    if config.model.kind != "scratch" or positions is None or positions > config.context_length:
        return ""
    return ", with as many model.architecture.max_position_embeddings"


def unmoved(config: TrainConfig, losses: Mapping[int, float]) -> Iterator[str]:
    """A line where training has not changed the validation loss: the learning rate is too small to move the weights.

    Args:
        losses: validation losses by step; 0 is before training.
    """
    if len(losses) > 1 and 0 in losses and max(losses.values()) - min(losses.values()) < NO_CHANGE * losses[0]:
        yield (
            f"training has not changed the validation loss: at all {len(losses)} validations it is the same to "
            f"{NO_CHANGE:g} of it; optimizer.lr={config.optimizer.lr:g} may be too small to move a weight"
        )


def worse(config: TrainConfig, validations: Mapping[int, float], steps: Sequence[float]) -> Iterator[str]:
    """A line where the loss has grown by the training: the learning rate is too large, or there are too many passes.

    Args:
        validations: validation losses by step; 0 is before training.
        steps: training losses of all steps. They differ by their examples, so only twice the first is said.
    """
    last = max(validations, default=0)
    what, before, after = "validation", validations.get(0, math.inf), validations.get(last, 0.0)
    much = after > before * (1 + NO_CHANGE)
    if not much and steps:
        what, before, after = "training", steps[0], steps[-1]
        much = after > GROWN * before
    if much:
        yield (
            f"the {what} loss has grown from {before:.4g} to {after:.4g}; optimizer.lr={config.optimizer.lr:g} may be "
            "too large, or the data are passed too often"
        )


def low(validations: Mapping[int, float], steps: Sequence[float]) -> Iterator[str]:
    """A line where an own loss begins far below the cross-entropy of the same model: it may be a mean."""
    before = validations.get(0, 0.0)
    if steps and 0 < steps[0] < LOW * before:
        yield (
            f"the own loss begins with {steps[0]:.2g}, and the cross-entropy before training is {before:.2g}: `loss` "
            'returns the sum over a row\'s tokens (reduction="sum"), which the step divides by their number'
        )


def _more_held_out(config: TrainConfig, held_out: int, others: int, prepared: Path | None) -> str:
    """What to set.

    Args:
        held_out, others: conversations on the two sides of the split.
        prepared: the folder, where `vicuna-prepare` has split them.
    """
    conversations = held_out + others
    if held_out == config.data.max_validation:
        return f"data.max_validation={config.data.max_validation} takes no more"
    if config.data.validation_path is not None:
        return "data.validation_path may hold more"
    if prepared is not None:
        return (
            "vicuna-prepare has split them, so data.validation_fraction says nothing here; "
            "validation_fraction=<more> of vicuna-prepare, or data.validation_path=<file>"
        )
    now, path = config.data.validation_fraction, "data.validation_path=<file>"
    if share := _enough(now, held_out, others):
        about = f"holds out about {conversations * share:.0f}"
        return f"data.validation_fraction={share:g} (now {now:g}) {about}, or {path}"
    if now < A_FIFTH and not held_out and conversations * A_FIFTH >= 1:
        few = f"data.validation_fraction={A_FIFTH:g} (now {now:g}) holds out about {conversations * A_FIFTH:.0f}"
        return f"{few}: a loss, but no share of {conversations} tells two runs apart; {path} names more"
    return f"of {conversations} in all no share is enough; {path} names others"


def _enough(now: float, held_out: int, others: int) -> float | None:
    """The least share, in hundredths, that holds out `FEW_HELD_OUT` conversations but for one time in 200; None: it
    would leave too little to train on. Who is held out now stays so, and each of the others comes by a hash."""
    for hundredths in range(math.floor(100 * now) + 1, math.floor(100 * MOST_HELD_OUT) + 1):
        part = (hundredths / 100 - now) / (1 - now)
        if held_out + others * part - SURE * math.sqrt(others * part * (1 - part)) >= FEW_HELD_OUT:
            return hundredths / 100
    return None


def _of_sources(config: TrainConfig, data: PlannedData) -> Iterator[str]:
    """Sources of which conversations are repeated within a pass, or none is drawn although a share was given."""
    if not config.data.sources:
        return
    unit = f"{config.step_unit}s"
    for source, drawn in zip(config.data.sources, data.drawn.values(), strict=True):
        part = data.train.parts[source.name]
        there = len(part) if config.step_unit == "example" else len(np.unique(part.records))
        taken, (kind, share) = drawn["in_one_pass"], source.share
        if taken > there:
            yield f"source {source.name} has {there:,} {unit}: each is seen {taken / there:.3g} times in one pass"
        elif share and not taken:
            yield f"source {source.name}: {kind}={share:g} of its {there:,} {unit} draws none of them"
