"""W&B's own process, watched: one that is stopped or hangs is ended, so that no call waits for it for ever.

Its client waits without a limit wherever its pipe is full or an answer is due. Once the process is gone such a call
fails with a lost connection.
"""

import atexit
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STOPPED_SECONDS, HUNG_SECONDS = 60.0, 600.0
"""That a call waits for a process that is stopped (SIGSTOP), and a short call for one that runs."""
LOOK_SECONDS = 1.0
"""Between two looks."""
REAPED_SECONDS = 10.0
"""For the process to be gone once it was killed."""


@dataclass(eq=False)
class _Call:
    may_last: bool
    seconds: float = 0.0
    stopped: float = 0.0


class Watch:
    """Looks once a second at the call into W&B that is under way, from a thread of its own.

    Seconds are those in which this process ran: a job that was suspended as a whole comes back to a W&B that is well.
    """

    def __init__(self):
        self._ended: str | None = None
        self._calls: list[_Call] = []
        self._watched = 0
        """The process whose thread watches: a fork has none."""

    @contextmanager
    def over(self, may_last: bool = True) -> Iterator[None]:
        """Watches a call.

        Args:
            may_last: it may take as long as it takes while W&B's process runs: files are read or sent.
        """
        call = self.begin(may_last)
        try:
            yield
        finally:
            self._calls.remove(call)

    def begin(self, may_last: bool = True) -> "_Call":
        """Watches what follows, to the end of this process unless the call is taken away."""
        self._calls.append(call := _Call(may_last))
        if self._watched != os.getpid():
            self._watched = os.getpid()
            threading.Thread(target=self._watch, name="watch over W&B", daemon=True).start()
        return call

    def reason(self) -> str | None:
        """Why W&B's process was ended, told once; None: it was not, or died of itself."""
        why, self._ended = self._ended, None
        return why

    def to_the_end(self) -> None:
        """Watches the end of this interpreter too, where W&B waits for its process; called once that has begun."""
        atexit.unregister(self.begin)
        atexit.register(self.begin)  # later than W&B's own hook, so it is called before

    def _watch(self) -> None:
        pause = threading.Event()
        while not pause.wait(LOOK_SECONDS):
            for call in self._calls[-1:]:  # the innermost
                call.seconds += LOOK_SECONDS
                call.stopped = call.stopped + LOOK_SECONDS if is_stopped(_process()) else 0.0
                if call.stopped >= STOPPED_SECONDS:
                    self._end(f"its process was stopped, for {call.stopped:g} s")
                elif call.seconds >= HUNG_SECONDS and not call.may_last:
                    self._end(f"its process did not answer for {call.seconds:g} s")

    def _end(self, why: str) -> None:
        self._ended = why
        if process := _process():
            process.kill()
        with suppress(Exception):  # the process is another's (WANDB_SERVICE): this end of the connection is ours
            connection = _connection()
            connection._asyncer._loop.call_soon_threadsafe(connection._client._writer.transport.abort)


WATCH = Watch()
"""Of this process, as W&B's own is."""


def is_stopped(process: "subprocess.Popen[Any] | None") -> bool:
    """Whether a process does not run because of a signal; False where that cannot be known."""
    if process is None:
        return False
    with suppress(OSError, IndexError):
        return Path(f"/proc/{process.pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()[0] in "Tt"
    with suppress(OSError):
        command = ["ps", "-o", "state=", "-p", str(process.pid)]
        return subprocess.run(command, capture_output=True, text=True).stdout.startswith("T")
    return False


def end_process(kill: bool) -> None:
    """Lets W&B's own process end, or ends it, and waits for it: one that is left behind is a warning in Python.

    Args:
        kill: without waiting for what it still uploads.
    """
    from wandb.sdk import wandb_setup

    process = _process()
    if process and kill:
        process.kill()
    with suppress(Exception, SystemExit):  # W&B ends with the exit code of its process
        wandb_setup.teardown()
    if process:
        with suppress(subprocess.TimeoutExpired):
            process.wait(REAPED_SECONDS)


def _connection() -> Any:
    """W&B's client; None where it has none (yet): looking must not make it."""
    return getattr(getattr(sys.modules.get("wandb.sdk.wandb_setup"), "_singleton", None), "_connection", None)


def _process() -> "subprocess.Popen[Any] | None":
    """W&B's process, if it is a child of this one."""
    return getattr(getattr(_connection(), "_proc", None), "_process", None)
