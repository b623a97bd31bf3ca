"""Being told to stop: signals set flags, and the run looks at them where its state is whole.

The first signal (SIGTERM, SIGINT, SIGUSR1) asks for a stop after the step in progress. A second one, or the end
of the grace period, gives that step up: the last finished one is saved at the next micro-batch. Whoever is still
there when as much time has passed again leaves without saving. Imports no torch, so that a signal during the start
finds its handler.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PREEMPTED = 33
"""The exit code that asks the scheduler to start the same command again."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
SAME = 1.0
"""Seconds within which a repeated signal counts as one: launchers and terminals both pass it on."""


class Preempted(Exception):
    """The run stopped because it was told to; `step` is the last one that is saved."""

    def __init__(self, step: int = 0):
        self.step = step
        super().__init__(f"stopped after step {step}")


class Notice:
    """Whether this process was told to stop."""

    def __init__(self) -> None:
        self.signals = 0
        self.grace_seconds = 60.0
        self.speaks = True
        """Of several processes, one says that a signal has come."""
        self.started = time.time()
        """When listening began: the start of the run's process, as far as the run knows."""
        self._first = self._last = 0.0
        self._listening = False

    @property
    def given(self) -> bool:
        """Stop behind this step."""
        return self.signals > 0

    @property
    def overdue(self) -> bool:
        """Give the step up."""
        return self.signals > 1 or (self.given and time.monotonic() - self._first > self.grace_seconds)

    def check(self) -> None:
        """Where there is nothing to save yet.

        Raises:
            Preempted: a signal has come.
        """
        if self.given:
            raise Preempted

    @contextmanager
    def listening(self) -> Iterator["Notice"]:
        """Handles the signals inside the block; only the main thread can, others leave them as they are."""
        if self._listening or threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._flag) for number in SIGNALS}
        self.signals, self._listening, self.started = 0, True, time.time()
        over = threading.Event()
        threading.Thread(target=self._watch, args=[over], daemon=True).start()
        try:
            yield self
        finally:
            self._listening = False
            over.set()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _flag(self, number: int, frame: Any) -> None:
        now = time.monotonic()
        if not self.signals:
            self._first = now
        if not self.signals or now - self._last > SAME:
            self.signals += 1
        self._last = now

    def _watch(self, over: threading.Event) -> None:
        """Says that the signal has come, and ends a process that never reads it: it may hang in a collective
        whose other side is gone."""
        said = False
        while not over.wait(0.2):
            if self.given and self.speaks and not said:
                said = True
                print("told to stop: after the step in progress, if there is one", file=sys.stderr, flush=True)
            if self.given and time.monotonic() - self._first > 2 * self.grace_seconds:
                print("the grace period is over: leaving without saving", file=sys.stderr, flush=True)
                os._exit(PREEMPTED)


notice = Notice()
"""Of this process; signals are the process's own."""
