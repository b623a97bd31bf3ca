"""What a config trains on: its sources, their files, the examples in them, and the step plan of those."""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from vicuna_lit.config.train import Computation
from vicuna_lit.data.dataset import EVERY_REPLY, DataReport, Examples, Masks, NumberedExample, tokenised
from vicuna_lit.data.encoder import Encoder
from vicuna_lit.data.mixture import JoinedExamples
from vicuna_lit.data.order import Shares
from vicuna_lit.data.token_cache import TokenCache
from vicuna_lit.file_hashes import Hashes, hashes_of
from vicuna_lit.paths import place_of
from vicuna_lit.records.conversation import Conversation, DataError, Rejection, is_validation
from vicuna_lit.records.files import find_files, name_said
from vicuna_lit.records.readers import read

MOST_HELD_OUT = 50_000_000
"""Characters of held-out conversations that are remembered until they are tokenised."""


class ConversationFiles:
    """The files of a config with one source, and the conversations in them."""

    def __init__(self, config: Computation):
        if config.data.path is None:
            raise DataError("data.path is null: a mixture has several sources, see Sources")
        self.config, self.path = config, config.data.path
        self._passed: list[Conversation] | None = None
        self._held_out: tuple[Hashes, list[Conversation]] | None = None
        self.prepared = _prepared(self.path)
        """The folder, where `data.path` is one that `vicuna-prepare` wrote."""

    def examples(self, encoder: Encoder, validation: bool) -> tuple[Examples, DataReport]:
        """Tokenised, with what became of every record; found again in the cache where the same was asked for before.

        Raises:
            DataError: a file has changed while it was read.
        """
        c, data = self.config, self.config.data
        context = (c.validation.context_length if validation else None) or c.context_length
        most = data.max_validation if validation else data.max_conversations
        masks = EVERY_REPLY if validation else Masks(c.train_on, c.train_on_reasoning, c.train_on_placeholders)
        files = hashes_of(self.files)
        whole = not validation and c.step_unit == "conversation"  # the first so many, whatever refuses some of them
        left_out = {"sources", "shares", *(["score_field"] if validation else [])}

        def build(account: DataReport) -> Iterator[NumberedExample]:
            passed = self._held_out[1] if validation and self._held_out and self._held_out[0] == files else None
            records = self.records(validation) if passed is None else iter(passed)
            records, kept = (_first(records, most), None) if whole and most else (records, most)
            yield from tokenised(records, encoder, context, account, kept, masks)
            if hashes_of(self.files) != files:
                raise DataError(f"{self.path}: a file has changed while it was read; start again when it is whole")
            if not validation and self._passed is not None:
                self._held_out = (files, self._passed)

        about = {
            "files": files,
            "validation": validation,
            "read_as": {"prepared": bool(self.prepared), **data.model_dump(mode="json", exclude=left_out)},
            "encoder": encoder.fingerprint,
            "context_length": context,
            "masks": masks._asdict(),
            "whole_conversations": bool(whole and most),
        }
        examples, account = TokenCache(c.token_cache_gb * 1e9).examples(about, build)
        if validation:
            self._held_out = None
        return examples, account

    def nothing_left(self, account: DataReport) -> DataError:
        """The error for a source without a single example to train on."""
        where = name_said(self.path, self.path)
        if (only := self.config.data.from_source) is not None and not account.records_in:
            return DataError(f"{where}: no record to train on is of source {only} (from_source)")
        splits = self.prepared is None and self.config.data.validation_path is None
        if splits and not account.records_in and any(isinstance(record, Conversation) for record in self._side(True)):
            fraction = f"data.validation_fraction={self.config.data.validation_fraction:g}"
            return DataError(f"{where}: all of its conversations are held out; {fraction} may be smaller")
        return account.nothing_left(where)

    def records(self, validation: bool) -> Iterator[Conversation | Rejection]:
        """The conversations of one side as they are read, and why others cannot be."""
        if self.config.data.validation_path is None and self.prepared is None:
            return self._side(validation)
        if validation and self.config.data.validation_path is not None:
            return read(self._file(validation), columns=self.config.data.columns)
        return self._read(self._file(validation), validation)

    def _read(self, file: Path, validation: bool) -> Iterator[Conversation | Rejection]:
        data = self.config.data
        return read(file, None if validation else data.score_field, data.from_source, data.columns)

    def _file(self, validation: bool) -> Path:
        """Training or held-out conversations, where they are files of their own."""
        named = self.config.data.validation_path
        if validation and named is not None:
            return place_of(named)
        if self.prepared is not None:
            return self.prepared / (_validation_file(self.prepared) if validation else "train.jsonl")
        return place_of(self.path)

    def _side(self, validation: bool) -> Iterator[Conversation | Rejection]:
        """The records on one side of the split; broken ones count with the training set.

        The held-out ones that a whole pass for training comes by are remembered, where they are few, so that the files
        are read once.
        """
        fraction, passed, letters, self._passed = self.config.data.validation_fraction, [], 0, None
        for record in self._read(place_of(self.path), validation):
            held_out = isinstance(record, Conversation) and is_validation(record.split_key, fraction)
            if held_out == validation:
                yield record
            elif held_out and isinstance(record, Conversation) and letters < MOST_HELD_OUT:
                letters += sum(len(turn.content) for turn in record.turns)
                passed.append(replace(record, score=math.nan))
        self._passed = passed if letters < MOST_HELD_OUT else None

    @property
    def files(self) -> dict[str, Path]:
        """Where the conversations came from, by name; `validation/…` where `data.validation_path` names them."""
        named = self.config.data.validation_path
        validation = {f"validation/{name}": file for file, name in find_files(place_of(named))} if named else {}
        if self.prepared is not None:
            names = ("train.jsonl",) if named else ("train.jsonl", _validation_file(self.prepared))
            return {name: self.prepared / name for name in names} | validation
        return {name: file for file, name in find_files(place_of(self.path))} | validation

    @property
    def files_as_given(self) -> dict[str, Path]:
        """The same by the paths of the config, for messages."""
        data, out = self.config.data, {}
        for name, file in self.files.items():
            inside = name.removeprefix("validation/") if data.validation_path else name
            given = self.path if inside == name else data.validation_path or ""
            out[given if place_of(given) == file else f"{given}/{inside}"] = file
        return out


def _first(records: Iterator[Conversation | Rejection], most: int) -> Iterator[Conversation | Rejection]:
    """The first so many that can be read, and what lies before the last of them."""
    for record in records:
        yield record
        most -= isinstance(record, Conversation)
        if not most:
            return


class Sources:
    """All that a config trains on: its sources by their names, or the one of `data.path` under an empty name."""

    def __init__(self, config: Computation):
        self.config = config
        self.parts = {
            name: ConversationFiles(config.model_copy(update={"data": data}))
            for name, data in config.data.by_source().items()
        }

    @property
    def _validation(self) -> ConversationFiles:
        """The set of `data.validation_path`; in a mixture no source's columns are those of that file."""
        data = next(iter(self.parts.values())).config.data
        columns = None if self.config.data.sources else data.columns
        return ConversationFiles(self.config.model_copy(update={"data": data.model_copy(update={"columns": columns})}))

    @property
    def prepared(self) -> Path | None:
        """The folder of a single source that `vicuna-prepare` wrote."""
        return None if self.config.data.sources else self.parts[""].prepared

    def examples(self, encoder: Encoder, validation: bool) -> tuple[JoinedExamples, dict[str, DataReport]]:
        """The examples of all sources, each tokenised and kept for itself, and each one's account.

        Raises:
            DataError: a source has no usable conversation to train on, or a file has changed while it was read.
        """
        shares, parts = Shares.of_config(self.config.data).amounts, self.parts
        if validation and self.config.data.validation_path:  # one set for all
            parts = {"": self._validation}
        examples, accounts = {}, {}
        for (name, part), share in zip(parts.items(), shares, strict=False):
            examples[name], accounts[name] = part.examples(encoder, validation)
            if not validation and share and not len(examples[name]):
                why = str(part.nothing_left(accounts[name]))
                if name and "data.columns=" in why:
                    why += "; in a mixture they stand in the source, as columns: {…}"
                raise DataError(f"{f'data.sources {name}: ' if name else ''}{why}")
        return JoinedExamples(examples), accounts

    @property
    def files(self) -> dict[str, Path]:
        """Where the conversations came from, by name: `sources/<name>/…` where there are several."""
        found: dict[str, Path] = {}
        for source, part in self.parts.items():
            for name, file in part.files.items():
                shared = not source or (self.config.data.validation_path and name.startswith("validation/"))
                found[name if shared else f"sources/{source}/{name}"] = file
        return found

    @property
    def files_as_given(self) -> dict[str, Path]:
        """The same by the paths of the config, for messages."""
        return {name: file for part in self.parts.values() for name, file in part.files_as_given.items()}

    @cached_property
    def file_hashes(self) -> Hashes:
        """sha256 of each of the files, as they are now."""
        return hashes_of(self.files)


def _validation_file(prepared: Path) -> str:
    """An earlier version of `vicuna-prepare` called it otherwise."""
    old = "heldout.jsonl"
    return old if (prepared / old).exists() else "validation.jsonl"


def _prepared(path: str) -> Path | None:
    folder = place_of(path)
    if not folder.is_dir() or not ((folder / "work").is_dir() or (folder / "manifest.json").exists()):
        return None
    if not (folder / "manifest.json").exists():
        raise DataError(f"{folder}: vicuna-prepare has not finished here; give its command again, it goes on")
    return folder
