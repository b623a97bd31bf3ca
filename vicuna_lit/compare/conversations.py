"""`validation.csv` of a run: what it loses on each held-out conversation."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np

from vicuna_lit.run_folder import RunError

FILE = "validation.csv"
LOSS = "loss_"
"""In front of a step."""


@dataclass(frozen=True)
class ConversationLosses:
    """Of one run's held-out conversations; those without a supervised token are left out."""

    ids: tuple[str, ...]
    tokens: np.ndarray
    """int64 [conversations]: supervised tokens of each."""
    by_step: dict[int, np.ndarray]
    """float64 [conversations]: mean loss over those tokens, in nats."""

    @property
    def last(self) -> np.ndarray:
        """After the last step."""
        return self.by_step[max(self.by_step)]

    def alike(self, other: "ConversationLosses") -> bool:
        """Whether both are of the same conversations, with as many supervised tokens each."""
        return not first_other(self, other)


def validation_of(folder: Path) -> ConversationLosses | None:
    """None of a run that keeps no such file, as those of earlier versions.

    Raises:
        RunError: it cannot be read.
    """
    path = folder / FILE
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["supervised_tokens"] != "0"]
        steps = [name for name in (rows[0] if rows else ()) if name.startswith(LOSS)]
        by_step = {int(name.removeprefix(LOSS)): np.array([float(row[name]) for row in rows]) for name in steps}
        tokens = np.array([int(row["supervised_tokens"]) for row in rows], np.int64)
        return ConversationLosses(tuple(row["conversation"] for row in rows), tokens, by_step) if by_step else None
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, csv.Error) as error:
        raise RunError(f"{path}: cannot be read: {error!r}") from error


def first_other(one: ConversationLosses, other: ConversationLosses) -> str:
    """The first conversation that two runs do not share, in words; empty where they share all.

    An id counts without the name of its source: a file may be a source of one run, and all that another one has.
    """
    for mine, theirs in zip_longest(_rows(one), _rows(other), fillvalue=("none", 0)):
        if mine != theirs:
            return " against ".join(f"{id[:40]} of {tokens:,} supervised tokens" for id, tokens in (mine, theirs))
    return ""


def _rows(run: ConversationLosses) -> list[tuple[str, int]]:
    return [(id.rpartition("/")[2], tokens) for id, tokens in zip(run.ids, run.tokens.tolist(), strict=True)]


def differences_of(
    pairs: Sequence[tuple[ConversationLosses | None, ConversationLosses | None]],
) -> tuple[np.ndarray, np.ndarray] | None:
    """How the runs of each pair differ on each conversation: [pairs, conversations], and the tokens of each.

    None where the runs do not all have finite losses of the same conversations.
    """
    found = [(one, other) for one, other in pairs if one and other]
    if not found or len(found) < len(pairs) or not all(run.alike(found[0][0]) for pair in found for run in pair):
        return None
    differences = np.array([one.last - other.last for one, other in found])
    return (differences, found[0][0].tokens) if np.isfinite(differences).all() else None
