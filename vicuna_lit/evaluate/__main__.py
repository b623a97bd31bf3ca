"""`vicuna-evaluate`: see `vicuna-evaluate --help`."""

from typing import Any

from vicuna_lit import cli


def main() -> None:
    """The command."""
    cli.main("evaluate", _run)


def _run(config: Any) -> int:
    from vicuna_lit.evaluate.run import evaluate_models
    from vicuna_lit.evaluate.terminal import show

    return cli.guarded(lambda: show(evaluate_models(config), config.run.dir), config.run.dir)


if __name__ == "__main__":
    main()
