"""Where the steps of `check.py` write what they found."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


class Found:
    """Adds lines to `results.jsonl`, each whole as soon as it is known.

    Args:
        folder: of the file.
        phase: A, B or C.
        tiny: sizes that only show that a step runs.
    """

    def __init__(self, folder: str | Path, phase: str, tiny: bool):
        self.folder, self.phase, self.tiny = Path(folder), phase, tiny
        self.device = "cuda" if torch.cuda.is_available() else "cpu"

    def add(self, check: str, ok: bool, **figures: Any) -> None:
        """A check and its figures."""
        row = {"phase": self.phase, "check": check, "ok": bool(ok), "figures": _short(figures)}
        if self.tiny:
            row["tiny"] = True
        with (self.folder / "results.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
        print(row, flush=True)

    def attempt(self, check: str, job: Callable[[], dict[str, Any]], passes: Callable[[dict[str, Any]], bool]) -> None:
        """A check that may fail in any way: the next one still runs."""
        try:
            figures = job()
            self.add(check, passes(figures), **figures)
        except Exception as error:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self.add(check, False, error=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")


def _short(value: Any) -> Any:
    """Floats with four digits: they are for people."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _short(v) for key, v in value.items()}
    return [_short(v) for v in value] if isinstance(value, list | tuple) else value


def milliseconds(job: Callable[[], Any], rounds: int = 5) -> float:
    """The median of several, after one that warms up; on a GPU until it is done."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    taken = []
    for _ in range(rounds + 1):
        wait()
        start = time.perf_counter()
        job()
        wait()
        taken.append((time.perf_counter() - start) * 1e3)
    return sorted(taken[1:])[rounds // 2]


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The norm of the error by the norm of what is right."""
    found, wanted = found.detach().double().cpu(), wanted.detach().double().cpu()
    return float((found - wanted).norm() / wanted.norm().clamp(min=1e-30))
