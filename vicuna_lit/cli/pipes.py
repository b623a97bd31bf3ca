"""`| head`: a command whose reader has gone goes on quietly; what it writes from then on is dropped.

And a terminal that knows no UTF-8: what it cannot show is written as `\\u2192`.
"""

import io
import os
import stat
import sys
from typing import Any


class _Pipe(io.FileIO):
    """A pipe that may have lost its reader; a run is worth more than what it prints."""

    def write(self, data: Any, /) -> int:
        """Bytes written, or dropped."""
        try:
            return super().write(data) or 0
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return len(data)


def quiet_pipes() -> None:
    """For the output and the errors of this process: none of what is printed ends the command."""
    for name in ("stdout", "stderr"):
        stream: Any = getattr(sys, name)
        if stream is None or stream is not getattr(sys, f"__{name}__"):
            continue  # somebody else's, such as a notebook's
        # The second one writes the bytes of a name as they were.
        errors = "backslashreplace" if stream.errors in ("strict", "surrogateescape") else stream.errors
        if stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode):
            stream.flush()
            pipe = io.BufferedWriter(_Pipe(stream.fileno(), "w", closefd=False))
            lines = name == "stderr" or stream.line_buffering
            how = {"line_buffering": lines, "write_through": stream.write_through}
            new = io.TextIOWrapper(pipe, stream.encoding, errors, **how)
            setattr(sys, name, new)
            setattr(sys, f"__{name}__", new)
        elif errors != stream.errors:
            stream.reconfigure(errors=errors)
