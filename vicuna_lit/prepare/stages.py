"""The stages of the job on one shard: raw → clean → cut. Each reads files and writes files, nothing else.

A stage's `Job` is plain text and a number, so that any process on any machine that sees the folder
can do it, and gives the same bytes.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson

from vicuna_lit.config.prepare import PrepareConfig
from vicuna_lit.prepare import shards
from vicuna_lit.prepare.decontaminate import PARAPHRASE
from vicuna_lit.prepare.dedup import signatures
from vicuna_lit.prepare.shards import Dropped, dumps
from vicuna_lit.prepare.steps import LANGUAGE, Step, StepCount, steps
from vicuna_lit.records.conversation import Conversation, Rejection, is_validation, to_record


class Job(NamedTuple):
    """One shard of one stage."""

    config: str
    """The config as JSON."""
    work: str
    """The folder of the stages' files."""
    shard: int
    files: str
    """The hash of all that the steps read besides: a process that did another job has steps of other files."""


def pipeline_of(job: Job) -> tuple[PrepareConfig, dict[str, Step]]:
    """The job's config and its steps, made once in a process."""
    return _pipeline(job.config, job.files)


@cache
def _pipeline(config: str, _: str) -> tuple[PrepareConfig, dict[str, Step]]:
    parsed = PrepareConfig.model_validate_json(config)
    return parsed, steps(parsed)


@cache
def _encoder(config: str, files: str) -> Any:
    from vicuna_lit.data.tokenizer import make_encoder

    return make_encoder(_pipeline(config, files)[0])


def check(job: Job) -> None:
    """Builds everything once, so that what is wrong is said before the work begins."""
    config, _ = pipeline_of(job)
    if config.cuts:
        _encoder(job.config, job.files)


def clean(job: Job) -> None:
    """Runs the per-conversation steps; writes what is kept, what is not, and the signatures."""
    config, pipeline = pipeline_of(job)
    work = Path(job.work)
    counts = {name: StepCount() for name in ("read", *pipeline)}
    kept: list[Conversation] = []
    files: list[str] = []
    lines: list[bytes] = []
    dropped: list[bytes] = []
    asked: list[bytes] = []
    for row, (source, raw, plugins) in enumerate(shards.read_items(work / "raw" / shards.name(job.shard, "jsonl"))):
        said = Said()
        step, result = _clean(raw, plugins and config.filters.plugins, pipeline, counts, said)
        if isinstance(result, Rejection):
            dropped.append(dumps([row, source, step, list(result)]))
        else:
            kept.append(result)
            files.append(source.rpartition(":")[0])
            lines.append(dumps([row, source, shards.to_json(result), said.language]))
            asked += [dumps({"record": source, "id": result.id, "detail": detail}) for detail in said.paraphrases]
    folder = work / "clean"
    signed = BytesIO()
    if config.dedup.enabled:
        np.save(signed, signatures(kept, config.dedup, files))
        shards.write(folder / shards.name(job.shard, "npy"), [signed.getvalue()])
    shards.write(folder / shards.name(job.shard, "jsonl"), lines)
    shards.write(folder / shards.name(job.shard, "dropped.jsonl"), dropped)
    shards.write(folder / shards.name(job.shard, "paraphrases.jsonl"), asked)
    _finish(folder, job.shard, {"kept": len(kept), "counts": _plain(counts)})


@dataclass
class Said:
    """What steps say of a conversation beside their counts."""

    language: str | None = None
    paraphrases: list[str] = field(default_factory=list)


def _clean(
    raw: Conversation | Rejection, plugins: bool, pipeline: dict[str, Step], counts: dict[str, StepCount], said: Said
) -> tuple[str, Conversation | Rejection]:
    """The name of the last step and its result. A step that fails costs this conversation alone."""
    name, result = "read", raw
    counts["read"].records_in += 1
    for name, step in pipeline.items():
        if isinstance(result, Rejection):
            break
        counts[name].records_in += 1
        tally: Counter[str] = Counter()
        try:
            result = Rejection(result.id, "plugins") if name == "filters" and plugins else step(result, tally)
        except Exception as error:
            result = Rejection(result.id, "step failed", f"{type(error).__name__}: {error}"[:300])
        if name == "language":
            said.language = next((key.removeprefix(LANGUAGE) for key in tally), None)
            tally.clear()
        if name == "decontamination" and tally:
            said.paraphrases = [key.removeprefix(PARAPHRASE) for key in tally]
            tally = Counter({"turns listed: an evaluation question in other words": len(tally)})
        counts[name].changes.update(tally)
        if isinstance(result, Rejection):
            counts[name].rejected[result.reason] += 1
            return name, result
    if isinstance(raw, Rejection):
        counts["read"].rejected[raw.reason] += 1
        return "read", raw
    return name, result


def cut(job: Job) -> None:
    """Leaves out duplicates, splits into train and held-out, cuts to the context, writes the lines of the output."""
    config, _ = pipeline_of(job)
    work, folder = Path(job.work), Path(job.work) / "cut"
    copies = _copies(work / "copies" / shards.name(job.shard))
    dropped = list(_dropped_before(work / "clean" / shards.name(job.shard, "dropped.jsonl")))
    rows: list[tuple[int, str, str | None]] = []
    conversations: list[Conversation] = []
    lost_to: Counter[tuple[str, str]] = Counter()
    with (work / "clean" / shards.name(job.shard, "jsonl")).open("rb") as stream:
        for i, line in enumerate(stream):
            row, source, value, language = orjson.loads(line)
            if i in copies:
                reason, detail, *winner = copies[i]
                dropped.append(Dropped(row, source, "dedup", Rejection(value[0], reason, detail)))
                lost_to.update((name, reason) for name in winner if name)
            else:
                rows.append((row, source, language))
                conversations.append(shards.from_json(value))
    count = StepCount(records_in=len(conversations))
    sets = {name: SetCount() for name in ("train", "validation")}
    lines: dict[str, list[bytes]] = {"train": [], "validation": []}
    samples: list[tuple[str, int]] = []
    cut_up = _pieces(job, config, conversations, count)
    for (row, source, language), whole, pieces in zip(rows, conversations, cut_up, strict=True):
        if isinstance(pieces, Rejection):
            count.rejected[pieces.reason] += 1
            dropped.append(Dropped(row, source, "cut", pieces))
            continue
        side = "validation" if is_validation(whole.split_key, config.validation_fraction) else "train"
        sets[side].add(whole, pieces, language)
        lines[side] += [dumps(to_record(piece.conversation)) for piece in pieces]
        samples.append((sha256(f"sample {whole.id}".encode()).hexdigest(), row))
    for side, written in lines.items():
        shards.write(folder / shards.name(job.shard, f"{side}.jsonl"), written)
    shards.write(folder / shards.name(job.shard, "rejected.jsonl"), [d.line() for d in sorted(dropped)])
    reasons = Counter(d.rejection.reason for d in dropped)
    summary = {"counts": _plain({"cut": count}), "rejected_by_reason": reasons, "samples": sorted(samples)[:SAMPLES]}
    summary["lost_to"] = [[*which, n] for which, n in lost_to.items()]
    _finish(folder, job.shard, summary | {"sets": {side: s.plain() for side, s in sets.items()}})


SAMPLES = 40
"""Conversations of which the card shows some: those whose id hashes to the least."""


class Piece(NamedTuple):
    """What is written as one line, and its length where a tokenizer is given."""

    conversation: Conversation
    tokens: int | None = None
    supervised: int | None = None


def _pieces(
    job: Job, config: PrepareConfig, conversations: list[Conversation], count: StepCount
) -> Iterator[list[Piece] | Rejection]:
    if not config.cuts:
        yield from ([Piece(c)] for c in conversations)
        return
    from vicuna_lit.data.splitting import split

    everything = split(
        conversations, _encoder(job.config, job.files), config.context_length, config.cut.carried_exchanges
    )
    for parts in everything:
        out, lost = [], []
        for part in parts:
            if isinstance(part.result, Rejection):
                lost.append(part)
            else:
                tokens = sum(len(example.input_ids) for example in part.result)
                supervised = sum(int(example.supervised.sum()) for example in part.result)
                out.append(Piece(part.piece, tokens, supervised))
        if out:
            for part in lost:
                count.changes[f"exchanges dropped: {part.result.reason}"] += part.exchanges
            count.changes["pieces more than conversations"] += len(out) - 1
        yield out or lost[0].result


class SetCount:
    """What one of the two sets holds."""

    def __init__(self) -> None:
        self.numbers: Counter[str] = Counter()
        self.turns: Counter[int] = Counter()
        self.lengths: Counter[int] = Counter()
        self.languages: Counter[str] = Counter()

    def add(self, whole: Conversation, pieces: list[Piece], language: str | None) -> None:
        """Counts a conversation and its pieces."""
        self.numbers.update(conversations=1, pieces=len(pieces))
        self.turns[len(whole.turns)] += 1
        self.languages.update([language] if language else [])
        for conversation, tokens, supervised in pieces:
            characters = sum(len(t.content) for t in conversation.turns)
            self.numbers.update(turns=len(conversation.turns), characters=characters)
            self.numbers.update(tokens=tokens or 0, supervised_tokens=supervised or 0)
            length = characters if tokens is None else tokens
            self.lengths[1 << (length.bit_length() - 1) if length else 0] += 1

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        histograms = {"turns": _keys(self.turns), "lengths": _keys(self.lengths), "languages": self.languages}
        return {"numbers": self.numbers, **histograms}


def _keys(counts: Counter[int]) -> dict[str, int]:
    return {str(key): n for key, n in sorted(counts.items())}


def _plain(counts: dict[str, StepCount]) -> dict[str, Any]:
    return {name: [c.records_in, c.rejected, c.changes] for name, c in counts.items()}


def _copies(path: Path) -> dict[int, list[str]]:
    if not path.exists():
        return {}
    return {int(i): copy for i, copy in orjson.loads(path.read_bytes()).items()}


def _dropped_before(path: Path) -> Iterator[Dropped]:
    for line in path.read_bytes().splitlines():
        row, source, step, rejection = orjson.loads(line)
        yield Dropped(row, source, step, Rejection(*rejection))


def _finish(folder: Path, shard: int, summary: dict[str, Any]) -> None:
    shards.write(folder / shards.name(shard), [dumps(summary)])
