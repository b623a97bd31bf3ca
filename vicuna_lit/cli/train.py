"""`vicuna-train`: see `vicuna-train --help`.

Imports at the top are those of a few milliseconds: a signal that comes before the command listens kills it.
"""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vicuna_lit.train.preemption import PREEMPTED, stop_signal, whole_command


def main() -> None:
    """The command; checks the command line before torch is imported."""
    if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:
        # Rows have every length; blocks of fixed sizes would leave holes. torch reads it when it is imported.
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    with whole_command():
        from vicuna_lit.cli import app as cli

        cli.main("train", _train_and_evaluate, Sweep())


class Sweep:
    """A multirun of the train job."""

    def __init__(self) -> None:
        self._dry_run: Any = None
        self._jobs, self._pace = 1, None
        self._failures_before = 0
        self._halving: Any = None
        self._told: dict[str, str] = {}
        """Errors of jobs, each with the first that had it."""

    def before(self, configs: Sequence[Any], folder: Path, jobs: Mapping[str, Mapping[str, str]]) -> None:
        """Keeps what is claimed; says what the jobs need, how far they go, and what lies in their folder already."""
        from vicuna_lit.cli.command_line import MOST_CHECKED
        from vicuna_lit.cli.train_sweep import other_recipes
        from vicuna_lit.compare.runs import failures_in

        self._failures_before = len(failures_in(folder))
        whole = len(configs) < MOST_CHECKED  # else there may be more jobs than configs
        if configs and (claim := configs[0].claim):
            from vicuna_lit.compare.claims import keep_claim

            swept = [config.run.swept for config in configs]
            _saying(lambda: keep_claim(Path(claim), folder, swept, whole, writes=not configs[0].dry_run))
        for line in other_recipes(configs, folder) if configs else ():
            print(f"note: {line}", file=sys.stderr)
        self._jobs = len(configs) if whole else 1
        if configs and configs[0].halving:
            self._begin_halving(configs[0], folder, jobs)
        if any(config.estimate and not config.dry_run for config in configs):
            from vicuna_lit.cli.fit_check import mark
            from vicuna_lit.hub import fetched

            _saying(lambda: mark([fetched(config, weights=False) for config in configs], folder))

    def _begin_halving(self, config: Any, folder: Path, jobs: Mapping[str, Mapping[str, str]]) -> None:
        """Says its rungs, and of a sweep that is not only planned, which jobs go on to the next one."""
        from vicuna_lit.cli.halving import Halving

        halving = _saying(lambda: Halving(folder, config.halving, jobs))
        print(halving.plan(), file=sys.stderr)
        if config.claim:
            said = "halving may stop the claim's baseline early; then nothing is compared with it"
            print(f"note: {said}", file=sys.stderr)
        if not config.dry_run:
            self._halving = halving
            _saying(halving.begin)
            self._jobs = len(halving.going_on)

    def job(self, config: Any) -> float | None:
        """Runs or plans one job."""
        from vicuna_lit.cli.train_sweep import DryRun, Pace, run_job

        _check(config)
        if not config.dry_run:
            if self._halving is not None and config.run.name not in self._halving.going_on:
                return run_job(config, self._told)
            whither = " to this rung" if self._halving is not None and self._halving.at_a_rung else ""
            self._pace = self._pace or Pace.here(self._jobs, whither)
            return self._pace.timed(config.run.name, lambda: run_job(config, self._told))
        self._dry_run = self._dry_run or DryRun()
        return _saying(lambda: self._dry_run.add(config), config)

    def again(self) -> bool:
        """Whether settings go on from a rung of their halving."""
        if self._halving is None or not _saying(self._halving.decide):
            return False
        self._jobs, self._pace = len(self._halving.going_on), None
        return True

    def end(self, folder: Path) -> int:
        """Prints the table of the jobs; the exit code."""
        if self._dry_run:
            self._dry_run.show(folder)
            return 0
        from vicuna_lit.compare.terminal import show_sweep

        code = _saying(lambda: show_sweep(folder, self._failures_before))
        return code or int(self._halving is not None and self._halving.nobody)


def _check(config: Any) -> None:
    from vicuna_lit.cli import app as cli
    from vicuna_lit.cli.evaluate_after import check_evaluation
    from vicuna_lit.cli.push import check_push

    try:
        check_evaluation(config)
        check_push(config)
    except cli.ConfigError as error:
        cli.fail(error)


def _train_and_evaluate(config: Any) -> int:
    from vicuna_lit.cli import app as cli
    from vicuna_lit.cli.evaluate_after import evaluate_result
    from vicuna_lit.cli.push import push_result
    from vicuna_lit.hub import found

    _check(config)
    if config.claim:
        cli.fail(cli.ConfigError(["claim: of a sweep (-m), which has settings to compare"]))
    config = _saying(lambda: found(config, weights=not (config.dry_run or config.show_masks)))
    if config.show_masks:
        return _masks(config)
    return run(config) or (
        0 if config.dry_run or not _has_ended(config) else evaluate_result(config) or push_result(config)
    )


def _has_ended(config: Any) -> bool:
    """Whether there is a model now: `stop_after` leaves the rest of a run for later."""
    from vicuna_lit.train.result import result_in

    return result_in(Path(config.run.dir)) is not None


def _masks(config: Any) -> int:
    from vicuna_lit.cli.show_masks import show_masks

    return _saying(lambda: show_masks(config))


def run(config: Any) -> int:
    """Runs a checked config; returns the exit code."""
    with stop_signal.listening():
        return _saying(lambda: _run(config), config)


def _run(config: Any) -> int:
    from vicuna_lit.cli.busy import wait_asleep_where_busy
    from vicuna_lit.errors import say
    from vicuna_lit.machine import MACHINE_FAULT, OUT_OF_MEMORY
    from vicuna_lit.train.early import refuse_early

    refuse_early(config)
    if (busy := wait_asleep_where_busy()) and os.environ.get("RANK", "0") == "0":
        print(busy, file=sys.stderr, flush=True)
    from vicuna_lit.train.distributed import ProcessesFailed
    from vicuna_lit.train.finite import NotFiniteError
    from vicuna_lit.train.memory import kernel_kills

    killed = kernel_kills()
    try:
        if _job(config).status == "preempted":
            return PREEMPTED
    except ProcessesFailed as error:
        if error.code > 0:
            return error.code
        say(f"a process of the run was ended by signal {-error.code}; {config.run.dir} goes on")
        return OUT_OF_MEMORY if kernel_kills() > killed else MACHINE_FAULT
    except NotFiniteError as error:
        say(error)
        return 1
    except Exception as error:
        if (code := _said_of_the_machine(error)) is None:
            raise
        return code
    return 0


def _said_of_the_machine(error: Exception) -> int | None:
    """Says in a line that memory ran out, or that another process has ended; the exit code, or None for any other."""
    from vicuna_lit.errors import say
    from vicuna_lit.machine import MACHINE_FAULT, is_lost_peer, is_out_of_memory

    if is_out_of_memory(error):
        code = say(error)
        print(LESS_MEMORY, file=sys.stderr)
        return code
    if is_lost_peer(error):
        say("another process of the run has ended: what it printed says why")
        time.sleep(AFTER_THE_OTHER)
        return MACHINE_FAULT
    return None


def _job(config: Any) -> Any:
    """A plan needs no Lightning, which takes more than a second to import."""
    if config.dry_run:
        from vicuna_lit.train.setup import dry_run

        return dry_run(config)
    from vicuna_lit.train.run import fit

    return fit(config)


AFTER_THE_OTHER = 1.0
"""Seconds by which a process outlives the one that failed: the command has the exit code of the first that ends."""
LESS_MEMORY = (
    "  less memory, the same run: a smaller tokens_per_device (down to context_length), gradient_checkpointing=full, "
    "strategy=fsdp or zero3 on more devices, fsdp_offload; another run: finetune=lora, qlora"
)


def _saying(job: Any, config: Any = None) -> Any:
    """Runs a job; what is expected is said in one message by the first process, and ends this one with its code.

    Args:
        config: of the run whose folder an error may speak of.
    """
    from vicuna_lit.cli import app as cli
    from vicuna_lit.machine import exit_code

    try:
        return job()
    except Exception as error:
        if not cli.is_expected(error):
            raise
        if "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("RANK", "0") != "0":
            sys.exit(exit_code(error))
        if config is not None and config.run.swept:  # else torch would be imported for an error that came before it
            from vicuna_lit.cli.train_sweep import of_a_sweep

            error = of_a_sweep(error, config)
        cli.fail(error)


if __name__ == "__main__":
    main()
