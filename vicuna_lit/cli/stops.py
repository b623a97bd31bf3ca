"""Ctrl-C and SIGTERM as one line and the exit code that shells know, from a command's first import on."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM


@contextmanager
def stops_in_one_line() -> Iterator[None]:
    """Around a whole command that leaves nothing half done wherever it ends.

    Raises:
        SystemExit: with 130 after Ctrl-C and with 143 after SIGTERM.
    """
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        yield
    except KeyboardInterrupt:
        interrupted()
    finally:
        signal.signal(signal.SIGTERM, before)


def interrupted() -> NoReturn:
    """
    Raises:
        SystemExit: with 130.
    """
    _say("stopped")
    sys.exit(INTERRUPTED)


def _terminated(*_: object) -> NoReturn:
    _say("\nstopped by SIGTERM")  # what is written now may have no end
    sys.exit(TERMINATED)


def _say(text: str) -> None:
    os.write(2, f"{text}\n".encode())  # a handler may have come in the middle of a `print`
