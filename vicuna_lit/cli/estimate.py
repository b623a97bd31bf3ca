"""`vicuna-estimate`: see `vicuna-estimate --help`.

Imports at the top are those of a few milliseconds: a signal that comes before the command listens kills it.
"""

import gc
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vicuna_lit.cli.stops import stops_in_one_line


def main() -> None:
    """The command."""
    gc.set_threshold(
        200_000, 50, 50
    )  # a plan is a million small objects, all of them kept: looking at them costs a second
    with stops_in_one_line():
        from vicuna_lit.cli import app as cli

        cli.main("estimate", _run, Sweep())


def _run(config: Any) -> int:
    from vicuna_lit.cli import app as cli

    return cli.guarded(lambda: _estimate(_ready(config)), config.run.dir, resumes=False)


def _ready(config: Any) -> Any:
    """The config with what lies on the Hub fetched.

    Raises:
        ModelError: adapters need a package that is not installed.
    """
    from vicuna_lit.hub import found
    from vicuna_lit.train.early import need_adapters

    need_adapters(config.finetune)
    return found(config, weights=False)


def _estimate(config: Any) -> None:
    from vicuna_lit.estimate.lengths import planned_ahead

    with planned_ahead(config) as plan:
        _answer(config, plan)


def _answer(config: Any, plan: Any) -> None:
    from vicuna_lit.estimate.advice import cheapest, to_fit
    from vicuna_lit.estimate.report import say, show, to_json, write_page
    from vicuna_lit.estimate.run import Estimator

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # no advice on kernels of which none runs
    if config.refresh:
        from vicuna_lit.estimate.refresh import refresh

        say(refresh())
    found = Estimator(plan=plan).estimate(config)
    fitting = [] if found.fits else to_fit(found)
    cheaper = cheapest(found) if config.deadline_hours else []
    if config.output == "json":
        print(json.dumps(to_json(found, fitting, cheaper), indent=2))
        return
    show(found, fitting, cheaper)
    if config.output == "html":
        say(f"page: {write_page([found], fitting, cheaper, Path(config.run.dir))}")


class Sweep:
    """A multirun of the estimate job: each job, and their total."""

    def __init__(self) -> None:
        self._estimator: Any = None
        self._found: list[Any] = []

    def before(self, configs: Sequence[Any], folder: Path, jobs: Mapping[str, Mapping[str, str]]) -> None:
        """Nothing: what is wrong with a job is said when it comes."""

    def again(self) -> bool:
        """Never."""
        return False

    def job(self, config: Any) -> float | None:
        """Estimates one job; its cost is what a sweeper may optimise."""
        from vicuna_lit.cli import app as cli
        from vicuna_lit.estimate.run import Estimator

        self._estimator = self._estimator or Estimator()
        estimate = self._estimator.estimate
        cli.guarded(lambda: self._found.append(estimate(_ready(config))), config.run.dir, resumes=False)
        return self._found[-1].usd and self._found[-1].usd[1]

    def end(self, folder: Path) -> int:
        """Prints the table of the jobs."""
        from vicuna_lit.estimate.report import show_sweep

        if self._found:
            show_sweep(self._found, folder)
        return 0


if __name__ == "__main__":
    main()
