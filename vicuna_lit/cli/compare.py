"""`vicuna-compare`: see `vicuna-compare --help`.

Imports at the top are those of a few milliseconds: a signal that comes before the command listens kills it.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vicuna_lit.cli.stops import stops_in_one_line

if TYPE_CHECKING:
    from vicuna_lit.compare.runs import Sweep


def refuse_typos(sweep: "Sweep", metrics: Sequence[str], over: str) -> None:
    """
    Raises:
        RunError: no run has such a figure, or the runs do not differ in such a key.
    """
    from vicuna_lit.compare.table import METRICS, REPEATS
    from vicuna_lit.run_folder import RunError

    metrics = metrics if ",".join(metrics) != ",".join(METRICS) else ()  # nobody has asked for these
    for metric in metrics:
        if sweep.finished and all(run.metric(metric) is None for run in sweep.finished):
            result = sweep.finished[0].result
            figures = [key for key, value in result.items() if isinstance(value, int | float)]
            known = ", ".join([*(result.get("logged") or {}), *figures])
            raise RunError(
                f"--metrics {metric}: no figure of any result.json; there are {known}, and others inside groups"
            )
    if over != ",".join(REPEATS) and (wrong := [key for key in over.split(",") if key not in sweep.keys]):
        raise RunError(f"--over {wrong[0]}: the runs do not differ in it; they differ in {', '.join(sweep.keys)}")


def main() -> None:
    """The command."""
    with stops_in_one_line():
        from vicuna_lit.cli.pipes import quiet_pipes
        from vicuna_lit.errors import say
        from vicuna_lit.paths import MissingPackage
        from vicuna_lit.run_folder import RunError

        quiet_pipes()
        given = _parser().parse_args()
        try:
            code = _compare(given)
        except (RunError, MissingPackage, OSError) as error:
            code = say(error)
        if code:
            sys.exit(code)


def _folder(given: str) -> Path:
    if not given.strip():  # `Path` would take it for the current folder
        raise argparse.ArgumentTypeError("an empty name is no folder; . is the one that you are in")
    return Path(given)


def _out(given: str) -> Path:
    folder = _folder(given)
    if folder.is_file():
        raise argparse.ArgumentTypeError(f"{given} is a file; name a folder")
    return folder


def _margin(given: str) -> float:
    try:
        margin = float(given)
    except ValueError:
        margin = 0.0
    if not 0 < margin < math.inf:
        raise argparse.ArgumentTypeError(f"{given}: nats that make no difference, above 0, such as 0.002")
    return margin


def _parser() -> argparse.ArgumentParser:
    from vicuna_lit import __version__
    from vicuna_lit.compare.table import METRICS, REPEATS

    parser = argparse.ArgumentParser(
        prog="vicuna-compare",
        description="Many train runs as one table and one page (compare.html, runs.csv, figures/).",
    )
    parser.add_argument("folders", nargs="+", type=_folder, help="a sweep's folder, or run folders")
    parser.add_argument("--metrics", default=",".join(METRICS), help="figures of result.json (%(default)s)")
    parser.add_argument("--over", default=",".join(REPEATS), help="keys whose values are repetitions (%(default)s)")
    parser.add_argument("--baseline", help="the setting to compare with, as 512; the one that the sweep names first")
    parser.add_argument(
        "--margin", type=_margin, help="nats that make no difference: equal is what is shown to lie within"
    )
    parser.add_argument("--out", type=_out, help="where the page goes; the first folder unless given")
    parser.add_argument(
        "--wandb-report", action="store_true", help="the page as a report in W&B too, where you are logged in"
    )
    parser.add_argument("--version", action="version", version=f"vicuna_lit {__version__}")
    return parser


def _compare(given: argparse.Namespace) -> int:
    """Prints the table and what follows from it; writes the page, and the report in W&B where it is asked for.

    Returns:
        The exit code: 2 where a run could not be read, and the others were compared.

    Raises:
        RunError, MissingPackage, OSError: the folders cannot be read, or the page cannot be written.
    """
    from vicuna_lit.compare.claims import claim_in_words, claimed
    from vicuna_lit.compare.conclusions import in_words
    from vicuna_lit.compare.runs import DAMAGED, read_sweep
    from vicuna_lit.compare.table import Table, settings, table
    from vicuna_lit.compare.terminal import show_lines, show_table, show_unfinished
    from vicuna_lit.machine import BAD_INPUT
    from vicuna_lit.paths import packages_of

    metrics, repeats = given.metrics.split(","), given.over.split(",")
    sweep = read_sweep(*given.folders, whole=False)
    refuse_typos(sweep, metrics, given.over)
    rows = Table()
    margin, baseline = claimed(sweep, given.margin, given.baseline)
    if found := settings(sweep, metrics, repeats, baseline):
        show_table(rows := table(found, metrics))
    lines = [*in_words(sweep, found, margin, repeats, baseline), *claim_in_words(sweep)]
    show_lines(lines)
    show_unfinished(sweep, list(sweep.failures))
    with packages_of("vicuna-compare"):
        from vicuna_lit.compare.report import write_report

        out = given.out or given.folders[0]
        print(write_report(sweep, out, metrics, repeats, baseline, margin))
    if given.wandb_report:
        from vicuna_lit.compare.wandb_report import save_report

        print(save_report(sweep, rows, lines, out))
    return BAD_INPUT if any(failure.get("cause") == DAMAGED for failure in sweep.failures) else 0


if __name__ == "__main__":
    main()
