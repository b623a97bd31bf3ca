"""Being told to stop: signals set flags, and the run looks at them where its state is whole.

The first signal (SIGTERM, SIGINT, SIGUSR1) asks for a stop after the step in progress. A second one, or the end
of the grace period, gives that step up: the last finished one is saved at the next micro-batch. Whoever is still
there when as much time has passed again leaves without saving. Imports no torch, so that a signal during the start
finds its handler.

With several processes each is told: by its scheduler, or by the one that started it (`distributed.launch`, in `_wait`;
each further signal too; the same one within a second counts once). At the end of a step `CheckpointCallback` asks
whether any of them was (`any_rank`); then all save their shards of this step and raise `Preempted` with the last step
that is on disk at all of them. It asks so between the rows and the sample questions of a validation too, and before the
export; while a run is set up, each rank asks for itself (`stop_signal.check`). Own loggers are told `success`
(`StopAfterStep.on_exception`). On its way up `RunRecord.open` writes `preempted` to `result.json` and leaves W&B's open
row to the next start, `setup.preemptible` returns the result, and the process exits with `PREEMPTED`. So does the
command, once all processes have ended. Rank 0 alone writes `result.json`. A rank whose grace is over saves its last
finished step alone (`CheckpointCallback.on_train_batch_end`); after twice the grace each leaves without saving, the
command too; `distributed._wait` kills ranks that are left `LAST_WORDS` later, where one alone was told. Under torchrun
that is torchrun's part: it kills 30 s after the signal, and has its own exit code.

Python runs signal handlers between two bytecodes of the main thread: never while it is blocked in C, as in a
collective whose other side is gone. So the signals are counted by what the interpreter's C handler writes, at once,
to a socket that a thread reads.
"""

import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from vicuna_lit.signals import SAME

PREEMPTED = 33
"""The exit code that asks the scheduler to start the same command again."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Preempted(Exception):
    """The run stopped because it was told to; `step` is the last one that is saved."""

    def __init__(self, step: int = 0):
        self.step = step
        super().__init__(f"stopped after step {step}")


class Stopped(Exception):
    """The run has come to the step of `stop_after`; `step` is the last one that is saved."""

    def __init__(self, step: int):
        self.step = step
        super().__init__(f"stopped after step {step}, as stop_after says")


class StopSignal:
    """Whether this process was told to stop."""

    def __init__(self) -> None:
        self.signals = 0
        self.grace_seconds = 60.0
        self.announces = True
        """Of several processes, one says that a signal has come."""
        self.started = time.monotonic()
        """When listening began: the start of the run's process, as far as the run knows."""
        self._first = self._last = 0.0
        self._listening = False
        self._counting = threading.RLock()
        """Held by whoever reads: the watcher, or the main thread in its handler, which a second signal may enter."""

    def __reduce__(self) -> str:
        """Another process has its own: launchers that send a job to one (joblib, Ray) send the name alone."""
        return "stop_signal"

    @property
    def requested(self) -> bool:
        """Stop after this step."""
        return self.signals > 0

    @property
    def expired(self) -> bool:
        """Give the step up."""
        return self.signals > 1 or (self.requested and time.monotonic() - self._first > self.grace_seconds)

    def check(self) -> None:
        """Where there is nothing to save yet.

        Raises:
            Preempted: a signal has come.
        """
        if self.requested:
            raise Preempted

    @contextmanager
    def listening(self) -> Iterator["StopSignal"]:
        """Counts the signals inside the block; only the main thread can, others leave them as they are.

        Whoever listened to signals before (an event loop, a notebook) gets those that are not ours all the while,
        and has everything back at the end.
        """
        if self._listening or threading.current_thread() is not threading.main_thread():
            yield self
            return
        self.signals, self._listening, self.started = 0, True, time.monotonic()
        self._reading, writing = socket.socketpair()
        for end in (self._reading, writing):
            end.setblocking(False)
        self._others = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        watcher = threading.Thread(target=self._watch, daemon=True)
        watcher.start()
        before = {number: signal.signal(number, lambda *_: self._count()) for number in SIGNALS}
        try:
            yield self
        finally:
            self._listening = False
            for number, handler in before.items():
                signal.signal(number, handler or signal.SIG_DFL)  # None: installed from C, it cannot be restored
            if (last := signal.set_wakeup_fd(-1)) != writing.fileno():
                signal.set_wakeup_fd(last)  # somebody has put another one there
            elif self._others != -1:
                signal.set_wakeup_fd(self._others)
            writing.close()
            watcher.join()
            self._reading.close()

    def _count(self) -> bool:
        """Counts what has come since the last time; whether more may come."""
        with self._counting:
            try:
                come = self._reading.recv(4096)
            except BlockingIOError:
                return True
            now = time.monotonic()
            if any(number in SIGNALS for number in come):
                if not self.signals:
                    self._first = now
                if not self.signals or now - self._last > SAME:
                    self.signals += 1
                self._last = now
            others = bytes(number for number in come if number not in SIGNALS)
            if others and self._others != -1:
                with suppress(OSError):  # nobody reads there any more
                    os.write(self._others, others)
            return bool(come)

    def _watch(self) -> None:
        """Says that the signal has come, and ends a process that never acts on it."""
        said, more, poll = False, True, select.poll()
        poll.register(self._reading, select.POLLIN)
        while more:
            if poll.poll(200):
                more = self._count()
            if self.requested and self.announces and not said:
                said = True
                _say("told to stop: after the step in progress, if there is one")
            if self.requested and time.monotonic() - self._first > 2 * self.grace_seconds:
                _say("the grace period is over: leaving without saving")
                os._exit(PREEMPTED)

    def _in_a_forked_child(self) -> None:
        """It is not the run, and shares its socket: what it is told must not be counted there."""
        if self._listening:
            signal.set_wakeup_fd(-1)
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)


def _say(what: str) -> None:
    with suppress(OSError):  # a terminal that is gone keeps nobody from leaving
        print(what, file=sys.stderr, flush=True)


stop_signal = StopSignal()
"""Of this process; signals are the process's own."""
os.register_at_fork(after_in_child=stop_signal._in_a_forked_child)


@contextmanager
def whole_command() -> Iterator[None]:
    """Listens from a command's first line to its last. One that was told to stop leaves at once: while Python shuts
    down it would no longer listen, and another signal would end it with another exit code than `PREEMPTED`.
    """
    with stop_signal.listening():
        try:
            yield
        except SystemExit as end:
            if end.code == PREEMPTED:
                for stream in (sys.stdout, sys.stderr):
                    with suppress(OSError, ValueError):
                        stream.flush()
                os._exit(PREEMPTED)
            raise
