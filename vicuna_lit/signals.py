"""Signals that wait until what must not be torn is done."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STOPS = (signal.SIGINT, signal.SIGTERM)
SAME = 1.0
"""Seconds within which a repeated signal counts as one: launchers and terminals both pass it on."""


@contextmanager
def held(told: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Inside the block Ctrl-C and SIGTERM are kept; at its end the first that has come does what it would have done.

    One that nobody listens to, as SIGTERM in a script, ends the process as ever. Only the main thread hears signals.

    Args:
        told: called for each that comes, in the middle of whatever runs then.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def keep(number: int, _: object) -> None:
        came.append(number)
        told()

    before = {number: signal.signal(number, keep) for number in STOPS if callable(signal.getsignal(number))}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])
