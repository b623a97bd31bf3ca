"""What a sweep shows, in words: better, worse, equal within a margin, or not to be told."""

from collections.abc import Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Literal

from vicuna_lit.compare.rungs import rungs_in_words
from vicuna_lit.compare.runs import Sweep, names_of
from vicuna_lit.compare.table import NAMES, REPEATS, Setting, baseline_of, copies, decimals, is_named, named
from vicuna_lit.intervals import (
    FEW_HELD_OUT,
    LEVEL,
    Interval,
    PairedTest,
    equivalence_p,
    holm,
    pairs_needed,
    visible_difference,
)
from vicuna_lit.run_folder import MODULE, RunError

ALPHA = 1 - LEVEL
ALSO = ("steps", "data.train.records_kept", "tokens", "supervised_tokens")
"""Figures of `result.json` that ought to be alike where another key was swept."""
Verdict = Literal["better", "worse", "equal", "unclear", "incomparable"]


@dataclass(frozen=True)
class Conclusion:
    """One setting against the baseline, by the validation losses of the same repetitions."""

    setting: str
    baseline: str
    verdict: Verdict
    """`unclear`: the runs cannot tell. `incomparable`: nothing was compared, `why` says for what reason."""
    pairs: int = 0
    conversations: int = 0
    """That are a sample too, see `intervals.crossed_test`; 0: all is said of those that were held out."""
    difference: float | None = None
    """Nats per supervised token; below zero the setting is better."""
    interval: Interval | None = None
    """95%, of this comparison alone."""
    p: float | None = None
    """Adjusted for all comparisons of the sweep (Holm)."""
    why: str = ""

    def __str__(self) -> str:
        """One sentence or two."""
        heads = {
            "better": f"{self.setting} is better than {self.baseline}",
            "worse": f"{self.setting} is worse than {self.baseline}",
            "equal": f"{self.setting} is equal to {self.baseline}",
            "unclear": f"{self.setting} cannot be told from {self.baseline}",
            "incomparable": f"{self.setting} is not compared with {self.baseline}",
        }
        figures = []
        if self.difference is not None:
            figures.append(f"validation loss {self.difference:+.{digits(self.interval, self.difference)}f}")
        if self.interval:
            figures.append(f"95% interval {in_brackets(self.interval, self.difference or 0.0)}")
        figures += [_design(self.pairs, self.conversations)] if self.pairs else []
        figures += [f"p = {self.p:.2g}"] if self.p is not None and self.interval else []
        head, why = heads[self.verdict], self.why
        if self.verdict == "equal":
            head, why = f"{head} {why}", ""
        said = f"{head}: {', '.join(figures)}" if figures else head
        return f"{said}; {why}." if why else f"{said}."


def digits(interval: Interval | None, difference: float) -> int:
    """Decimals that show two digits of the interval's half width, or four of a difference without one."""
    return decimals((interval.high - interval.low) / 2 if interval else abs(difference) / 100)


def in_brackets(interval: Interval, difference: float) -> str:
    """`[-0.0031, -0.0010]`, with as many decimals as its width justifies."""
    places = digits(interval, difference)
    return f"[{interval.low:+.{places}f}, {interval.high:+.{places}f}]"


def conclude(found: Sequence[Setting], margin: float | None = None) -> list[Conclusion]:
    """A conclusion for each setting but the baseline.

    A setting is equal to the baseline where the difference is shown to lie within the margin. Otherwise a difference
    counts where its p is below 0.05, and the setting is unclear where it is not. Both are adjusted for the number of
    comparisons.

    Args:
        margin: nats per supervised token that make no difference in practice, above 0; None: nothing is called equal,
            but for losses that are the same to the last digit.

    Raises:
        RunError: the margin is not above 0.
    """
    if margin is not None and not margin > 0:
        raise RunError(f"margin {margin:g}: nats that make no difference, above 0, such as 0.002")
    base = next((setting for setting in found if setting.baseline), None)
    if base is None:
        return []
    others = [setting for setting in found if not setting.baseline]
    reasons = [_incomparable(setting, base) for setting in others]
    compared = [(s.label, s.test) for s, why in zip(others, reasons, strict=True) if not why]
    known = iter(conclude_tests(compared, base.label, margin))
    return [
        Conclusion(setting.label, base.label, "incomparable", why=why) if why else next(known)
        for setting, why in zip(others, reasons, strict=True)
    ]


def conclude_tests(tests: Sequence[tuple[str, PairedTest]], base: str, margin: float | None = None) -> list[Conclusion]:
    """The same from tests of paired differences: of each setting's validation losses from the baseline's.

    Args:
        tests: with the name of each setting.
        base: the name of the baseline.
    """
    spread = [test for _, test in tests if test.interval is not None]
    adjusted = iter(holm([test.p for test in spread]))
    equal = iter(holm([equivalence_p(test, margin) for test in spread]) if margin is not None else [1.0] * len(spread))
    return [
        _without_spread(name, base, test)
        if test.interval is None
        else _concluded(name, base, test, next(adjusted), next(equal), margin, len(spread))
        for name, test in tests
    ]


def in_words(
    sweep: Sweep,
    found: Sequence[Setting],
    margin: float | None = None,
    repeats: Sequence[str] = REPEATS,
    baseline: str | None = None,
) -> list[str]:
    """All that there is to say of a sweep, a sentence or two each; empty of one setting.

    Args:
        found: `table.settings` of the same repeats and baseline.
    """
    conclusions = conclude(found, margin)
    lines = [str(conclusion) for conclusion in conclusions]
    if not lines and len(found) + (not any(setting.baseline for setting in found)) > 1:
        which = "the baseline" if baseline else "named first"
        keys, base = sweep.keys_but(repeats), baseline_of(sweep, repeats, baseline) or ()
        stopped = any(run.status == "stopped" and sweep.choices(run, keys) == base for run in sweep.runs)
        why = "was stopped early" if stopped else "has no finished run"
        first = named(dict(zip(keys, base, strict=True)))
        alone = len({sweep.choices(run, keys) for run in sweep.finished}) < 2
        other = quote(found[0].name) if is_named(found[0].choices, found[0].name) else "<setting>"
        what = "no other two settings have finished runs"
        if not alone:
            what = f"--baseline {other} compares the others with that setting"
        lines.append(f"Nothing is compared: {first}, {which}, {why}; {what}.")
    if lines and MODULE in sweep.keys_but(repeats):
        lines.append("Whatever loss they train by, all are judged by the plain validation loss.")
    for unread in dict.fromkeys(setting.unread for setting in found if setting.unread):
        lines.append(f"An interval is for these held-out conversations alone, since {unread}.")
    counts = [c.conversations for c in conclusions if 0 < c.conversations < FEW_HELD_OUT]
    if counts:
        lines.append(
            f"{min(counts)} held-out conversations are few: an interval trusts that others are like them. "
            "A larger data.validation_fraction, or data.validation_path, makes them more."
        )
    if others := besides(found):
        lines.append(f"The settings differ also in {', '.join(others)}: another explanation of what they show.")
    lines += other_files(sweep)
    return lines + [f"{line}." for line in (*stopped_early(sweep, repeats), *copies(sweep, repeats))]


def stopped_early(sweep: Sweep, repeats: Sequence[str] = REPEATS) -> list[str]:
    """Runs that were stopped before their last step (`halving`, `stop_after`), a line for each rung or place: a loss in
    the middle of a run is never held against one at an end."""
    if halved := rungs_in_words(sweep):
        return halved
    keys, places = sweep.keys_but(repeats), dict[str, dict[tuple[str, ...], list[float]]]()
    for run in sweep.runs:
        if run.status == "stopped":
            place = f"after step {run.result.get('steps')} of {run.result.get('planned')}"
            loss = run.metric("val_loss")
            of_setting = places.setdefault(place, {}).setdefault(sweep.choices(run, keys), [])
            of_setting += [] if loss is None else [loss]
    lines = []
    for place, settings_of in places.items():
        losses = {setting: sum(found) / len(found) for setting, found in settings_of.items() if found}
        then = ""
        if losses:
            choices, loss = min(losses.items(), key=lambda item: item[1])
            name = named(dict(zip(keys, choices, strict=True)))
            then = f"; the lowest validation loss of these is {loss:.4f}, of {name}"
        count = f"{len(settings_of)} setting{'s' * (len(settings_of) != 1)}"
        lines.append(f"Stopped early, and not compared: {count} {place}{then}")
    return lines


def besides(found: Sequence[Setting]) -> list[str]:
    """What differs between the settings besides what was swept, a line each: another explanation of what they show."""
    lines = []
    for metric in ALSO:
        settings_of: dict[tuple[float, ...], list[str]] = {}
        for s in found:
            if values := tuple(sorted({v for run in s.runs if (v := run.metric(metric)) is not None})):
                settings_of.setdefault(values, []).append(s.name)
        if len(settings_of) > 1:
            said = "; ".join(f"{' and '.join(names)}: {_range(values)}" for values, names in settings_of.items())
            lines.append(f"{NAMES.get(metric, metric)} ({said})")
    return lines


def other_files(sweep: Sweep) -> list[str]:
    """Files that held something else for some runs than for the others, a line each: edited between two jobs."""
    names, contents = names_of(sweep.runs), dict[str, dict[str, list[str]]]()
    for run in sweep.finished:
        for file, content in run.files.items():
            contents.setdefault(file, {}).setdefault(content, []).append(names[run.folder])
    lines = []
    for file, runs_of in contents.items():
        if len(runs_of) > 1:
            few = min(runs_of.values(), key=len)
            some = "; ".join(few[:3]) + ("; …" if len(few) > 3 else "")
            lines.append(
                f"{file} was not the same file for all runs (another one for {some}): another explanation of what they "
                "show."
            )
    return lines


def _range(values: Sequence[float]) -> str:
    return f"{values[0]:,.0f}" if values[0] == values[-1] else f"{values[0]:,.0f} to {values[-1]:,.0f}"


def _incomparable(setting: Setting, base: Setting) -> str:
    """Why the losses of the pairs say nothing of the settings; empty where they do."""
    if not setting.pairs:
        return "no repetition of both has finished"
    if lacking := len(setting.pairs) - len(setting.differences):
        return f"{lacking} of {len(setting.pairs)} pairs lack a finite validation loss"
    return setting.incomparable


def _design(pairs: int, conversations: int) -> str:
    """`3 pairs`, `3 pairs on 60 conversations`."""
    return f"{pairs} pair{'s' * (pairs != 1)}" + (f" on {conversations:,} conversations" if conversations else "")


def _without_spread(name: str, base: str, test: PairedTest) -> Conclusion:
    known: dict = {"pairs": test.pairs, "difference": test.mean}
    if test.pairs == 1:
        return Conclusion(
            name, base, "unclear", **known, why="one run of each cannot tell it from chance: repeat with seed=0,1,2"
        )
    if test.mean == 0:
        return Conclusion(name, base, "equal", **known, why="to the last digit")
    return Conclusion(name, base, "unclear", **known, why="it is the same number in each pair, which tells no spread")


def _concluded(
    name: str, base: str, test: PairedTest, p: float, equal_p: float, margin: float | None, comparisons: int
) -> Conclusion:
    found = (test.pairs, test.conversations, test.mean, test.interval, p)
    if equal_p <= ALPHA:
        return Conclusion(name, base, "equal", *found, why=f"within {margin:g}")
    if p <= ALPHA:
        return Conclusion(name, base, "better" if test.mean < 0 else "worse", *found)
    alpha = ALPHA / comparisons  # what Holm asks of the clearest of them
    shown = visible_difference(test, alpha)
    why = f"{_design(test.pairs, test.conversations)} can show only a true difference of {shown:.2g} or more"
    needed = pairs_needed(test, alpha)
    if needed and needed > test.pairs:
        why += f", one of {abs(test.mean):.2g} would need about {needed} pairs"
    elif test.mean and test.floor and not needed:
        why += f", and more pairs would not show one of {abs(test.mean):.2g}: it takes more held-out conversations"
    if test.p <= ALPHA:
        why = f"alone it would count, as one of {comparisons} comparisons it does not; {why}"
    return Conclusion(name, base, "unclear", *found, why=why)
