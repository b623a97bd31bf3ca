"""The values of a JSON array, or of JSON objects one behind the other, as bytes, one at a time.

A value is cut out by counting brackets, before it is parsed: so memory holds one value however large
the file, nesting of any depth is harmless, and a mistake inside a value costs that value alone, where
a streaming parser would lose the rest of the file.
"""

import re
from collections.abc import Iterator
from typing import Protocol

_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
# Up to the next sign that matters: a bracket or comma; a quote that opens a string not yet read to its end; or nothing.
_INSIDE = re.compile(rb'(?:[^][{}"]*+%b)*+[^][{}"]*+([][{}"]?)' % _STRING, re.S)
_BETWEEN = re.compile(rb'(?:[^][{}",]*+%b)*+[^][{}",]*+([][{}",]?)' % _STRING, re.S)
_CHUNK = 1 << 18


class Stream(Protocol):
    """An open binary file."""

    def read1(self, size: int, /) -> bytes:
        """Up to so many bytes, those that are there; none at the end."""
        ...


def json_values(stream: Stream, level: int) -> Iterator[bytes]:
    """Cuts out the values of an array (`level` 1), or those at the top of the file (`level` 0).

    Raises:
        EOFError: the file ends within a value.
        ValueError: something follows the end of the array.
    """
    buffer, depth, begin, position, ended = b"", 0, 0, 0, False
    # read() of a gzip file cut off would withhold what it has. A value that fills the buffer is scanned
    # anew with each read; ever larger reads keep that linear.
    while not ended and (chunk := stream.read1(max(_CHUNK, len(buffer) - begin))):
        buffer, position, begin = buffer[begin:] + chunk, position - begin, 0
        while not ended and (found := (_INSIDE if depth > level else _BETWEEN).match(buffer, position)):
            sign, end = found[1], found.end()
            if sign in (b"", b'"'):
                break
            if sign in b"[{":
                depth += 1
                begin = end if depth == level else begin
            elif depth == level == 1 and sign != b"}":
                ended = sign == b"]"
                if not ended or buffer[begin : end - 1].strip():  # nothing before "]": an empty array, or a last comma
                    yield buffer[begin : end - 1]
                begin = end
            elif sign in b"]}" and depth > level:
                depth -= 1
                if depth == level == 0:
                    yield buffer[begin:end]
                    begin = end
            position = end
    rest = (buffer[begin:] + stream.read1(64)).strip() if ended else buffer[begin:].strip()
    if ended and rest:
        raise ValueError(f"the array has ended, but {rest[:40]!r} follows")
    if not ended and (rest or depth):
        raise EOFError("the file ends within a value" if rest else "the array has no end")
