"""FastChat's own commands, one after the other, with as many workers as asked; runs in FastChat's environment.

    <python with fschat> experiments/benchmarks/prepare/worker.py raw.json clean.json WORKERS

`clean_sharegpt` takes as many processes as the machine has cores. Here it gets as many as asked; one means
none beside this process, which spares it the copying between processes.
"""

import runpy
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

from fastchat.data import clean_sharegpt  # pyright: ignore[reportMissingImports]


class Alone:
    """Takes the place of a pool of processes."""

    def __enter__(self) -> "Alone":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        return map(function, items)


if __name__ == "__main__":
    source, target, workers = sys.argv[1:]
    clean_sharegpt.ProcessPoolExecutor = (
        Alone if workers == "1" else partial(ProcessPoolExecutor, max_workers=int(workers))
    )
    clean_sharegpt.main({"in_file": source, "out_file": f"{target}.part", "begin": None, "end": None})
    sys.argv[1:] = ["--in-file", f"{target}.part", "--out-file", target]
    runpy.run_module("fastchat.data.filter_wrong_format", run_name="__main__")
