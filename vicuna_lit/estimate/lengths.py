"""How long the conversations of a config are: as tokenised, or those of ShareGPT."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vicuna_lit.config.compose import ConfigError
from vicuna_lit.config.estimate import EstimateConfig
from vicuna_lit.data.order import apportion
from vicuna_lit.data.plan import ExampleLengths, Plan, plan_run
from vicuna_lit.data.source import Sources
from vicuna_lit.paths import ModelError, locate
from vicuna_lit.records.conversation import DataError

LENGTHS = ".csv"
"""The suffix of a file of lengths instead of conversations."""


@dataclass(frozen=True)
class Known:
    """How long the examples are, and where that is from."""

    sizes: ExampleLengths
    conversations: int
    source: str


def sizes_of(config: EstimateConfig) -> Known:
    """The sizes of what a config trains on.

    Raises:
        DataError, MissingPath, ModelError, TemplateError: the data or the tokenizer cannot be read.
    """
    paths = config.data.paths
    if not config.data.sources and paths[0].endswith(LENGTHS):
        sizes, count = _of_lengths(config, locate(paths[0]))
        return Known(sizes, count, f"{count:,} conversations as long as ShareGPT's (data=<file> takes yours)")
    if not config.tokenizer_path:
        raise ModelError("model.tokenizer=<folder>: to count the tokens of your data; the weights are not needed")
    from vicuna_lit.data.tokenizer import make_encoder

    found = Sources(config).examples(make_encoder(config), validation=False)[0].sizes
    count = len(np.unique(found.records))
    if config.conversations is not None:
        found, count = _repeated(found, config.conversations), config.conversations
    return Known(found, count, f"{count:,} conversations of {', '.join(paths)}")


def _of_lengths(config: EstimateConfig, file: Path) -> tuple[ExampleLengths, int]:
    """Cuts exchanges into pieces of a context, as `data.split` does, and has as many conversations as asked for.

    Raises:
        DataError: the file is none of lengths.
    """
    try:
        head = file.read_text(encoding="utf-8").split("\n", 1)[0].split()
        system, stands_for = int(head[3]), int(head[-2])
        record, tokens, supervised = np.loadtxt(file, np.int64, delimiter=",", skiprows=2).T
    except (ValueError, IndexError):
        raise DataError(f"{file}: no table of lengths, as vicuna_lit/estimate/sharegpt_lengths.csv is one") from None
    pieces: list[tuple[int, int, int, int]] = []
    before, single = -1, config.train_on == "single_turns"
    for number, size, said in zip(record.tolist(), tokens.tolist(), supervised.tolist(), strict=True):
        if size + system > config.context_length:
            before = -1
        elif number != before or single or pieces[-1][1] + size > config.context_length:
            pieces.append((number, size + system, said, said))
            before = number
        else:
            pieces[-1] = (number, pieces[-1][1] + size, pieces[-1][2] + said, said)
    if not pieces:
        raise DataError(f"context_length={config.context_length}: no exchange of {file.name} fits")
    records, lengths, all_said, last_said = np.array(pieces, np.int64).T
    match config.train_on:
        case "last_assistant_message":
            chosen = last_said
        case "all_tokens":
            chosen = lengths - 1
        case "assistant_messages" | "single_turns":
            chosen = all_said
    count = config.conversations or config.data.max_conversations or stands_for
    return _repeated(ExampleLengths(lengths, chosen, records, np.zeros_like(records)), count), count


def _repeated(sizes: ExampleLengths, count: int) -> ExampleLengths:
    """As many conversations as asked for, by repetition; several sources keep their proportions."""
    _, numbers = np.unique(sizes.records, return_inverse=True)
    source_of = np.zeros(int(numbers.max()) + 1, np.int64)
    source_of[numbers] = sizes.sources
    there = np.bincount(source_of)
    which, records = [], []
    for source, own in enumerate(apportion(count, there)):
        examples = np.flatnonzero(sizes.sources == source)
        _, inside = np.unique(numbers[examples], return_inverse=True)
        for time in range(-(-int(own) // max(1, int(there[source])))):
            chosen = inside < own - time * there[source]
            which.append(examples[chosen])
            records.append(numbers[examples[chosen]] + time * len(source_of))
    taken = np.concatenate(which)
    scores = None if sizes.scores is None else sizes.scores[taken]
    lengths, supervised = sizes.lengths[taken], sizes.supervised[taken]
    return ExampleLengths(lengths, supervised, np.concatenate(records), sizes.sources[taken], scores)


def refuse_idle(config: EstimateConfig, known: Known) -> None:
    """
    Raises:
        ConfigError: a step has fewer examples than there are GPUs. The run would be possible, its bill senseless, and
            its plan slow: each GPU has a part in each step.
    """
    of_one = len(known.sizes.lengths) / known.conversations if config.step_unit == "conversation" else 1.0
    if config.count > (examples := of_one * config.conversations_per_step):
        raise ConfigError(
            [
                f"count={config.count}: a step of conversations_per_step={config.conversations_per_step} has about "
                f"{examples:.0f} examples, so the other GPUs would have none; fewer GPUs, or larger steps"
            ]
        )


@contextmanager
def planned_ahead(config: EstimateConfig) -> Iterator[Callable[[], Plan | None]]:
    """Plans the run in a process of its own while this one imports torch: both take seconds.

    Yields:
        What waits for the plan; None where it could not be made: whoever plans again meets the error.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        yield pool.submit(_plan, config).result


def _plan(config: EstimateConfig) -> Plan | None:
    try:
        known = sizes_of(config)
        refuse_idle(config, known)
        return plan_run(config, known.sizes, config.count)
    except Exception:
        return None
