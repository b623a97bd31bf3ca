"""On a machine that others use too, threads that wait do so asleep."""

import os
import sys
from collections.abc import MutableMapping

OWN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Settings of OpenMP's libraries; where one is set, it is the user's."""


def wait_asleep_where_busy(environment: MutableMapping[str, str] = os.environ) -> str | None:
    """Lets OpenMP's threads sleep while they wait, where the machine has no core to spare.

    To be called before torch is imported, whose OpenMP reads it then. Spinning is faster where nothing else runs, so
    there nothing is changed; nor where there is one thread, which waits for none.

    Returns:
        What to say where there is more to do than there are cores.
    """
    load, cores = os.getloadavg()[0], _cores()
    if load + 1 <= cores or environment.get("OMP_NUM_THREADS") == "1":
        return None
    if "torch" not in sys.modules and not any(name in environment for name in OWN):
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
    if load <= cores:
        return None
    return (
        f"note: others use this machine (load {load:.1f}, {cores} core{'s' * (cores > 1)}): what is timed here is slow"
    )


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
