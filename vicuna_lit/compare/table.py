"""Runs that differ by their seed alone, as one row: means with their standard errors."""

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from html import escape

import numpy as np

from vicuna_lit.compare.conversations import differences_of, first_other
from vicuna_lit.compare.run import Run
from vicuna_lit.compare.runs import OURS, Sweep, as_number, short_names
from vicuna_lit.config.base import is_below
from vicuna_lit.intervals import PairedTest, crossed_test, mean_and_deviation, paired_test
from vicuna_lit.run_folder import MODULE_VALUES, RunError

METRICS = ("val_loss", "supervised_tokens_per_second", "peak_memory_bytes", "seconds")
REPEATS = ("seed",)
"""Keys whose values are repetitions of one setting."""
LONGEST = 60
"""Characters of a value that are shown."""
SCALES = {"peak_memory_bytes": (2**30, "peak memory, GiB"), "model_bytes": (2**30, "model, GiB")}
NAMES = {
    "val_loss": "validation loss",
    "val_loss_before": "validation loss before",
    "supervised_tokens_per_second": "supervised tokens/s",
    "seconds": "seconds",
    "steps": "steps",
    "data.train.records_kept": "conversations",
    "tokens": "tokens",
    "supervised_tokens": "supervised tokens",
    "mfu": "MFU",
}


def decimals(error: float) -> int:
    """Decimals that show two digits of an error; four of none."""
    return max(0, 1 - math.floor(math.log10(error))) if error else 4


@dataclass(frozen=True)
class Mean:
    """A mean over repetitions and its standard error: s / √n, None for a single run."""

    mean: float
    """Of the finite values; NaN where there is none."""
    error: float | None
    count: int
    not_finite: int = 0
    """Values that are NaN or infinite, as the loss of a run that diverged."""

    @classmethod
    def of(cls, values: Sequence[float]) -> "Mean | None":
        """None where there is no value."""
        if not values:
            return None
        finite = [v for v in values if math.isfinite(v)]
        n, lost = len(finite), len(values) - len(finite)
        mean, deviation = mean_and_deviation(finite) if finite else (math.nan, None)
        return cls(mean, deviation and deviation / math.sqrt(n), n, lost)

    def __str__(self) -> str:
        """`1.4320 ± 0.0012`: as many digits as the error justifies, four without one; and what is not in it."""
        if not self.not_finite:
            return self._text()
        all_of_them = self.count + self.not_finite
        return f"{self._text()} ({self.not_finite} of {all_of_them} not finite)" if self.count else "not finite"

    def _text(self) -> str:
        if self.error:
            places = decimals(self.error)
            return f"{self.mean:,.{places}f} ± {self.error:,.{places}f}"
        return f"{self.mean:,.{max(0, 4 - len(str(int(abs(self.mean)))) + 1) if self.mean else 0}f}"


@dataclass(frozen=True)
class Setting:
    """One combination of choices, over all its repetitions."""

    choices: dict[str, str]
    """The keys that differ, repetitions left out."""
    runs: tuple[Run, ...]
    metrics: dict[str, Mean | None]
    pairs: tuple[tuple[Run, Run], ...]
    """Each run with that of the baseline in the same repetition; empty for the baseline itself."""
    baseline: bool = False
    """The others are compared with it."""

    @property
    def differences(self) -> list[float]:
        """Validation loss minus the baseline's, within each repetition: what a seed does to both cancels."""
        losses = [(a.metric("val_loss"), b.metric("val_loss")) for a, b in self.pairs]
        found = [a - b for a, b in losses if a is not None and b is not None]
        return [difference for difference in found if math.isfinite(difference)]

    @property
    def incomparable(self) -> str:
        """Why the losses of the pairs cannot be held against each other; empty where they can."""
        for run, other in self.pairs:
            one, two = run.judged_on, other.judged_on
            if one != two and not run.has_the_tokenizer_of(other):
                return (
                    f"their losses are by token of other tokenizers ({run.tokenizer}: {_said(one)}; "
                    f"{other.tokenizer}: {_said(two)}); vicuna-evaluate compares what they answer"
                )
            if one != two:
                return (
                    f"they are judged on other texts ({_said(one)} against {_said(two)}); over context lengths "
                    "validation.context_length=<the longest> makes them alike"
                )
            with suppress(RunError):  # which `unread` says
                held_out, others = run.conversations, other.conversations
                if held_out and others and (first := first_other(held_out, others)):
                    return f"they are judged on other texts, which are as many ({first})"
        return ""

    @property
    def difference(self) -> Mean | None:
        """The mean of `differences`."""
        return Mean.of(self.differences)

    @cached_property
    def test(self) -> PairedTest:
        """Of `differences`, one at least, against zero. Where each run keeps its loss by conversation and all have a
        finite one, it is a test for other conversations too."""
        test, (crossed, _) = paired_test(self.differences), self._by_conversation
        return crossed_test(test, *crossed) if crossed and len(crossed[0]) == test.pairs else test

    @property
    def unread(self) -> str:
        """Why `test` leaves the losses by conversation out; empty where they can be read, or are not kept."""
        return self._by_conversation[1]

    @cached_property
    def _by_conversation(self) -> tuple[tuple[np.ndarray, np.ndarray] | None, str]:
        try:
            return differences_of([(run.conversations, other.conversations) for run, other in self.pairs]), ""
        except RunError as error:
            return None, str(error)

    @property
    def name(self) -> str:
        """`512`, or `512, fsdp` where several keys differ; long values are cut."""
        return ", ".join(map(brief, _with_a_value(self.choices).values())) or "all runs"

    @property
    def label(self) -> str:
        """`context_length=512`, or `context_length=512, strategy=fsdp`."""
        return named(self.choices)


def setting_of(chosen: Mapping[str, str]) -> dict[str, str]:
    """What was chosen for a job, but for what repeats its setting."""
    return {key: value for key, value in chosen.items() if key not in REPEATS}


def named(choices: Mapping[str, str]) -> str:
    """Choices as one text, by the last part of each key; long values are cut."""
    names = short_names(choices)
    return ", ".join(f"{names[key]}={brief(value)}" for key, value in _with_a_value(choices).items()) or "all runs"


def _with_a_value(choices: Mapping[str, str]) -> dict[str, str]:
    """Without the values of own losses that a setting's loss has not."""
    return {key: value for key, value in choices.items() if value or not is_below(key, (MODULE_VALUES,))}


def brief(value: str) -> str:
    """A value for tables and figures; of a long one, such as a whole template, the beginning and a mark of its own."""
    if len(value) <= LONGEST and "\n" not in value:
        return value
    return (
        f"{' '.join(value[:LONGEST].split())[:40]} … {hashlib.sha256(value.encode(errors='replace')).hexdigest()[:6]}"
    )


def settings(
    sweep: Sweep,
    metrics: Sequence[str] = METRICS,
    repeats: Sequence[str] = REPEATS,
    baseline: str | None = None,
) -> tuple[Setting, ...]:
    """The finished runs of a sweep by setting, in order. Of two runs of one setting and repetition the first counts.

    Args:
        metrics: figures of `result.json`.
        repeats: keys whose values are repetitions.
        baseline: the setting that the others are compared with, as `512` or `context_length=512`; None: the one that
            the sweep's command names first. None of the settings is it where it has no finished run.

    Raises:
        RunError: the sweep has no such setting.
    """
    keys = sweep.keys_but(repeats)
    groups: dict[tuple[str, ...], dict[tuple[str, ...], Run]] = defaultdict(dict)
    for run in sweep.finished:
        groups[sweep.choices(run, keys)].setdefault(sweep.choices(run, repeats), run)
    base = baseline_of(sweep, repeats, baseline)
    first = groups.get(base or (), {})
    out = []
    for choices, runs in groups.items():
        values = {m: [v for run in runs.values() if (v := run.metric(m)) is not None] for m in metrics}
        pairs = () if choices == base else tuple((run, first[r]) for r, run in runs.items() if r in first)
        figures = {m: Mean.of(v) for m, v in values.items()}
        chosen = dict(zip(keys, choices, strict=True))
        out.append(Setting(chosen, tuple(runs.values()), figures, pairs, choices == base))
    return tuple(out)


def baseline_of(sweep: Sweep, repeats: Sequence[str], wanted: str | None) -> tuple[str, ...] | None:
    """The choices of the setting that the others are compared with; None of a sweep without runs.

    Raises:
        RunError: the sweep has no such setting.
    """
    keys = sweep.keys_but(repeats)
    all_of_them = dict.fromkeys(sweep.choices(run, keys) for run in sweep.runs)
    if wanted is None:
        first = min(sweep.runs, key=lambda run: _place(sweep, run), default=None)
        return first and sweep.choices(first, keys)
    if sweep.runs and not keys:
        raise RunError(f"baseline {wanted}: the runs are one setting, and there is nothing to compare it with")
    for choices in all_of_them:
        if is_named(dict(zip(keys, choices, strict=True)), wanted):
            return choices
    there = "; ".join(named(dict(zip(keys, choices, strict=True))) for choices in all_of_them)
    raise RunError(f"baseline {wanted}: the sweep has no such setting; there are: {there}")


def _place(sweep: Sweep, run: Run) -> tuple[float, bool]:
    """What runs are ordered by to find the baseline: their number in the sweep. Runs of a script have none; of these
    one with the plain loss comes first."""
    own = any(sweep.choice(run, key) != usual for key, usual in OURS.items())
    return (math.inf if run.number is None else run.number), own


def is_named(choices: Mapping[str, str], wanted: str) -> bool:
    """Whether a setting is meant by `512`, `context_length=512` or `context_length=512, strategy=fsdp`.

    Numbers are compared as such: Hydra writes `lr=1e-3` as `0.001`.
    """
    asked = [part.strip() for part in wanted.split(",")]
    if len(choices) == 1 and "," in wanted:  # a comma inside of the value
        asked.append(wanted)
    return all(any(_is_choice(key, value, part) for part in asked) for key, value in _with_a_value(choices).items())


def _is_choice(key: str, value: str, said: str) -> bool:
    name, equals, of_key = said.partition("=")
    if said == value or (equals and name in (key, key.rpartition(".")[2]) and of_key == value):
        return True
    number, known = as_number(of_key if equals and name in (key, key.rpartition(".")[2]) else said), as_number(value)
    return number is not None and number == known


def copies(sweep: Sweep, repeats: Sequence[str] = REPEATS) -> list[str]:
    """Runs that count no second time, a line each: their folder was named before, or their setting and repetition are
    those of a run before them."""
    keys = (*sweep.keys_but(repeats), *repeats)
    seen: dict[tuple[str, ...], Run] = {}
    lines = [f"{folder} was named more than once, and counts once" for folder in dict.fromkeys(sweep.again)]
    for run in sweep.finished:
        other = seen.setdefault(sweep.choices(run, keys), run)
        if other is not run:
            lines.append(f"{run.folder} does not count: {other.folder} has the same settings")
    return lines


class Table(list[dict[str, str]]):
    """Rows of text by column; draws itself in a notebook."""

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{escape(column)}</th>" for column in (self[0] if self else ()))
        body = "".join("<tr>" + "".join(f"<td>{escape(v)}</td>" for v in row.values()) + "</tr>" for row in self)
        return f"<table><tr>{head}</tr>{body}</table>"


def table(found: Sequence[Setting], metrics: Sequence[str] = METRICS) -> Table:
    """A row for each setting, the baseline's first; columns by their names."""
    out = Table()
    for setting in sorted(found, key=lambda setting: not setting.baseline):
        names = short_names(setting.choices)
        row = {names[key]: brief(value) for key, value in setting.choices.items()}
        row["runs"] = str(len(setting.runs))
        for metric in metrics:
            scale, name = SCALES.get(metric, (1, NAMES.get(metric, metric)))
            row[name] = _scaled(setting.metrics[metric], scale)
            if metric == "val_loss" and len(found) > 1:
                row["pairs"] = "baseline" if setting.baseline else str(len(setting.differences))
                row["difference, paired"] = "–" if setting.baseline else _difference(setting)
        out.append(row)
    return out


def _difference(setting: Setting) -> str:
    """`-0.0021 ± 0.0025`: the mean and half its 95% interval (Student's t); without one `-0.0021`."""
    if not setting.differences:
        return "–"
    if setting.incomparable:
        return "not comparable"
    test = setting.test
    if test.interval is None:
        return f"{test.mean:.4g}" + (" in each pair" if test.pairs > 1 else "")
    return str(Mean(test.mean, (test.interval.high - test.interval.low) / 2, test.pairs))


def _said(judged: tuple[float | None, ...]) -> str:
    examples, exchanges, tokens = (f"{value:,.0f}" if value is not None else "unknown" for value in judged)
    return f"{examples} examples of {exchanges} exchanges, {tokens} supervised tokens"


def _scaled(mean: Mean | None, scale: float) -> str:
    if mean is None:
        return "–"
    return str(Mean(mean.mean / scale, mean.error and mean.error / scale, mean.count, mean.not_finite))
