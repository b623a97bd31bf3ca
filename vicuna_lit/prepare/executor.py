"""Who does the shards: this process, a pool of processes, or a Ray cluster. The work is the same function."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver
from typing import Any, Literal

from vicuna_lit.run_folder import MachineError, RunError
from vicuna_lit.signals import held

ATTEMPTS = 3
"""Workers that die (killed, out of memory) are replaced until so many died with no shard done between."""


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def warm_up(workers: int, modules: Sequence[str]) -> None:
    """Starts importing what the workers need, while this process goes on."""
    if workers > 1 and "forkserver" in multiprocessing.get_all_start_methods():
        before = os.environ.get("TOKENIZERS_PARALLELISM")
        os.environ["TOKENIZERS_PARALLELISM"] = before or "false"  # for the workers alone, not for a training after this
        multiprocessing.set_forkserver_preload(list(modules))
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # its imports would end with a traceback
        try:
            forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]


def run_all(
    engine: Literal["local", "ray"], function: Callable[[Any], None], jobs: Sequence[Any], workers: int
) -> Iterator[Any]:
    """Does every job, in any order; yields each when it is done.

    Raises:
        MachineError: a worker died again and again.
        RunError: Ray is not installed.
    """
    if engine == "ray":
        yield from _ray(function, jobs, workers)
    elif workers == 1:
        for job in jobs:
            function(job)
            yield job
    else:
        yield from _pool(function, jobs, workers)


def _pool(function: Callable[[Any], None], jobs: Sequence[Any], workers: int) -> Iterator[Any]:
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    left, deaths = dict.fromkeys(jobs), 0
    while left and deaths < ATTEMPTS:
        count = 1 if deaths else min(workers, len(left))
        others = {*multiprocessing.active_children()}
        pool = ProcessPoolExecutor(count, mp_context=context, initializer=_follow_the_parent)
        try:
            with held():  # a worker that has just been begun would not be known
                futures = {pool.submit(function, job): job for job in left}
            for future in as_completed(futures):
                future.result()
                del left[futures[future]]
                deaths = 0
                yield futures[future]
        except BrokenProcessPool:  # go on alone, with more memory, and with the others first
            deaths += 1
            left = dict.fromkeys([*list(left)[1:], next(iter(left))])
        except BaseException:  # nobody waits for what is under way; the same command does it again
            for worker in {*multiprocessing.active_children()} - others:
                worker.kill()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
    if left:
        raise MachineError(
            f"a worker died {ATTEMPTS} times in a row (killed, or out of memory?); shards left: {len(left)}; finished "
            "ones are kept, the same command goes on"
        )


def _follow_the_parent() -> None:
    """A worker leaves interrupts to its parent, and outlives it by no moment: a pool's own workers would go on with
    what they were given, beside the next start of the same command."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if parent := multiprocessing.parent_process():
        threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()


def _leave_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _ray(function: Callable[[Any], None], jobs: Sequence[Any], workers: int) -> Iterator[Any]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        from ray import exceptions
    except ImportError:
        raise RunError("engine=ray needs Ray: pip install 'vicuna_lit[ray]'") from None
    if not ray.is_initialized():  # it ends with this process
        cluster = os.environ.get("RAY_ADDRESS")
        ray.init(**({} if cluster else {"num_cpus": workers, "include_dashboard": False}), log_to_driver=False)
    try:
        task = ray.remote(max_retries=ATTEMPTS - 1)(function)
        waiting = {task.remote(job): job for job in jobs}
        while waiting:
            (done,), _ = ray.wait(list(waiting))
            job = waiting.pop(done)
            ray.get(done)
            yield job
    except (exceptions.WorkerCrashedError, exceptions.OutOfMemoryError) as error:
        raise RunError(f"a Ray worker died {ATTEMPTS} times: {str(error).splitlines()[0]}") from error
    except exceptions.RayTaskError as error:
        raise error.cause from None
