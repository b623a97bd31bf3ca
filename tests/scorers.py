"""Moderation scorers that misbehave; a module of its own, so that a worker imports nothing heavy."""

import os
import signal
from pathlib import Path

WHERE = "Question 702?"


def kill_once(text: str) -> float:
    """Kills its own process, the first time."""
    mark = Path(os.environ["VICUNA_TEST_MARK"])
    if WHERE in text and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return 0.0


def kill_always(text: str) -> float:
    if WHERE in text:
        os.kill(os.getpid(), signal.SIGKILL)
    return 0.0


def fail(text: str) -> float:
    if WHERE in text:
        raise RuntimeError("no")
    return 0.0
