"""What a judge wrote → scores or a winner, in every form that was published. Never a guess.

A text in which no form is found, or several that contradict each other, has no verdict: None.
"""

import re
from typing import Any, Literal, NamedTuple

Winner = Literal["first", "second", "tie"]
Form = Literal["scores", "letter", "rating", "number"]
"""scores: two of them, on the first line or at the end, as the Vicuna article's prompts ask for (FastChat,
`eval/table/prompt.jsonl`); letter: `[[A]]`, rating: `[[7]]` (MT-bench, Zheng et al. 2023); number: 1, 2 or 3 = tie
alone on the last line (QLoRA, Dettmers et al. 2023)."""

_NUMBER = r"(\d+(?:\.\d+)?)"
_OUT_OF_TEN = _NUMBER + r"(?:\s*/\s*10)?"
_MARKS = r"[\s*_`#]*"
_LINE = re.compile(rf"{_MARKS}{_OUT_OF_TEN}(?:\s*[,;]\s*|\s+){_OUT_OF_TEN}{_MARKS}")
_TUPLE = re.compile(rf"\(\s*{_OUT_OF_TEN}\s*,\s*{_OUT_OF_TEN}\s*\)")
_LAST = re.compile(rf"{_TUPLE.pattern}\W*$")
_ANNOUNCED = re.compile(rf"(?:output|scores?|tuple)[^().\n]*{_TUPLE.pattern}", re.I)
_NAMED = re.compile(
    rf"Assistant\s+([12])(?:'s)?(?: +(?:overall +)?score)? *(?::|=|-)[ *]*{_OUT_OF_TEN}(?![\d.]*\d|\w)", re.I
)
_SPOKEN = re.compile(rf"Assistant\s+([12])\b[^\n]*?\bscore of {_OUT_OF_TEN}(?![\d.]*\d|\w)", re.I)


class Scores(NamedTuple):
    """Of the answer that was shown first, and of the second; 1 to 10, or the 0 that GPT-4 gave at times."""

    first: float
    second: float

    @property
    def winner(self) -> Winner:
        """Who has more."""
        return "tie" if self.first == self.second else "first" if self.first > self.second else "second"


def pair_scores(text: str) -> Scores | None:
    """Two scores: on the first line, as a tuple at the end, or named ("Assistant 1: 7/10")."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    if not lines:
        return None
    if found := _LINE.fullmatch(lines[0]):
        return _scores(*found.groups())
    forms = {_by_assistant(_NAMED, text), _by_assistant(_SPOKEN, text)}
    announced, last = _ANNOUNCED.findall(text), _LAST.findall(lines[-1])
    if announced or last:
        forms.add(_scores(*(announced or last)[-1]))
    forms.discard(None)
    return forms.pop() if len(forms) == 1 else None


def _by_assistant(pattern: re.Pattern[str], text: str) -> Scores | None:
    """The scores of both assistants where each is given, and given one value only."""
    found: dict[str, set[str]] = {"1": set(), "2": set()}
    for which, score in pattern.findall(text):
        found[which].add(score)
    if all(len(values) == 1 for values in found.values()):
        return _scores(found["1"].pop(), found["2"].pop())
    return None


def _scores(first: str, second: str) -> Scores | None:
    scores = Scores(float(first), float(second))
    return scores if all(0 <= s <= 10 for s in scores) else None


def letter(text: str) -> Winner | None:
    """`[[A]]`, `[[B]]` or `[[C]]`, the tie."""
    return _only([{"A": "first", "B": "second", "C": "tie"}[found] for found in re.findall(r"\[\[([ABC])\]\]", text)])


def rating(text: str) -> float | None:
    """`[[7]]`, from 1 to 10; one pair of brackets will do where there is no other."""
    found = re.findall(rf"\[\[{_NUMBER}\]\]", text) or re.findall(rf"\[{_NUMBER}\]", text)
    score = _only([float(value) for value in found])
    return score if score is not None and 1 <= score <= 10 else None


def number(text: str) -> Winner | None:
    """1, 2, or 3 for a tie, alone on the last line."""
    found = re.fullmatch(r"\W*([123])\W*", text.strip().rpartition("\n")[2])
    winners: dict[str, Winner] = {"1": "first", "2": "second", "3": "tie"}
    return winners[found[1]] if found else None


def _only(values: list[Any]) -> Any:
    """The one value that all agree on."""
    return values[0] if len(set(values)) == 1 else None
