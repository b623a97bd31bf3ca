"""The values of a JSON array, of JSON objects one behind the other, or of lines, as bytes, one at a time.

A value is cut out by counting brackets, before it is parsed: so memory holds one value however large
the file, nesting of any depth is harmless, and a mistake inside a value costs that value alone, where
a streaming parser would lose the rest of the file. A value that nobody could use is passed over without being
held: a few kilobytes of gzip can be a line of gigabytes.
"""

import re
from collections.abc import Iterator
from typing import Protocol

_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
# Up to the next sign that matters: a bracket or comma; a quote that opens a string not yet read to its end; or nothing.
_INSIDE = re.compile(rb'(?:[^][{}"]*+%b)*+[^][{}"]*+([][{}"]?)' % _STRING, re.S)
_BETWEEN = re.compile(rb'(?:[^][{}",]*+%b)*+[^][{}",]*+([][{}",]?)' % _STRING, re.S)
_MARK = re.compile(rb"""(?s)\\.|["\[\]{},]""")
_ESCAPED = re.compile(rb"(?s)\\.")
_CHUNK = 1 << 18
MOST_BYTES = 1 << 25
"""Of one value; the longest conversations that people have are a hundredth of it."""
MOST_LEVELS = 1024
"""Of brackets in one value; JSON parsers read no more."""
TOO_LARGE = (
    f"more than {MOST_BYTES >> 20} MiB long, or more than {MOST_LEVELS:,} brackets deep; no conversation is; "
    "of one object that holds many write the list that is in it"
)


class Stream(Protocol):
    """An open binary file."""

    def read1(self, size: int, /) -> bytes:
        """Up to so many bytes, those that are there; none at the end."""
        ...

    def readline(self, size: int, /) -> bytes:
        """A line, or so many bytes of it; nothing at the end."""
        ...


def json_lines(stream: Stream) -> Iterator[bytes | None]:
    """Each line of a file; None in the place of one that is too long."""
    while line := stream.readline(MOST_BYTES):
        if len(line) < MOST_BYTES or line.endswith(b"\n"):
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(_CHUNK)
        yield None


def json_values(stream: Stream, level: int) -> Iterator[bytes | None]:
    """Cuts out the values of an array (`level` 1), or those at the top of the file (`level` 0).

    None stands in the place of a value that is too long or nested too deep.

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
            is_all = sign in (b"", b'"')
            if depth > MOST_LEVELS or (is_all and len(buffer) - begin > MOST_BYTES):
                buffer, ended = _behind(stream, buffer[position:], depth, level)
                depth, position, begin = level, 0, 0
                yield None
                continue
            if is_all:
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


def _behind(stream: Stream, buffer: bytes, depth: int, level: int) -> tuple[bytes, bool]:
    """Passes over the rest of a value; what is there behind it, and whether that is behind the array's end.

    Args:
        buffer: what was read and not yet scanned; no string is open at its beginning.

    Raises:
        EOFError: the file ends within the value.
    """
    in_string, cut = False, b""
    while True:
        data = cut + buffer
        slashes = len(data) - len(data.rstrip(b"\\"))
        data, cut = (data[:-1], b"\\") if slashes % 2 else (data, b"")
        pieces = _ESCAPED.sub(b"", data).split(b'"')
        outside = b"".join(pieces[in_string::2])
        opened, closed = (outside.count(a) + outside.count(b) for a, b in ((b"[", b"{"), (b"]", b"}")))
        if depth - closed > level:  # it cannot end in here
            depth += opened - closed
            in_string ^= len(pieces) % 2 == 0
        else:
            for found in _MARK.finditer(data):
                sign = found[0]
                if sign == b'"':
                    in_string = not in_string
                elif in_string or sign[:1] == b"\\":
                    continue
                elif depth == level == 1 and sign in b",]":
                    return data[found.end() :] + cut, sign == b"]"
                elif sign in b"[{":
                    depth += 1
                elif sign in b"]}":
                    depth -= 1
                    if depth == level == 0:
                        return data[found.end() :] + cut, False
        if not (buffer := stream.read1(_CHUNK)):
            raise EOFError("the file ends within a value")
