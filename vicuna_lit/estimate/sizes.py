"""How long the conversations of a config are: counted once and remembered, or those of ShareGPT."""

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vicuna_lit.conversation import DataError
from vicuna_lit.data.source import Sizes, Source
from vicuna_lit.estimate.config import EstimateConfig
from vicuna_lit.paths import ModelError, locate

LENGTHS = ".csv"
"""The ending of a file that holds lengths in place of conversations."""


@dataclass(frozen=True)
class Known:
    """Sizes, and where they are from."""

    sizes: Sizes
    conversations: int
    source: str


def sizes_of(config: EstimateConfig) -> Known:
    """The sizes of what a config trains on.

    Raises:
        DataError, MissingPath, ModelError, TemplateError: the data or the tokenizer cannot be read.
    """
    path = config.data.path
    if path.endswith(LENGTHS):
        sizes, count = _of_lengths(config, locate(path))
        return Known(sizes, count, f"{count:,} conversations as long as ShareGPT's (data=<file> takes yours)")
    if not config.tokenizer_path:
        raise ModelError("model.tokenizer=<folder>: to count the tokens of your data; the weights are not needed")
    found = _remembered(config)
    count = len(np.unique(found.records))
    if config.conversations is not None:
        found, count = _repeated(found, config.conversations), config.conversations
    return Known(found, count, f"{count:,} conversations of {path}")


def _remembered(config: EstimateConfig) -> Sizes:
    """Reads and tokenises once; afterwards the sizes lie in the cache, as long as the files are the same."""
    source = Source(config)
    files = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in source.files.values()]
    asked = config.model_dump(
        mode="json", include={"data", "template", "system_prompt", "context_length", "supervised"}
    )
    key = hashlib.sha256(json.dumps([files, asked, config.tokenizer_path], sort_keys=True).encode()).hexdigest()
    file = cache_folder() / "sizes" / f"{key[:32]}.npz"
    if file.exists():
        with suppress(OSError, ValueError, KeyError), np.load(file, allow_pickle=False) as saved:
            return Sizes(saved["lengths"], saved["supervised"], saved["records"])
    from vicuna_lit.tokenizer import make_encoder

    found = Sizes.of(source.examples(make_encoder(config), heldout=False)[0])
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.{os.getpid()}.npz")
    np.savez(part, lengths=found.lengths, supervised=found.supervised, records=found.records)
    part.replace(file)
    return found


def cache_folder() -> Path:
    """Of this user: what can be had again by asking again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vicuna_lit"


def _of_lengths(config: EstimateConfig, file: Path) -> tuple[Sizes, int]:
    """Cuts exchanges into pieces of a context, as `data.split` does, and has as many conversations as asked for.

    Raises:
        DataError: the file is none of lengths.
    """
    try:
        head = file.read_text().split("\n", 1)[0].split()
        system, stands_for = int(head[3]), int(head[-2])
        record, tokens, supervised = np.loadtxt(file, np.int64, delimiter=",", skiprows=2).T
    except (ValueError, IndexError):
        raise DataError(f"{file}: no table of lengths, as vicuna_lit/estimate/sharegpt_lengths.csv is one") from None
    pieces: list[tuple[int, int, int, int]] = []
    before, single = -1, config.supervised == "single_turns"
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
    chosen = {"last_reply": last_said, "all_tokens": lengths - 1}.get(config.supervised, all_said)
    count = config.conversations or config.data.max_conversations or stands_for
    return _repeated(Sizes(lengths, chosen, records), count), count


def _repeated(sizes: Sizes, count: int) -> Sizes:
    """As many conversations as asked for, the same ones again and again."""
    _, numbers = np.unique(sizes.records, return_inverse=True)
    times, rest = divmod(count, int(numbers.max()) + 1)
    again = [np.flatnonzero(numbers >= 0)] * times + [np.flatnonzero(numbers < rest)]
    which = np.concatenate(again)
    shift = np.repeat(np.arange(len(again)), [len(part) for part in again]) * (int(numbers.max()) + 1)
    return Sizes(sizes.lengths[which], sizes.supervised[which], numbers[which] + shift)
