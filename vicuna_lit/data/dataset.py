"""Files of conversations → tokenised examples, with every record, turn and exchange accounted for."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice, pairwise
from typing import Any, NamedTuple

import numpy as np

from vicuna_lit.config.train import TrainOn
from vicuna_lit.data.chat_template import TEMPLATE_REFUSES
from vicuna_lit.data.encoder import Encoder, Example
from vicuna_lit.data.splitting import TOO_LONG, split
from vicuna_lit.records.conversation import Conversation, DataError, Rejection, trim

CHUNK = 512
"""Records taken together: enough to keep all cores busy, little enough to stay small."""


NumberedExample = tuple[int, Example | float]
"""With the number of the conversation that it is a piece of. Of one that the settings refuse whole, its score alone."""


class Ids(Sequence[str]):
    """The ids of examples, laid flat.

    Args:
        text: uint8 [bytes]: UTF-8, one behind the other.
        ends: int64 [examples]: where each ends.
    """

    def __init__(self, text: np.ndarray, ends: np.ndarray):
        self.text, self.ends = text, ends

    @classmethod
    def of(cls, ids: Iterable[str]) -> "Ids":
        """Of texts."""
        encoded = [id.encode("utf-8", "surrogatepass") for id in ids]
        return cls(
            np.frombuffer(b"".join(encoded), np.uint8), np.cumsum([len(text) for text in encoded], dtype=np.int64)
        )

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        place = range(len(self))[i]
        start = int(self.ends[place - 1]) if place else 0
        return self.text[start : int(self.ends[place])].tobytes().decode("utf-8", "surrogatepass")


@dataclass(frozen=True)
class Examples:
    """All examples of a set, laid flat: a large set costs five bytes a token, in memory or in a file that is mapped."""

    ids: Ids
    input_ids: np.ndarray
    """int32 [tokens]"""
    supervised_mask: np.ndarray
    """bool [tokens]"""
    offsets: np.ndarray
    """int64 [examples + 1]"""
    records: np.ndarray
    """int64 [examples]: the number of the conversation that each is a piece of."""
    replies_before: np.ndarray
    """int64 [examples]: see `Example`."""
    scores: np.ndarray
    """float64 [examples]: see `Conversation`."""
    weights: np.ndarray
    """float32 [tokens], see `Example`; empty where every token counts once."""
    refused: np.ndarray
    """int64 [refused]: the numbers of conversations without an example, since context or template refuse them."""
    refused_scores: np.ndarray
    """float64 [refused]: the scores of these."""

    @classmethod
    def of(cls, examples: Iterable[NumberedExample]) -> "Examples":
        """Lays examples one behind the other."""
        numbers, listed, refused = [], [], {}
        for number, example in examples:
            if isinstance(example, Example):
                numbers.append(number)
                listed.append(example)
            else:
                refused[number] = example
        offsets = np.cumsum([0, *(len(e.input_ids) for e in listed)], dtype=np.int64)
        input_ids = [np.empty(0, np.int32), *(e.input_ids for e in listed)]
        mask = [np.empty(0, bool), *(e.supervised for e in listed)]
        records = np.array(numbers, dtype=np.int64)
        before = np.array([e.replies_before for e in listed], dtype=np.int64)
        weights = [np.empty(0, np.float32)]
        if any(e.weights is not None for e in listed):
            weights += [e.counted for e in listed]
        ids = Ids.of(e.id for e in listed)
        scores = np.array([e.score for e in listed], dtype=np.float64)
        joined = np.concatenate(input_ids), np.concatenate(mask), np.concatenate(weights)
        missing = np.array(list(refused), np.int64), np.array(list(refused.values()), np.float64)
        return cls(ids, joined[0], joined[1], offsets, records, before, scores, joined[2], *missing)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> Example:
        if not 0 <= i < len(self):
            raise IndexError(i)
        span = slice(self.offsets[i], self.offsets[i + 1])
        before = int(self.replies_before[i])
        score = float(self.scores[i])
        weights = self.weights[span] if len(self.weights) else None
        return Example(
            self.ids[i], self.input_ids[span], self.supervised_mask[span], None, None, before, score, weights
        )

    def source_of(self, i: int) -> int:
        """The number of the source of an example, see `mixture.JoinedExamples`; here there is one."""
        return 0

    @property
    def lengths(self) -> np.ndarray:
        """int64 [examples]: tokens of each."""
        return np.diff(self.offsets)

    @cached_property
    def supervised(self) -> np.ndarray:
        """int32 [examples]: supervised tokens of each."""
        return self._sums(lambda tokens: self.supervised_mask[tokens], np.int32)

    @cached_property
    def total_weights(self) -> np.ndarray | None:
        """float64 [examples]: of each one's supervised tokens together; None where every one counts once."""
        if not len(self.weights):
            return None
        return self._sums(lambda tokens: self.weights[tokens] * self.supervised_mask[tokens], np.float64)

    def _sums(self, of: Callable[[slice], np.ndarray], kind: type) -> np.ndarray:
        """The sum over each example of a number of its tokens; some examples at a time, for `reduceat` copies them."""
        sums = np.empty(len(self), kind)
        for first in range(0, len(self), CHUNK):
            offsets = self.offsets[first : first + CHUNK + 1]
            values = of(slice(offsets[0], offsets[-1]))
            sums[first : first + CHUNK] = np.add.reduceat(values, offsets[:-1] - offsets[0], dtype=kind)
        return sums


TOOLS = "; template=hermes writes tools for any model, and docs/model.md#templates names others"
OF_TOOLS = re.compile(r"has no tool turn|a call stands in the content|no tools? ")
"""In what a template says of a conversation that it refuses."""


def what_to_do(rejection: Rejection) -> str:
    """The setting that takes a record which the settings refuse, behind a semicolon; empty: there is none."""
    if rejection.reason == TEMPLATE_REFUSES and OF_TOOLS.search(rejection.detail):
        return TOOLS
    if rejection.reason == TOO_LONG:
        return "; context_length=<more> takes what the model has positions for"
    return ""


@dataclass
class DataReport:
    """What became of every record. `records_in` = `records_kept` + `records_rejected`."""

    records_in: int = 0
    records_kept: int = 0
    records_numbered: int = 0
    """Conversations with a reply to train on, whether context and template take them or not."""
    records_unfolded: int = 0
    """Of those kept: conversations that became several examples because the template rewrites earlier turns."""
    rejected_by_reason: Counter[str] = field(default_factory=Counter)
    turns_cut: int = 0
    """Turns before the first question or after the last answer."""
    exchanges_kept: int = 0
    """Questions with their answers that became part of an example."""
    exchanges_rejected_by_reason: Counter[str] = field(default_factory=Counter)
    """Exchanges lost out of records that were kept."""
    empty_replies: int = 0
    """Replies without a visible character or a call, of conversations that came in: trained on as they are."""
    search_marks_removed: int = 0
    """Marks of search results taken out of the answers of conversations that came in."""
    first_rejections: list[Rejection] = field(default_factory=list)

    @property
    def records_rejected(self) -> int:
        """Records of which nothing is used."""
        return sum(self.rejected_by_reason.values())

    def reject(self, rejection: Rejection) -> None:
        """Counts a record; keeps the first few, and the first of each reason, to show."""
        self.rejected_by_reason[rejection.reason] += 1
        if len(self.first_rejections) < 5 or self.rejected_by_reason[rejection.reason] == 1:
            self.first_rejections.append(rejection)

    def nothing_left(self, where: str) -> DataError:
        """The error for a set without a single example."""
        reasons = ", ".join(f"{count} × {reason}" for reason, count in self.rejected_by_reason.most_common())
        first = ""
        if self.first_rejections:
            id, reason, detail = self.first_rejections[0]
            first = f"; the first, {id}: {reason}" + (f" ({detail})" if detail else "")
            first += what_to_do(self.first_rejections[0])
        return DataError(f"{where}: none of {self.records_in} records can be used: {reasons or 'there is none'}{first}")

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {key: dict(value) if isinstance(value, Counter) else value for key, value in vars(self).items()}

    @classmethod
    def of_json(cls, values: dict[str, Any]) -> "DataReport":
        """What `to_json` gave."""
        counts = {key: Counter(value) for key, value in values.items() if isinstance(value, dict)}
        rejections = [Rejection(*one) for one in values["first_rejections"]]
        return cls(**{**values, **counts, "first_rejections": rejections})

    def summary(self) -> dict[str, object]:
        """For `result.json` and W&B."""
        return {
            "records_in": self.records_in,
            "records_kept": self.records_kept,
            "records_unfolded": self.records_unfolded,
            "records_rejected": self.records_rejected,
            "rejected_by_reason": dict(self.rejected_by_reason.most_common()),
            "turns_cut": self.turns_cut,
            "empty_replies": self.empty_replies,
            "search_marks_removed": self.search_marks_removed,
            "exchanges_kept": self.exchanges_kept,
            "exchanges_rejected_by_reason": dict(self.exchanges_rejected_by_reason.most_common()),
        }


class Masks(NamedTuple):
    """What the loss is taken on, see `TokensRecipe`."""

    train_on: TrainOn = "assistant_messages"
    train_on_reasoning: bool = True
    train_on_placeholders: bool = True


EVERY_REPLY = Masks()
"""All of each reply."""


def build_dataset(
    records: Iterable[Conversation | Rejection],
    encoder: Encoder,
    context_length: int,
    most: int | None = None,
    train_on: TrainOn = "assistant_messages",
    train_on_reasoning: bool = True,
) -> tuple[Examples, DataReport]:
    """Tokenises records, see `tokenised`; the examples are held in memory."""
    account, masks = DataReport(), Masks(train_on, train_on_reasoning)
    return Examples.of(tokenised(records, encoder, context_length, account, most, masks)), account


def tokenised(
    records: Iterable[Conversation | Rejection],
    encoder: Encoder,
    context_length: int,
    account: DataReport,
    most: int | None = None,
    masks: Masks = EVERY_REPLY,
) -> Iterator[NumberedExample]:
    """Tokenises records until `most` of them are kept, each example with the number of its conversation.

    Conversations longer than the context are split on turn boundaries, each piece with the system
    prompt; an exchange that is too long by itself is rejected and counted. A conversation keeps its number under
    other settings, which may refuse others: those have a number too.

    Args:
        account: counts what becomes of the records.
    """
    records = iter(records)
    while most is None or account.records_kept < most:
        chunk = list(islice(records, CHUNK if most is None else min(CHUNK, most - account.records_kept)))
        if not chunk:
            break
        yield from _build_chunk(chunk, encoder, context_length, account, masks)


def _masked(examples: list[Example], train_on: TrainOn) -> list[Example]:
    """The examples of a piece with another mask."""
    match train_on:
        case "all_tokens":  # each once, whatever its turn counts: of several examples, what is not shown before
            shown = [1, *(_common_prefix(a.input_ids, b.input_ids) for a, b in pairwise(examples))]
            return [
                replace(e, supervised=np.arange(len(e.input_ids)) >= known, weights=None)
                for e, known in zip(examples, shown, strict=True)
            ]
        case "last_assistant_message":
            example = examples[-1]
            unsupervised = np.flatnonzero(~example.supervised[: np.flatnonzero(example.supervised)[-1]])
            last = example.supervised & (np.arange(len(example.input_ids)) > unsupervised[-1])
            return [replace(example, supervised=last)]
        case "assistant_messages" | "single_turns":
            return examples


def _common_prefix(a: np.ndarray, b: np.ndarray) -> int:
    """How many ids two examples begin with alike; 1 at least, for the first has nothing to be predicted from."""
    n = min(len(a), len(b))
    other = np.flatnonzero(a[:n] != b[:n])
    return max(1, int(other[0]) if len(other) else n)


def _narrowed(example: Example, masks: Masks) -> Example:
    """Without what stands inside the replies and is not to be learnt."""
    for taken, inside in (
        (masks.train_on_reasoning, example.thought),
        (masks.train_on_placeholders, example.placeholder),
    ):
        if not taken and inside is not None:
            example = replace(example, supervised=example.supervised & ~inside)
    return example


def _build_chunk(
    chunk: list[Conversation | Rejection], encoder: Encoder, context_length: int, account: DataReport, masks: Masks
) -> Iterator[NumberedExample]:
    """The examples of some records."""
    account.records_in += len(chunk)
    usable: list[Conversation] = []
    for record in chunk:
        trimmed, cut = (record, 0) if isinstance(record, Rejection) else trim(record)
        if isinstance(trimmed, Rejection):
            account.reject(trimmed)
        else:
            account.turns_cut += cut
            account.empty_replies += sum(t.is_empty for t in trimmed.turns if t.role == "assistant" and t.supervised)
            account.search_marks_removed += trimmed.marks_removed
            usable.append(trimmed)
    most = 1 if masks.train_on == "single_turns" else None
    for conversation, parts in zip(usable, split(usable, encoder, context_length, most=most), strict=True):
        rejections = [part.result for part in parts if isinstance(part.result, Rejection)]
        teaches = any(turn.role == "assistant" and turn.supervised for turn in conversation.turns)
        account.records_numbered += teaches
        if len(rejections) == len(parts):
            account.reject(Rejection(conversation.id, *rejections[0][1:]))
            if teaches:
                yield account.records_numbered, conversation.score
            continue
        account.records_kept += 1
        account.records_unfolded += any(isinstance(part.result, list) and len(part.result) > 1 for part in parts)
        for part in parts:
            if isinstance(part.result, Rejection):
                account.exchanges_rejected_by_reason[part.result.reason] += part.exchanges
            else:
                account.exchanges_kept += part.exchanges
                for example in _masked(part.result, masks.train_on):
                    yield account.records_numbered, replace(_narrowed(example, masks), score=conversation.score)
