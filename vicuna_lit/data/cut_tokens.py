"""The tokens of a piece of a conversation, cut out of those of the whole where that is the same as tokenising it.

A tokenizer takes a text apart at control tokens before it does anything else, and what stands between two of them gives
the same ids whatever stands outside. So a stretch between control tokens that both texts hold is tokenised once.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Encoding, Tokenizer

MOST_TRIED = 8
"""Control tokens at the beginning of a piece, one of which the shared stretch may begin behind."""


class Whole:
    """The last text of a conversation that was too long, with its tokens; empty at first."""

    def __init__(self) -> None:
        self.text, self.encoding, self.ids = "", None, np.empty(0, np.int32)

    def keep(self, text: str, encoding: Encoding) -> None:
        """In the place of an earlier one."""
        self.text, self.encoding, self.ids = text, encoding, np.array(encoding.ids, np.int32)

    def clear(self) -> None:
        """Nothing more is cut out of it."""
        self.text, self.encoding, self.ids = "", None, np.empty(0, np.int32)

    def stretch(self, piece: str, controls: Mapping[str, int]) -> "Stretch | None":
        """What of a piece stands in this text, from behind one of the piece's first control tokens to its end.

        Args:
            controls: the ids of the characters that stand for control tokens.
        """
        if self.text.startswith(piece):
            return self._between(-1, -1, len(piece), controls) if self.encoding else None
        tried = 0
        for place, letter in enumerate(piece) if self.encoding else ():
            if letter in controls:
                start = self.text.find(piece[place:])
                if start >= 0:
                    return self._between(place, start, start + len(piece) - place, controls)
                tried += 1
                if tried == MOST_TRIED:
                    break
        return None

    def _between(self, place: int, start: int, end: int, controls: Mapping[str, int]) -> "Stretch | None":
        """The stretch behind the control token at `start`, which is at `place` in the piece; −1: from the first."""
        first = 0 if start < 0 else self._control(start, controls, 1)
        if end == len(self.text):
            last = len(self.ids)
        elif self.text[end - 1] in controls:
            last = self._control(end - 1, controls, 1)
        else:
            last = self._control(end, controls, 0)
        if first is None or last is None or self.encoding is None:
            return None
        return Stretch(self.encoding, self.ids[first:last], place + 1, start - place, first)

    def _control(self, place: int, controls: Mapping[str, int], behind: int) -> int | None:
        """The token at a character, or behind it, if that is a control token which takes no blanks with it."""
        if self.encoding is None or (token := self.encoding.char_to_token(place)) is None:
            return None
        alone = self.encoding.token_to_chars(token) == (place, place + 1)
        return token + behind if alone and self.ids[token] == controls.get(self.text[place]) else None


@dataclass(frozen=True, eq=False)
class Stretch:
    """Tokens of a whole that are a piece's too."""

    whole: Encoding
    ids: np.ndarray
    """int32 [tokens]"""
    head: int
    """Characters of the piece before them."""
    shift: int
    """Characters from a place in the piece to the same one in the whole."""
    first: int
    """The first of the tokens in the whole."""


@dataclass(frozen=True, eq=False)
class Cut:
    """The head of a piece, tokenised anew, and the stretch behind it; read as an `Encoding` is."""

    head: Encoding
    stretch: Stretch

    @property
    def ids(self) -> list[int]:
        """Of all tokens."""
        return [*self.head.ids, *self.stretch.ids.tolist()]

    @property
    def offsets(self) -> list[tuple[int, int]]:
        """Where each token begins and ends."""
        s = self.stretch
        behind = s.whole.offsets[s.first : s.first + len(s.ids)]
        return [*self.head.offsets, *((start - s.shift, end - s.shift) for start, end in behind)]

    def char_to_token(self, place: int) -> int | None:
        """The token of a character."""
        s = self.stretch
        if place < s.head:
            return self.head.char_to_token(place)
        found = s.whole.char_to_token(place + s.shift)
        return None if found is None or found >= s.first + len(s.ids) else found - s.first + len(self.head)

    def token_to_chars(self, token: int) -> tuple[int, int] | None:
        """Where a token begins and ends."""
        s = self.stretch
        if token < len(self.head):
            return self.head.token_to_chars(token)
        found = s.whole.token_to_chars(token - len(self.head) + s.first)
        return found and (found[0] - s.shift, found[1] - s.shift)


def tokenise(
    tokenizer: Tokenizer, texts: Sequence[tuple[Whole, str]], controls: Mapping[str, int], longest: int | None
) -> Iterator[Encoding | Cut]:
    """Texts, each with what is known of its conversation, all at once.

    Args:
        controls: the ids of the characters that stand for control tokens.
        longest: tokens; a text that has more becomes what is known.
    """
    found = [whole.stretch(text, controls) for whole, text in texts]
    new = [text[: cut.head] if cut else text for cut, (_, text) in zip(found, texts, strict=True)]
    encodings = tokenizer.encode_batch(new, add_special_tokens=False)
    for cut, (whole, text), encoding in zip(found, texts, encodings, strict=True):
        if longest and not cut and len(encoding) > longest:
            whole.keep(text, encoding)
        yield Cut(encoding, cut) if cut else encoding
