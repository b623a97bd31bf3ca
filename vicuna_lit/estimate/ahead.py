"""The plan of a run, made in a process of its own while this one imports torch: both take seconds."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

from vicuna_lit.config.estimate import EstimateConfig
from vicuna_lit.data.plan import Plan, plan_run
from vicuna_lit.estimate.lengths import sizes_of


@contextmanager
def planned_ahead(config: EstimateConfig) -> Iterator[Callable[[], Plan | None]]:
    """What waits for the plan; None where it could not be made, which whoever makes it again finds out."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        yield pool.submit(_plan, config).result


def _plan(config: EstimateConfig) -> Plan | None:
    try:
        return plan_run(config, sizes_of(config).sizes, config.count)
    except Exception:
        return None
