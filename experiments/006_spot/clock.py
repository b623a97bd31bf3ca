"""`vicuna-train` on a clock of processor seconds: on a machine that others use too, seconds of the wall measure them.

    CLOCK=<seconds used by earlier starts> python -m experiments.006_spot.clock <overrides>

`times.csv` and what is made of it then count the seconds in which this run's processes really ran.
"""

import os
import time
from pathlib import Path
from types import SimpleNamespace

from vicuna_lit.cli.train import main
from vicuna_lit.train import run_record, times

BEFORE = float(os.environ["CLOCK"])


class OnThisClock(times.Times):
    """From the start of the process on."""

    def __init__(self, folder: Path, _: times.Opening, writes: bool = True):
        super().__init__(folder, times.Opening(BEFORE), writes)


if __name__ == "__main__":
    clock = lambda: BEFORE + time.process_time()  # noqa: E731
    times.time = SimpleNamespace(time=clock, monotonic=clock)  # pyright: ignore[reportAttributeAccessIssue]
    run_record.Times = OnThisClock  # pyright: ignore[reportAttributeAccessIssue]
    main()
