"""`vicuna-evaluate`: see `vicuna-evaluate --help`."""

from typing import Any

from vicuna_lit.cli import app as cli
from vicuna_lit.cli.busy import wait_asleep_where_busy
from vicuna_lit.hub import fetched


def main() -> None:
    """The command."""
    cli.main("evaluate", _run)


def _run(config: Any) -> int:
    return cli.guarded(lambda: _evaluate(fetched(config)), config.run.dir)


def _evaluate(config: Any) -> None:
    wait_asleep_where_busy()
    from vicuna_lit.evaluate.report import show
    from vicuna_lit.evaluate.run import evaluate_models

    show(evaluate_models(config), config.run.dir)


if __name__ == "__main__":
    main()
