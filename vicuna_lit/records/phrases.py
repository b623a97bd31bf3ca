"""A list of phrases, one a line, looked for in texts: the chat refuses what holds one, prepare counts it."""

import re
import unicodedata
from collections.abc import Iterable
from functools import cache

from vicuna_lit.paths import locate
from vicuna_lit.records.conversation import DataError

_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufff8\x00-\x08\x0e-\x1f\x7f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""Unicode's default-ignorable characters, and controls: nothing is seen of them."""
_ASCII = bytes(ord(chr(i).lower()) if chr(i).isalnum() else 32 for i in range(128)) + b" " * 128
_UNSEEN = bytes(i for i in range(128) if _INVISIBLE.match(chr(i)))


class Phrases:
    """Whole phrases, in any case, width and spacing, and with invisible characters between the letters."""

    def __init__(self, phrases: list[str]):
        shown = [phrase for phrase in map(plain, phrases) if phrase]
        self._words = {phrase: frozenset(phrase.split()) for phrase in shown}
        self._by_word: dict[str, list[str]] = {}
        for phrase in shown:
            self._by_word.setdefault(max(reversed(phrase.split()), key=len), []).append(phrase)
        self._longest = frozenset(self._by_word)
        self._is_ascii = all(map(str.isascii, shown))
        self._pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, shown))})(?!\w)")

    def find(self, text: str) -> str | None:
        """The first that occurs, in small letters with single blanks."""
        if not text.isascii():
            text = _shown(text)
        # A text in another script is slow to split. To split it at each letter that is not ASCII is fast, and misses no
        # word that a phrase in ASCII can hold.
        words = _in_ascii(text) if self._is_ascii else _split(text)
        if self._longest.isdisjoint(words):
            return None
        said = set(words)
        common = self._longest & said
        if not any(self._words[phrase] <= said for word in common for phrase in self._by_word[word]):
            return None  # a tenth of the time of the pattern
        found = self._pattern.search(" ".join(_split(text) if self._is_ascii else words))
        return found[0] if found else None


def phrases_of(place: str, advice: str) -> Phrases:
    """
    Args:
        advice: what to do about an empty list.

    Raises:
        MissingPath, DataError: the list is not there, or empty.
    """
    lines = [line.strip() for line in locate(place).read_text(encoding="utf-8").splitlines()]
    phrases = [line for line in lines if line and not line.startswith("#") and plain(line)]
    if not phrases:
        raise DataError(f"{place}: holds no phrase; {advice}")
    return Phrases(phrases)


def plain(text: str) -> str:
    """Words in small letters, with single blanks, as somebody reads them."""
    return " ".join(_split(_shown(text)))


def _split(shown: str) -> list[str]:
    if shown.isascii():  # the same, many times as fast
        return _in_ascii(shown)
    return re.split(r"[\W_]+", f" {shown} ")[1:-1]


def _in_ascii(text: str) -> list[str]:
    """The words in small letters, as though any letter that is not ASCII's ended one."""
    return text.encode("ascii", "replace").translate(_ASCII, _UNSEEN).decode().split()


def _shown(text: str) -> str:
    kinds = set(text)  # each kind of character is looked at once
    text = _without(text, filter(_is_invisible, kinds))
    if not unicodedata.is_normalized("NFKC", text):
        text = unicodedata.normalize("NFKC", text)
        kinds = set(text)
    return _without(text, filter(_is_unseen, kinds)).casefold()


def _without(text: str, hidden: Iterable[str]) -> str:
    for c in hidden:
        text = text.replace(c, "")
    return text


@cache
def _is_invisible(c: str) -> bool:
    return _INVISIBLE.match(c) is not None


@cache
def _is_unseen(c: str) -> bool:
    return unicodedata.category(c) in ("Cf", "Cc") and not c.isspace()
