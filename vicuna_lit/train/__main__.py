"""`vicuna-train`: see `vicuna-train --help`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vicuna_lit import cli
from vicuna_lit.train.preemption import PREEMPTED, notice


def main() -> None:
    """The command; checks the command line before torch is imported."""
    with notice.listening():  # importing torch takes seconds, in which a signal may come
        cli.main("train", _train_and_evaluate, Sweep())


class Sweep(cli.Sweep):
    """A multirun of the train job."""

    def __init__(self) -> None:
        self._dry_run: Any = None

    def before(self, configs: Sequence[Any], folder: Path) -> None:
        """Says what the jobs need, where the config asks for it."""
        if any(config.estimate and not config.dry_run for config in configs):
            from vicuna_lit.estimate.sweep import mark

            _saying(lambda: mark(configs, folder))

    def job(self, config: Any) -> float | None:
        """Runs or plans one job."""
        from vicuna_lit.train.sweep import DryRun, run_job

        _check(config)
        if not config.dry_run:
            return run_job(config)
        self._dry_run = self._dry_run or DryRun()
        return _saying(lambda: self._dry_run.add(config))

    def end(self, folder: Path, since: float) -> int:
        """Prints the table of the jobs; the exit code."""
        if self._dry_run:
            self._dry_run.show(folder)
            return 0
        from vicuna_lit.compare.terminal import show_sweep

        return show_sweep(folder, since)


def _check(config: Any) -> None:
    from vicuna_lit.train.afterwards import check_evaluation

    try:
        check_evaluation(config)
    except cli.ConfigError as error:
        cli.fail(error)


def _train_and_evaluate(config: Any) -> int:
    from vicuna_lit.train.afterwards import evaluate_result

    _check(config)
    return run(config) or (0 if config.dry_run else evaluate_result(config))


def run(config: Any) -> int:
    """Runs a checked config; returns the exit code."""
    with notice.listening():
        return _saying(lambda: _run(config))


def _run(config: Any) -> int:
    from vicuna_lit.train.memory import OUT_OF_MEMORY, out_of_memory
    from vicuna_lit.train.run import fit
    from vicuna_lit.train.world import ProcessesFailed

    try:
        if fit(config).status == "preempted":
            return PREEMPTED
    except ProcessesFailed as error:
        return error.code
    except Exception as error:
        if not out_of_memory(error):
            raise
        print(f"error: out of memory: {str(error).splitlines()[0]}\n{LESS_MEMORY}", file=sys.stderr)
        return OUT_OF_MEMORY
    return 0


LESS_MEMORY = (
    "  less memory, the same run: a smaller tokens_per_device (down to context_length), gradient_checkpointing=full, "
    "strategy=fsdp or zero3 on more devices, fsdp_offload; another run: finetune=lora, qlora"
)


def _saying(job: Any) -> Any:
    """Runs a job; bad input is said in one message by the first process, and ends this one with 2."""
    from vicuna_lit.conversation import DataError
    from vicuna_lit.folder import RunError
    from vicuna_lit.paths import MissingPath, ModelError
    from vicuna_lit.template import TemplateError
    from vicuna_lit.train.world import World

    try:
        return job()
    except (cli.ConfigError, DataError, MissingPath, TemplateError, ModelError, RunError, OSError) as error:
        if (World.of_environment() or World()).rank:
            sys.exit(2)
        cli.fail(error)


if __name__ == "__main__":
    main()
