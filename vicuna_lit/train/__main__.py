"""`vicuna-train`: see `vicuna-train --help`."""

from typing import Any

from vicuna_lit import cli
from vicuna_lit.train.preemption import PREEMPTED, notice


def main() -> None:
    """The command; checks the command line before torch is imported."""
    cli.main("train", _train_and_evaluate)


def _train_and_evaluate(config: Any) -> int:
    from vicuna_lit.train.afterwards import check_evaluation, evaluate_result

    try:
        check_evaluation(config)
    except cli.ConfigError as error:
        cli.fail(error)
    return run(config) or (0 if config.dry_run else evaluate_result(config))


def run(config: Any) -> int:
    """Runs a checked config; returns the exit code."""
    with notice.listening():  # importing torch takes seconds, in which a signal may come
        return _run(config)


def _run(config: Any) -> int:
    from vicuna_lit.conversation import DataError
    from vicuna_lit.folder import RunError
    from vicuna_lit.paths import MissingPath, ModelError
    from vicuna_lit.template import TemplateError
    from vicuna_lit.train.run import fit
    from vicuna_lit.train.world import ProcessesFailed, World

    try:
        if fit(config).status == "preempted":
            return PREEMPTED
    except ProcessesFailed as error:
        return error.code
    except (DataError, MissingPath, TemplateError, ModelError, RunError, OSError) as error:
        if (World.of_environment() or World()).rank:
            return 2  # the first process says it
        cli.fail(error)
    return 0


if __name__ == "__main__":
    main()
