"""`vicuna-evaluate`: see `vicuna-evaluate --help`."""

import sys
from typing import Any

from vicuna_lit import cli


def main() -> None:
    """The command."""
    cli.main("evaluate", _run)


def _run(config: Any) -> int:
    from vicuna_lit.conversation import DataError
    from vicuna_lit.evaluate.run import evaluate_models
    from vicuna_lit.evaluate.terminal import show
    from vicuna_lit.folder import RunError
    from vicuna_lit.paths import MissingPath
    from vicuna_lit.template import TemplateError

    try:
        show(evaluate_models(config), config.run.dir)
    except (DataError, MissingPath, RunError, TemplateError, OSError) as error:
        cli.fail(error)
    except KeyboardInterrupt:
        print(f"stopped; the same command goes on in {config.run.dir}", file=sys.stderr)
        return 130
    except ValueError as error:
        if type(error).__name__ != "ModelError":  # its module imports transformers, which recorded reviews never need
            raise
        cli.fail(error)
    return 0


if __name__ == "__main__":
    main()
