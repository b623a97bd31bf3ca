"""The examples of several sources as one set, what became of each source's records, and what a plan draws of it."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from vicuna_lit.data.dataset import DataReport, Examples
from vicuna_lit.data.encoder import Example
from vicuna_lit.data.plan import ExampleLengths, Plan, Refused


class JoinedExamples:
    """A view over the examples of each source, one source behind the other; nothing is copied.

    Args:
        parts: by the name of the source; an empty name where there is but one.
    """

    def __init__(self, parts: Mapping[str, Examples]):
        self.parts = dict(parts)
        self.names = tuple(self.parts)
        self._ends = np.cumsum([len(part) for part in self.parts.values()], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, i: int) -> Example:
        part, place = self._place(i)
        return part[place]

    def id_of(self, i: int) -> str:
        """The id of an example, below the name of its source."""
        part, place = self._place(i)
        name = self.names[self.source_of(i)]
        return f"{name}/{part.ids[place]}" if name else part.ids[place]

    def source_of(self, i: int) -> int:
        """The number of the source of an example."""
        return int(np.searchsorted(self._ends, i, side="right"))

    def _place(self, i: int) -> tuple[Examples, int]:
        if not 0 <= i < len(self):
            raise IndexError(i)
        source = self.source_of(i)
        part = self.parts[self.names[source]]
        return part, int(i - self._ends[source] + len(part))

    @property
    def sizes(self) -> ExampleLengths:
        """All that a plan needs to know."""
        alone = self.parts.get("")
        refused = Refused(alone.refused, alone.refused_scores) if alone else None
        return ExampleLengths(
            self.lengths, self.supervised, self.records, self.sources, self.scores, self.total_weights, refused
        )

    @property
    def sources(self) -> np.ndarray:
        """int64 [examples]: the number of the source of each."""
        return np.repeat(np.arange(len(self.parts)), [len(part) for part in self.parts.values()])

    @property
    def lengths(self) -> np.ndarray:
        """int64 [examples]: tokens of each."""
        return _joined([part.lengths for part in self.parts.values()])

    @property
    def supervised(self) -> np.ndarray:
        """int32 [examples]: supervised tokens of each."""
        return _joined([part.supervised for part in self.parts.values()])

    @property
    def scores(self) -> np.ndarray:
        """float64 [examples]: see `Conversation`."""
        return _joined([part.scores for part in self.parts.values()])

    @property
    def total_weights(self) -> np.ndarray | None:
        """float64 [examples]: see `Examples.total_weights`."""
        found = {name: part.total_weights for name, part in self.parts.items()}
        if all(weights is None for weights in found.values()):
            return None
        pairs = zip(found.values(), self.parts.values(), strict=True)
        return _joined([part.supervised.astype(np.float64) if w is None else w for w, part in pairs])

    @property
    def records(self) -> np.ndarray:
        """int64 [examples]: the number of the conversation that each is a piece of, unlike those of other sources."""
        numbers, before = [], 0
        for part in self.parts.values():
            numbers.append(part.records + before)
            before = int(numbers[-1].max(initial=before))
        return _joined(numbers)


def _joined(arrays: list[np.ndarray]) -> np.ndarray:
    """One behind the other; a single one is not copied. Nothing keeps them: many examples would be held twice."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def total(reports: Iterable[DataReport]) -> DataReport:
    """The reports of several sources as one."""
    whole = DataReport()
    for account in reports:
        for key, value in vars(account).items():
            before = getattr(whole, key)
            setattr(whole, key, Counter(before) + value if isinstance(value, Counter) else before + value)
    every, whole.first_rejections = whole.first_rejections, []
    for i, one in enumerate(every):
        if i < 5 or one.reason not in {kept.reason for kept in whole.first_rejections}:
            whole.first_rejections.append(one)
    return whole


def counts(examples: Examples | JoinedExamples) -> dict[str, int]:
    """Of examples and their tokens."""
    tokens, supervised = int(examples.lengths.sum()), int(examples.supervised.sum())
    return {"examples": len(examples), "tokens": tokens, "supervised_tokens": supervised}


def statistics(examples: JoinedExamples, reports: Mapping[str, DataReport]) -> dict[str, Any]:
    """Counts of records, exchanges and tokens and, of a mixture, of each source.

    Args:
        reports: by the name of the source; an empty name where there is but one.
    """
    found: dict[str, Any] = total(reports.values()).summary() | counts(examples)
    if "" not in reports:
        parts = {source: counts(part) for source, part in examples.parts.items()}
        found["sources"] = {source: account.summary() | parts[source] for source, account in reports.items()}
    return found


def drawn(examples: JoinedExamples, plan: Plan) -> dict[str, dict[str, Any]]:
    """What a run takes of each source, by its name; what it takes twice counts twice."""
    count = len(examples.names)
    order = plan.rows.order
    sources = examples.sources[order]
    tokens, supervised = (
        np.bincount(sources, values[order], count).astype(np.int64) for values in (plan.lengths, plan.supervised)
    )
    taken = np.bincount(sources, minlength=count)
    return {
        name: {
            "examples": int(taken[i]),
            "tokens": int(tokens[i]),
            "supervised_tokens": int(supervised[i]),
            "share_of_supervised_tokens": float(supervised[i] / supervised.sum()),
            "in_one_pass": int(plan.one_pass[i]),
        }
        for i, name in enumerate(examples.names)
    }


def fingerprint(examples: JoinedExamples, plan: Plan) -> str:
    """Names the tokens, the masks and the order in which a run takes them, whatever the layout."""
    digest = hashlib.sha256()
    for part in examples.parts.values():
        for array in (part.input_ids, part.supervised_mask, part.lengths):
            digest.update(np.ascontiguousarray(array).data)
        if len(part.weights):
            digest.update(np.ascontiguousarray(part.weights).data)
    for step in range(plan.steps):
        digest.update(plan.examples_hash(step).encode())
    return digest.hexdigest()
