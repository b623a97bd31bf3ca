"""`vicuna-compare`: see `vicuna-compare --help`."""

import argparse
import sys
from pathlib import Path

from vicuna_lit import __version__
from vicuna_lit.cli.pipes import quiet_pipes
from vicuna_lit.compare.runs import read_sweep
from vicuna_lit.compare.table import METRICS, REPEATS, settings, table
from vicuna_lit.compare.terminal import show_table, show_unfinished
from vicuna_lit.machine import exit_code
from vicuna_lit.paths import MissingPackage, packages_of
from vicuna_lit.run_folder import RunError


def main() -> None:
    """The command."""
    quiet_pipes()
    parser = argparse.ArgumentParser(
        prog="vicuna-compare",
        description="Many train runs as one table and one page (compare.html, runs.csv, figures/).",
    )
    parser.add_argument("folders", nargs="+", type=Path, help="a sweep's folder, or run folders")
    parser.add_argument("--metrics", default=",".join(METRICS), help="figures of result.json (%(default)s)")
    parser.add_argument("--over", default=",".join(REPEATS), help="keys whose values are repetitions (%(default)s)")
    parser.add_argument("--out", type=Path, help="where the page goes; the first folder unless given")
    parser.add_argument("--version", action="version", version=f"vicuna_lit {__version__}")
    given = parser.parse_args()
    metrics, repeats = given.metrics.split(","), given.over.split(",")
    try:
        sweep = read_sweep(*given.folders)
        if found := settings(sweep, metrics, repeats):
            show_table(table(found, metrics))
        show_unfinished(sweep, list(sweep.failures))
        with packages_of("vicuna-compare"):
            from vicuna_lit.compare.report import write_report

            print(write_report(sweep, given.out or given.folders[0], metrics, repeats))
    except (RunError, MissingPackage, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(exit_code(error))
