"""`vicuna-evaluate`: see `vicuna-evaluate --help`.

Imports at the top are those of a few milliseconds: a signal that comes before the command listens kills it.
"""

from typing import Any

from vicuna_lit.cli.stops import stops_in_one_line


def main() -> None:
    """The command."""
    with stops_in_one_line():
        from vicuna_lit.cli import app as cli

        cli.main("evaluate", _run)


def _run(config: Any) -> int:
    from vicuna_lit.cli import app as cli
    from vicuna_lit.hub import fetched

    return cli.guarded(lambda: _evaluate(fetched(config)), config.run.dir)


def _evaluate(config: Any) -> None:
    from vicuna_lit.cli.busy import wait_asleep_where_busy

    wait_asleep_where_busy()
    from vicuna_lit.evaluate.report import show
    from vicuna_lit.evaluate.run import evaluate_models

    show(evaluate_models(config), config.run.dir)


if __name__ == "__main__":
    main()
