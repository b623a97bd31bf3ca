"""Recall of the rule for secrets on the strings in detect-secrets' own tests, and what it finds of those meant to stay.

    git clone https://github.com/Yelp/detect-secrets
    python experiments/003_data_cleaning/other_tool.py detect-secrets

A string counts once. It is positive where its test wants a secret found, for a file of some kind; where the test wants
a certain value, that value has to be gone.
"""

import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

from vicuna_lit.intervals import wilson
from vicuna_lit.prepare.personal_data import redact

NOT_STRINGS = ("base_test.py", "ip_public_test.py")
"""Tests of the tool's own machinery, and of public addresses: a kind of its own here."""
WANTED = ("should_flag", "should_be_caught", "expected_secret")
INPUTS = ("payload", "line", "file_content", "format")
CLASSES = {
    "a mask of x": lambda text: "x" * 6 in text,
    "words for a value": lambda text: re.search(r"quotes and spaces|yabba|username:password", text),
    "a value in quotes without a name": lambda text: re.fullmatch(r"(['\"])[\w+/=-]+\1", text),
}  # fmt: skip
"""What a string is that is not meant to be found, or cannot be told."""


def cases(file: Path) -> Iterator[tuple[str, bool, str]]:
    """The strings of one file of tests, whether a secret is in each, and the value (empty where none is told)."""
    told: dict[Any, list[tuple[tuple[str, ...], Sequence[Any]]]] = defaultdict(list)

    def parametrize(names: str, values: Any, **_: Any) -> Any:
        def mark(target: Any) -> Any:
            key = target.__func__ if isinstance(target, staticmethod) else target
            told[key].append((tuple(re.split(r",\s*", names)), list(values)))
            return target

        return mark

    mark = SimpleNamespace(parametrize=parametrize)
    fake = SimpleNamespace(mark=mark, fixture=lambda *a, **_: a[0] if a else lambda f: f, param=lambda *a, **_: a)
    mocked = defaultdict(MagicMock, {"pytest": fake})
    source = file.read_text(encoding="utf-8")
    for name in re.findall(r"^(?:from|import) ([\w.]+)", source, re.M):
        if name.partition(".")[0] in ("detect_secrets", "testing", "responses", "pytest"):
            sys.modules[name] = mocked[name]  # pyright: ignore[reportArgumentType]
    space: dict[str, Any] = {"__name__": file.stem}
    exec(compile(source, str(file), "exec"), space)
    of_classes = {name: rows for name, rows in told.items() if isinstance(name, type)}
    for target, rows in told.items():
        if target in of_classes:
            continue
        outer = [row for owner, more in of_classes.items() if target in _functions(owner) for row in more]
        for chosen in product(*(_named(names, values) for names, values in [*rows, *outer])):
            yield from _case({k: v for one in chosen for k, v in one.items()})


def _functions(owner: type) -> list[Any]:
    return [value.__func__ if isinstance(value, staticmethod) else value for value in vars(owner).values()]


def _named(names: tuple[str, ...], values: Sequence[Any]) -> list[dict[str, Any]]:
    return [dict(zip(names, value if len(names) > 1 else (value,), strict=True)) for value in values]


def _case(found: dict[str, Any]) -> Iterator[tuple[str, bool, str]]:
    wanted = [found[name] for name in WANTED if name in found]
    text = next((found[name] for name in INPUTS if isinstance(found.get(name), str)), None)
    if text is None or ("content" in found) or (not wanted and len(found) > 1):
        return
    if "secret" in found:
        text = text.format(secret=found["secret"], non_secret=found["non_secret"])
    yield text, bool(wanted[0]) if wanted else True, wanted[0] if wanted and isinstance(wanted[0], str) else ""


def is_found(text: str, value: str) -> bool:
    """Whether a secret is replaced; where its value is told, whether that is gone."""
    tally: Counter[str] = Counter()
    left = redact(text, ["key"], tally)
    return tally["key"] > 0 and (not value or value not in left)


def told(found: int, total: int) -> str:
    low, high = wilson(found / total, total) or (0.0, 1.0)
    return f"{found} of {total}, {found / total:.0%} ({low:.0%}–{high:.0%})"


def main() -> None:
    positives: dict[str, tuple[str, str]] = {}
    negatives: dict[str, str] = {}
    for file in sorted(Path(sys.argv[1]).glob("tests/plugins/*_test.py")):
        if file.name in NOT_STRINGS:
            continue
        for text, wanted, value in cases(file):
            if wanted:
                positives[text] = file.stem.removesuffix("_test"), value
            else:
                negatives[text] = file.stem.removesuffix("_test")
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    missed: dict[str, list[str]] = defaultdict(list)
    for text, (name, value) in positives.items():
        found = is_found(text, value)
        kind = next((kind for kind, test in CLASSES.items() if test(text)), "others")
        counts[name]["found" if found else "missed"] += 1
        counts[f"class: {kind}"]["found" if found else "missed"] += 1
        if not found:
            missed[kind].append(f"{name}: {text[:100]}")
    for name, count in sorted(counts.items()):
        print(f"{name:40} {told(count['found'], count.total())}")
    print("all", told(sum(is_found(t, v) for t, (_, v) in positives.items()), len(positives)))
    only = [text for text in negatives if text not in positives]
    hits = [text for text in only if is_found(text, "")]
    print(f"strings meant to stay: {len(hits)} of {len(only)} have a hit")
    for kind, texts in missed.items():
        print(kind, *texts, sep="\n    ")
    print("meant to stay, and hit", *(f"{negatives[text]}: {text[:100]}" for text in hits), sep="\n    ")


if __name__ == "__main__":
    main()
