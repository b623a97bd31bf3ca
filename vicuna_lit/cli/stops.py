"""Ctrl-C and SIGTERM as one line and the exit code that shells know, from a command's first import on."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

from vicuna_lit.signals import SAME

TERMINATED = 128 + signal.SIGTERM
GRACE = 30.0
"""Seconds that a command has from the first signal to its end."""


class Terminated(SystemExit):
    """SIGTERM has come. No `KeyboardInterrupt`: whoever takes that for the end of what is typed must not go on."""

    def __init__(self) -> None:
        super().__init__(TERMINATED)


class _Stop:
    """The signal by which this process was told to stop."""

    number, time, said = 0, 0.0, False

    def forget(self) -> None:
        """Another command begins."""
        self.number, self.said = 0, False

    def told(self, number: int, _: FrameType | None) -> None:
        """A signal has come."""
        now = time.monotonic()
        if not self.number:
            self.number, self.time, sys.unraisablehook = number, now, self._dropped
            _leave_in_time(128 + number)
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
        if now - self.time > SAME:
            _leave(128 + number)

    def _dropped(self, what: Any) -> None:
        """Python prints and drops what is raised in a callback or a `__del__`: the signal comes once more."""
        if isinstance(what.exc_value, KeyboardInterrupt | Terminated):
            number, self.number = self.number, 0
            threading.Timer(0.05, os.kill, (os.getpid(), number)).start()
        else:
            sys.__unraisablehook__(what)


_stop = _Stop()


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
    _stop.forget()
    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, _stop.told)}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # in the background shells let it be ignored
        before[signal.SIGINT] = signal.signal(signal.SIGINT, _stop.told)
    try:
        yield
    except BaseException as error:
        if is_stop(error):
            stopped()
        raise
    finally:
        for number, handler in before.items() if not _stop.number else ():
            signal.signal(number, handler)


def is_stop(error: BaseException) -> bool:
    """Whether an error is a stop, or what has become of one: in the middle of an import it is an `ImportError`."""
    return isinstance(error, KeyboardInterrupt) or _stop.number != 0


def stopped(then: str = "") -> NoReturn:
    """Says once that the command was stopped.

    Args:
        then: what of it is kept.

    Raises:
        SystemExit: with 130 after Ctrl-C and with 143 after SIGTERM.
    """
    by = "\nstopped by SIGTERM" if _stop.number == signal.SIGTERM else "stopped"  # what is written may have no end
    if not _stop.said:
        _say(f"{by}; {then}" if then else by)
    _stop.said = True
    sys.exit(128 + (_stop.number or signal.SIGINT))


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
