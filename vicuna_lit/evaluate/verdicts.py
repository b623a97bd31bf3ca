"""What a judge wrote → scores or a winner, in every form that was published. Never a guess.

A text in which no form is found, or several that contradict each other, has no verdict: None. What a model thinks
before its verdict is passed over.
"""

import re
from typing import Any, Literal, NamedTuple

Winner = Literal["first", "second", "tie"]
LETTERS: dict[str, Winner] = {"A": "first", "B": "second", "C": "tie"}
CLASSES: dict[Any, Winner] = {1: "first", 2: "second", 3: "tie"}
HIGHEST = 10.0
"""Of the scores; the lowest is 1, or the 0 that GPT-4 gave at times."""
_NUMBER = r"(\d+(?:\.\d+)?)"
_OUT_OF_TEN = _NUMBER + r"(?:\s*/\s*10)?"
_MARKS = r"[\s*_`#>$]*"
_LABEL = r"(?:(?:the |my |final |overall )*(?:scores?|ratings?|verdict|output)(?: are| is)?[*_\s]*[:=])"
_LINE = re.compile(
    rf"{_MARKS}(?P<label>{_LABEL}?){_MARKS}{_OUT_OF_TEN}(?:\s*[,;]\s*|\s+){_OUT_OF_TEN}{_MARKS}\.?{_MARKS}", re.I
)
_TUPLE = re.compile(rf"\(\s*{_OUT_OF_TEN}\s*,\s*{_OUT_OF_TEN}\s*\)")
_LAST = re.compile(rf"{_TUPLE.pattern}\W*$")
_ANNOUNCED = re.compile(rf"(?:output|scores?|tuple)[^().\n]*{_TUPLE.pattern}", re.I)
_NOT_WHOLE = (
    r"[\d.,]*\d|\w|[ \t]*%|[ \t]*stars?\b|[ \t]*(?:-|–|—|/(?![ \t]*10\b)|\bto\b|\bor\b)[ \t]*\d|"
    r"(?:[ \t]*points?)?[ \t]+(?:out[ \t]+)?of[ \t]+(?:a[ \t]+(?:possible|total|maximum)[ \t]+)?(?!10\b)\d"
)
"""What follows a number that is none of ten: it is cut out of a longer one or of a range, or on another scale (stars
are mostly of five)."""
_COUNTED = r"[ \t]+(?!(?:points?|pts|out|and|or|vs|versus|while|whereas|but|because|since|as|for|with|due)\b)[^\W\d_]"
"""What it counts, as in "3 errors"."""
_NAMED = re.compile(
    rf"Assistant\s+([12])(?:'s)?(?: +(?:overall +)?score)? *(?::|=|-)[ *]*{_OUT_OF_TEN}(?!{_NOT_WHOLE}|{_COUNTED})",
    re.I,
)
_SPOKEN = re.compile(rf"Assistant\s+([12])\b[^\n]*?\bscore of {_OUT_OF_TEN}(?!{_NOT_WHOLE})", re.I)


class Scores(NamedTuple):
    """Of the answer that was shown first, and of the second; 1 to 10, or the 0 that GPT-4 gave at times."""

    first: float
    second: float

    @property
    def winner(self) -> Winner:
        """Who has more."""
        return "tie" if self.first == self.second else "first" if self.first > self.second else "second"


def pair_scores(text: str) -> Scores | None:
    """Two scores: on the first line, as a tuple or with a label at the end, or named ("Assistant 1: 7/10").

    A last line with a label that says another thing than the first leaves no verdict.
    """
    lines = [line for line in plain(text).splitlines() if line.strip()]
    if not lines:
        return None
    if found := _LINE.fullmatch(lines[0]):
        scores, last = _scores(*found.groups()[1:]), _LINE.fullmatch(lines[-1])
        return scores if not (last and last["label"]) or _scores(*last.groups()[1:]) == scores else None
    text = "\n".join(lines)
    forms = {_by_assistant(_NAMED, text), _by_assistant(_SPOKEN, text)}
    announced, last = _ANNOUNCED.findall(text), _LAST.findall(lines[-1])
    if announced or last:
        forms |= {_scores(*said) for said in announced or last}
    if (found := _LINE.fullmatch(lines[-1])) and found["label"]:
        forms.add(_scores(*found.groups()[1:]))
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
    return scores if all(0 <= s <= HIGHEST for s in scores) else None


_LETTER = re.compile(r"\[\[[\s*_`]*(?:Assistant\s+)?([ABC])[\s*_`]*\]\]")
_DENIES = re.compile(
    r"(?:\b(?:not|never|nor|neither|than|instead of|cannot)|n't)(?:[ \t*_`\"'(]+(?!(?-i:[ABC])\b)\w+){0,2}"
    r"[ \t*_`\"'(]*$",
    re.I,
)
"""Before a letter that is not chosen: "do not choose [[A]]", "better than [[B]]". What is denied on a line above, or of
an assistant that has its name already ("better than B [[A]]"), is not the letter."""
_IN_BRACKETS = rf"[\s*_`]*(?:rating|score)?[\s:*_`]*{_NUMBER}(?:\s*/\s*10)?[\s*_`]*"
_RATED = re.compile(rf"\[\[{_IN_BRACKETS}\]\]", re.I)
_ONCE_BRACKETED = re.compile(rf"(?<!\[)\[{_IN_BRACKETS}\](?!\]|\()", re.I)
_SUPPOSED = (
    r"[ \t]+(?:if|unless|requires?|needs?|means|could|might|would(?!\s+be\b(?!\s+(?:un|too\b|wrong|in[a-z])))|"
    r"is[ \t]+the[ \t]+(?:max|min|high|low|best|worst|top))"
)
"""What follows a number that is spoken of, and not given."""
_SAID = re.compile(
    rf"(?:^|[.!?:;,\"'{{(*_>#-]\s*|\b(?:my|the|final|overall|a|this)\s+)(?:rating|score|verdict)[\s\"'*_`]{{0,4}}(?::|=|\bis\b|\bof\b)[\s\"'*_`]{{0,4}}{_NUMBER}(?!{_NOT_WHOLE}|{_SUPPOSED})",
    re.I,
)
_ON_ANOTHER_SCALE = re.compile(
    rf"[*`]*(?:{_NOT_WHOLE}|[ \t]*(?:-|–|—|\bto\b|\bor\b)(?:[ \t]*(?:maybe|perhaps|possibly|even|rather))?[ \t*`]*\[\[|"
    r"[ \t]*/[ \t]*\[\[(?!10\]))"
)
"""Or one end of a range, one of two that are offered."""
_ANNOUNCES = re.compile(
    r"(?:\b(?:rat(?:e|ed|es|ing)|scores?|scored|verdict|grade|mark|give|giving|assign|award|deserves?|earns?)\b)"
    r"(?:[\s:=*_`\"'>-]|\b(?:is|of|as|a|an|it|this|the|answer|response|be|would|will|at|to|final|overall|assistant|"
    r"rating|score)\b){0,12}$",
    re.I,
)


def letter(text: str) -> Winner | None:
    """`[[A]]`, `[[B]]` or `[[C]]`, the tie; "not [[A]]" is none."""
    text = plain(text)
    found = [match for match in _LETTER.finditer(text) if not _DENIES.search(text[: match.start()][-80:])]
    return _only([LETTERS[match[1]] for match in found])


def rating(text: str) -> float | None:
    """`[[7]]`, from 1 to 10, where it stands as a verdict: announced, or on a line of its own.

    Where there is none, one pair of brackets in such a place or "Rating: 7" will do. A number in brackets within a
    sentence is a citation.
    """
    lines = [line.strip() for line in plain(text).splitlines() if line.strip()]
    found = [value for i, line in enumerate(lines) for value in _placed(_RATED, line, i, len(lines))]
    if not found:
        found = [value for i, line in enumerate(lines) for value in _placed(_ONCE_BRACKETED, line, i, len(lines))]
        found += [float(value) for line in lines for value in _SAID.findall(line)]
    score = _only(found)
    return score if score is not None and 1 <= score <= 10 else None


def _placed(pattern: re.Pattern[str], line: str, i: int, lines: int) -> list[float]:
    """The numbers in brackets of a line that stand as a verdict."""
    found = []
    for match in pattern.finditer(line):
        before, after = line[: match.start()].strip(" \t*_`#>$"), line[match.end() :].strip(" \t*_`#.!$")
        alone = len(set(pattern.findall(line))) == 1
        if _ON_ANOTHER_SCALE.match(line, match.end()):
            continue
        own_line = not before and (not after or (i == 0 and pattern is _RATED and alone))
        ends = not after and i == lines - 1 and before.endswith((":", "=", "→"))
        if own_line or ends or _ANNOUNCES.search(before[-80:]):
            found.append(float(match[1]))
    return found


def number(text: str) -> Winner | None:
    """1, 2, or 3 for a tie, alone on the last line."""
    found = re.fullmatch(r"[^\w\-−]*([123])\W*", plain(text).rpartition("\n")[2])
    return CLASSES[int(found[1])] if found else None


EXPECTED = {
    "scores": 'two scores from 1 to 10 on the first line, as "8 7"',
    "letter": "[[A]], [[B]] or [[C]]",
    "rating": "a rating from 1 to 10 as [[7]]",
    "number": "1, 2 or 3 alone on the last line",
}
"""How each form of verdict is written."""


def _only(values: list[Any]) -> Any:
    """The one value that all agree on."""
    return values[0] if len(set(values)) == 1 else None


_THOUGHTS = (
    "think|thinking|thought|thoughts|reason|reasoning|reflection|analysis|scratchpad|cot|inner_monologue|"
    "chain_of_thought|seed:think|antthinking"
)
_OPENING = re.compile(
    rf"<\s*(?:{_THOUGHTS})(?:\s[^<>]*)?>|\[THINK\]|◁think▷|<\|(?:start_thinking|begin_of_thought|thinking|think)\|>|"
    r"<\|channel\|>\s*(?:analysis|commentary)\b[^<]*<\|message\|>",
    re.I,
)
_CLOSING = re.compile(
    rf"<\s*/\s*(?:{_THOUGHTS})\s*>|\[/THINK\]|◁/think▷|"
    r"<\|(?:end_thinking|end_of_thought|/thinking|/think)\|>|<\|channel\|>\s*final\b[^<]*<\|message\|>",
    re.I,
)
_WIDE = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3010: "[", 0x3011: "]", 0x3000: " "}
_INVISIBLE = dict.fromkeys([0xAD, 0x200B, 0x200C, 0x200D, 0x200E, 0x200F, 0x2060, 0xFEFF])
_WRAPPED = re.compile(
    r"<\s*/?\s*(?:final[_ ]?)?(?:answer|verdict|output|result|response|judgement|judgment|evaluation|conclusion)\s*>|"
    r"<\|[^<>|\n]{1,40}\|>",
    re.I,
)
_NAMED_WRAP = re.compile(r"<\s*(?:final[_ ]?)?(rating|scores?)\s*>", re.I)
_NAMED_END = re.compile(r"<\s*/\s*(?:final[_ ]?)?(?:rating|scores?)\s*>", re.I)
_STYLE = re.compile(r"<\s*/?\s*(?:b|strong|i|em|u|code|span|mark)(?:\s[^<>]*)?>", re.I)
_BREAK = re.compile(r"<\s*/?\s*(?:br|p|div|h[1-6]|pre|center)(?:\s[^<>]*)?/?\s*>", re.I)
_FENCE = re.compile(r"^\s*(?:```|~~~)[\w-]*\s*$", re.M)
_ESCAPED = re.compile(r"\\([\[\]()_*#])")


def without_thinking(text: str) -> str:
    """What stands behind the thinking; all of a text that marks none.

    A closing mark without an opening one ends a thinking that the prompt's template has begun; an opening one without
    a closing one has been cut off, and nothing stands behind it.
    """
    kept, place = "", 0
    while place < len(text):
        opening, closing = _OPENING.search(text, place), _CLOSING.search(text, place)
        if closing and (opening is None or closing.start() < opening.start()):
            kept, place = "", closing.end()
            continue
        if opening is None:
            return kept + text[place:]
        kept += text[place : opening.start()] + "\n"
        closing = _CLOSING.search(text, opening.end())
        if closing is None:
            return kept
        place = closing.end()
    return kept


def plain(text: str) -> str:
    """The text behind the thinking, in narrow characters, without tags, fences and escapes around a verdict."""
    text = without_thinking(text).translate(_WIDE).translate(_INVISIBLE)
    text = _WRAPPED.sub("\n", _NAMED_END.sub("\n", _NAMED_WRAP.sub(r"\n\1: ", text)))
    text = _FENCE.sub("", _BREAK.sub("\n", _STYLE.sub("", text)))
    return _ESCAPED.sub(r"\1", text).strip()
