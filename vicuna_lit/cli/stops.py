"""Ctrl-C and SIGTERM as one line and the exit code that shells know, from a command's first import on."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
GRACE = 30.0
"""Seconds that a command has from the first signal to its end."""
SAME = 1.0
"""Seconds within which a repeated signal counts as one: launchers and terminals both pass it on."""


class Terminated(SystemExit):
    """SIGTERM has come. No `KeyboardInterrupt`: whoever takes that for the end of what is typed must not go on."""

    said = False
    """Whether its line is printed."""

    def __init__(self) -> None:
        super().__init__(TERMINATED)


@contextmanager
def stops_in_one_line() -> Iterator[None]:
    """Around a whole command that leaves nothing half done wherever it ends.

    A second signal, or the end of `GRACE`, ends the process at once: what it was writing does not have its name yet.
    One that was told to stop listens on while Python shuts down, else another signal would give another exit code.

    Raises:
        SystemExit: with 130 after Ctrl-C and with 143 after SIGTERM.
    """
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return
    came: list[float] = []

    def told(number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if not came:
            came.append(now)
            _leave_in_time(128 + number)
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
        if now - came[0] > SAME:
            _leave(128 + number)

    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, told)}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # in the background shells let it be ignored
        before[signal.SIGINT] = signal.signal(signal.SIGINT, told)
    try:
        yield
    except KeyboardInterrupt:
        interrupted()
    except Terminated as stop:
        if not stop.said:
            _say("\nstopped by SIGTERM")  # what is written now may have no end
        raise
    finally:
        for number, handler in before.items() if not came else ():
            signal.signal(number, handler)


def interrupted() -> NoReturn:
    """
    Raises:
        SystemExit: with 130.
    """
    _say("stopped")
    sys.exit(INTERRUPTED)


def stopped(stop: KeyboardInterrupt | Terminated, then: str) -> NoReturn:
    """Says that the command was stopped and what of it is kept.

    Args:
        then: what the same command does.

    Raises:
        SystemExit: with 130 after Ctrl-C and with 143 after SIGTERM.
    """
    if isinstance(stop, Terminated):
        _say(f"\nstopped by SIGTERM; {then}")
        stop.said = True
        raise stop
    _say(f"stopped; {then}")
    sys.exit(INTERRUPTED)


def _leave_in_time(code: int) -> None:
    """Ends the process if it has not ended by then, whatever it waits for."""
    timer = threading.Timer(GRACE, _leave, (code,))
    timer.daemon = True
    timer.start()


def _leave(code: int) -> NoReturn:
    _say("\nleaving at once; what was finished is kept")
    os._exit(code)


def _say(text: str) -> None:
    with suppress(OSError):  # a terminal that is gone keeps nobody from leaving
        os.write(2, f"{text}\n".encode())  # a handler may have come in the middle of a `print`
