"""Which GPUs of its machine a job of a sweep works on: jobs that run at the same time get different ones.

Hydra's launchers start jobs in processes that know nothing of each other, so a GPU is taken by locking a file of its
name. The kernel takes the lock back when the process ends, however it ends. Where a scheduler has named the GPUs
(`CUDA_VISIBLE_DEVICES`), those are dealt.
"""

import fcntl
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path

import torch

from vicuna_lit.config.train import TrainConfig
from vicuna_lit.train.preemption import stop_signal

NAMES = "CUDA_VISIBLE_DEVICES"


def visible() -> list[str]:
    """This process's GPUs as `CUDA_VISIBLE_DEVICES` calls them; no CUDA context is made."""
    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get(NAMES, "").split(",") if name.strip()]
    return (named or [str(i) for i in range(count)])[:count]


@contextmanager
def taken(config: TrainConfig) -> Iterator[dict[str, str]]:
    """What the processes of a job need in their environment: as many GPUs as it has processes, its own for the time
    of the block; waits for them. Nothing where there are none, or too few.

    Raises:
        Preempted: told to stop while waiting.
    """
    names = visible() if config.trainer.accelerator != "cpu" else []
    if len(names) < config.trainer.devices:
        yield {}
        return
    # A scheduler may number the GPUs of every job from 0, and jobs of several users share a machine.
    folder = Path(tempfile.gettempdir()) / f"vicuna_lit-gpus-{os.getuid()}" / os.environ.get("SLURM_JOB_ID", "machine")
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        yield {NAMES: ",".join(_take(folder, names, config, held))}


def _take(folder: Path, names: list[str], config: TrainConfig, held: ExitStack) -> list[str]:
    """Locks as many as the job needs. One job at a time collects them, so that none goes without for ever."""
    mine: set[str] = set()

    def one_more() -> bool:
        free = (n for n in names if n not in mine and _lock(folder / re.sub(r"\W", "_", n), held))
        mine.update(found := list(islice(free, 1)))
        return bool(found)

    with ExitStack() as turn:
        waiting = _said_once(f"{config.run.name}: waiting for a free GPU of {', '.join(names)}")
        while not _lock(folder / "next", turn):
            next(waiting)
        while len(mine) < config.trainer.devices:
            if not one_more():
                next(waiting)
    return [name for name in names if name in mine]


def _said_once(what: str) -> Iterator[None]:
    """Each turn waits for a moment, and stops where the process is told to."""
    print(what, file=sys.stderr, flush=True)
    while True:
        stop_signal.check()
        time.sleep(0.2)
        yield


def _lock(path: Path, held: ExitStack) -> bool:
    """Whether the file is locked now, for as long as `held` is; another process may hold it."""
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return False
    except OSError:  # a file system without locks
        pass
    held.enter_context(file)
    return True
