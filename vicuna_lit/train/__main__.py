"""`vicuna-train`: see `vicuna-train --help`."""

from typing import Any

from vicuna_lit import cli


def main() -> None:
    """The command; checks the command line before torch is imported."""
    cli.main("train", _run)


def _run(config: Any) -> int:
    from vicuna_lit.conversation import DataError
    from vicuna_lit.folder import RunError
    from vicuna_lit.paths import MissingPath
    from vicuna_lit.template import TemplateError
    from vicuna_lit.tokenizer import ModelError
    from vicuna_lit.train.run import fit

    try:
        fit(config)
    except (DataError, MissingPath, TemplateError, ModelError, RunError, OSError) as error:
        cli.fail(error)
    return 0


if __name__ == "__main__":
    main()
