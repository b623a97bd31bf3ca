"""`vicuna-prepare review=40`: asks a person about each hit of the sample, and keeps every answer at once."""

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from vicuna_lit.pages import CONTROL
from vicuna_lit.prepare.review import FILE, Item, RuleFigures, Verdict, publish, read_items, save

ANSWERS: dict[str, Verdict] = {"y": "y", "yes": "y", "n": "n", "no": "n", "s": "skip", "skip": "skip"}


def review(folder: Path, ask: Callable[[str], str] = input) -> list[RuleFigures]:
    """Asks about what is not judged yet, until the end, `q` or the end of the input.

    Args:
        ask: prints a question and gives the answer; raises EOFError where there is none.

    Raises:
        DataError: the file holds what is no verdict.
    """
    items = read_items(folder)
    left = [i for i, item in enumerate(items) if item.verdict is None]
    if left:
        print(
            f"\n{len(left)} of {len(items)} hits are not judged: is the rule right? Answers are kept in {folder / FILE}"
        )
    of_rule, done = Counter(item.rule for item in items), Counter(item.rule for item in items if item.verdict)
    for i in left:
        done[items[i].rule] += 1
        print(_shown(items[i], done[items[i].rule], of_rule[items[i].rule]))
        answer = _answer(ask)
        if answer is None:
            break
        items[i] = replace(items[i], verdict=answer)
        save(folder, items)
    return publish(folder)


def _shown(item: Item, number: int, of: int) -> str:
    text = f"{item.text}\n({item.detail})" if item.detail else item.text
    lines = "\n".join(f"  │ {line}" for line in text.translate(CONTROL).splitlines())
    return f"\n{item.rule}, {number} of {of}: {item.record}, turn {item.turn + 1}\n{lines}"


def _answer(ask: Callable[[str], str]) -> Verdict | None:
    """None: stop here."""
    while True:
        try:
            said = ask("right? y(es), n(o), s(kip), q(uit): ").strip().lower()
        except EOFError:
            print()
            return None
        if not sys.stdin.isatty():  # whoever types ends the line of the question; a pipe does not
            print()
        if said in ("q", "quit"):
            return None
        if said in ANSWERS:
            return ANSWERS[said]
