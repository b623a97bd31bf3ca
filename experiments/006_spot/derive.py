"""What one machine's job would have met in a published trace → traces.csv.

    python -m experiments.006_spot.derive p3=<p3-trace.csv> g4dn=<g4dn-trace.csv>

The traces are lines `<milliseconds>,add|remove,<node>` of machines that a cloud gave and took (tools/simulator/traces
of github.com/SymbioticLab/Oobleck, commit 103c477, MIT licence, the University of Michigan). A job begins at some
moment, waits for the next one at which the cloud gives machines and gets one of those; when it is taken, the same
again. The seed draws the moment and the machines. At its end the trace begins again; a machine that was not taken by
then lasts on as one of the first.
"""

import csv
import random
import sys
from collections import defaultdict
from pathlib import Path

from experiments import tables

HOURS, SEEDS = 72.0, 3


def follow(events: list[tuple[float, str, str]], seed: int, hours: float = HOURS) -> list[tuple[float, float]]:
    """(hours a machine lasted, hours until there was another one), for at least so many hours.

    Args:
        events: (hour, `add` or `remove`, machine), in order.
    """
    rng = random.Random(seed)
    given: dict[float, list[str]] = defaultdict(list)
    taken = {node: hour for hour, what, node in events if what == "remove"}
    for hour, what, node in events:
        if what == "add":
            given[hour].append(node)
    moments, end = sorted(given), events[-1][0]
    lives: list[tuple[float, float]] = []
    begins = rng.uniform(0, moments[-1])
    now, lasted = next(m for m in moments if m >= begins), 0.0
    while sum(map(sum, lives)) < hours:
        lost = taken.get(rng.choice(given[now]))
        if lost is None:  # it goes on with the trace's beginning
            now, lasted = moments[0], lasted + end - now
            continue
        lasted += lost - now
        again = next((m for m in moments if m >= lost), None)
        away = moments[0] + end - lost if again is None else again - lost
        lives.append((round(lasted, 4), round(away, 4)))
        now, lasted = moments[0] if again is None else again, 0.0
    return lives


def read_events(file: Path) -> list[tuple[float, str, str]]:
    """The lines of a trace, in hours."""
    with file.open(newline="") as lines:
        return [(int(ms) / 3.6e6, what, node) for ms, what, node in csv.reader(lines)]


def main() -> None:
    rows = [
        {"trace": name, "seed": seed, "lasted_hours": lasted, "away_hours": away}
        for name, _, file in (argument.partition("=") for argument in sys.argv[1:])
        for seed in range(SEEDS)
        for lasted, away in follow(read_events(Path(file)), seed)
    ]
    tables.write(Path(__file__).parent / "traces.csv", rows)


if __name__ == "__main__":
    main()
