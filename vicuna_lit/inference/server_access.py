"""What every client of a server shares: a key that is never shown, and limits to what a server may send."""

import base64
import json
import logging
import os
import re
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import quote, quote_plus

import httpx2

from vicuna_lit.run_folder import RunError

MOST_BYTES = 32 * 2**20
"""Of one reply; the longest that a model writes have less than a megabyte."""
_PART = 8
"""Characters of a key that are enough to be hidden."""
for _name in ("openai", "httpx2"):  # else Hydra's log holds a line for each request
    logging.getLogger(_name).setLevel(logging.WARNING)


class TooMuch(httpx2.HTTPError):
    """A reply is longer, or takes longer, than any may."""


class Key:
    """The key of a server, as the environment has it; `hide` takes it out of any text.

    Raises:
        RunError: it cannot be one; the message does not hold it.
    """

    def __init__(self, variable: str):
        self.variable = variable
        self.text = os.environ.get(variable, "").strip()
        if not re.fullmatch(r"[\x21-\x7e]*", self.text):
            raise RunError(
                f"${variable}: holds blanks, line breaks or letters that no key has; set it to the key alone"
            )
        forms = {self.text, quote(self.text, safe=""), quote_plus(self.text), json.dumps(self.text)[1:-1]}
        forms |= {repr(self.text)[1:-1], base64.b64encode(self.text.encode()).decode()} if self.text else set()
        size = min(_PART, len(self.text))
        folded = [form.casefold() for form in forms if form]
        self._size, self._parts = size, {f[i : i + size] for f in folded for i in range(len(f) - size + 1)}

    def hide(self, text: str) -> str:
        """The text with `***` for the key and for all longer parts of it, in any spelling that libraries give it."""
        if not self.text:
            return text
        low = text.casefold()
        if len(low) != len(text):  # a letter that folds to two: the places would be others
            low = text.lower() if len(text.lower()) == len(text) else text
        kept, end = [], 0
        covered = -1
        for i in range(len(low) - self._size + 1):
            if low[i : i + self._size] in self._parts:
                if i > covered:
                    kept += [text[end:i], "***"]
                covered = end = i + self._size
        return "".join([*kept, text[end:]])

    def hide_all(self, value: Any) -> Any:
        """The same for all texts within a JSON value."""
        match value:
            case str():
                return self.hide(value)
            case list():
                return [self.hide_all(item) for item in value]
            case dict():
                return {self.hide(str(name)): self.hide_all(item) for name, item in value.items()}
            case _:
                return value

    def said(self, error: BaseException) -> str:
        """An error's words, in short: hidden first and cut afterwards."""
        return " ".join(self.hide(str(error)[:20_000]).split())[:300] or type(error).__name__


class _Bounded(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """A body that ends with an error beyond so many bytes or seconds."""

    def __init__(self, inner: Any, deadline: float):
        self.inner, self._left, self._deadline = inner, MOST_BYTES, deadline

    def _count(self, chunk: bytes) -> bytes:
        self._left -= len(chunk)
        if self._left < 0:
            raise TooMuch(f"the reply has more than {MOST_BYTES:,} bytes")
        if time.monotonic() > self._deadline:
            raise TooMuch("the reply takes too long as a whole")
        return chunk

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self.inner:
            yield self._count(chunk)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self.inner:
            yield self._count(chunk)

    def close(self) -> None:
        self.inner.close()

    async def aclose(self) -> None:
        await self.inner.aclose()


def bound(response: Any, seconds: float) -> None:
    """Limits what is read of a response whose body has not come yet.

    Raises:
        TooMuch: here where the server has compressed what was to come as it is, else while it is read.
    """
    if response.headers.get("content-encoding", "identity").lower() not in ("identity", ""):
        raise TooMuch("the reply is compressed, which was not asked for")
    response.stream = _Bounded(response.stream, time.monotonic() + seconds)


PLAIN = {"Accept-Encoding": "identity"}
"""Headers that ask for a body whose length can be limited."""
