"""Moderation scorers that misbehave; a module of its own, so that a worker imports nothing heavy."""

import os
import signal
import time
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


def wait(text: str) -> float:
    """Slow in one shard, so that a test can interrupt the job there."""
    if WHERE in text:
        time.sleep(2)
    return 0.0
