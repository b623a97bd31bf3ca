"""What halving would have lost: `python -m experiments.halving.replay` writes the tables of the README.

Each replay draws a run of each setting from `curves.csv`, with a seed of its own, and halves them by the rule of
`vicuna-train -m halving=…`. The full grid's winner is the setting with the lowest last loss of the same draw.

`--hold-out` computes `holdout.csv` anew: a plan is chosen on one part of the curves and judged on the rest.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import tables
from vicuna_lit.cli.halving import best, cost, counts_of
from vicuna_lit.config.halving import HalvingConfig, step_of

HERE = Path(__file__).parent
PLANS = (
    ((0.1, 0.2, 0.4), 0.5), ((0.1, 0.3), 0.34), ((0.1, 0.3), 0.5), ((0.2, 0.4), 0.34), ((0.2, 0.5), 0.34),
    ((0.3,), 0.1), ((0.3, 0.6), 0.2), ((0.2, 0.5), 0.5),
)  # fmt: skip
"""Rungs and `keep`."""
REPLAYS = 1000
CLOSE = 0.01
"""Nats per supervised token; two seeds of one of the best settings are about as far apart."""
SPLITS, CHOOSING = 50, 50
"""Of the curves into two parts, and the replays of each plan in the part where one is chosen."""
MOST = 0.4
"""Of the full grid's steps: what a plan that is chosen may take."""
HELD_OUT = {"settings": "half of the settings", "runs": "a run of each setting"}
Curves = dict[str, dict[str, dict[int, float]]]
"""Validation losses by setting, seed and step."""


class Found(NamedTuple):
    """What a plan finds in replays."""

    winner: float
    """Part of the replays in which the full grid's winner is found."""
    close: float
    """Or one that is at most `CLOSE` worse."""
    mean: float
    """Nats that are lost."""
    most: float


def curves() -> tuple[Curves, int]:
    """What was trained, and the steps of a run."""
    found: Curves = defaultdict(lambda: defaultdict(dict))
    rows = tables.read(HERE / "curves.csv")
    for row in rows:
        setting = f"lr {row['lr']}, {row['schedule']}, warm-up {row['warmup_ratio']}"
        found[setting][row["seed"]][int(row["step"])] = float(row["val_loss"])
    return found, int(rows[0]["steps"])


def halved(drawn: dict[str, dict[int, float]], config: HalvingConfig, steps: int) -> str:
    """The setting that has the lowest loss of those that come to the end."""
    left, counts = list(drawn), counts_of(len(drawn), config)
    interval = min(step for step in next(iter(drawn.values())) if step)
    for part, count in zip(config.rungs, counts[1:], strict=True):
        step = step_of(part, steps, interval)
        assert step is not None
        left = best({setting: drawn[setting][step] for setting in left}, count)
    return min(left, key=lambda setting: drawn[setting][steps])


def replay(config: HalvingConfig, found: Curves, steps: int, replays: int = REPLAYS, seed: int = 0) -> Found:
    """Halves so many draws of one run of each setting."""
    random, lost, same = np.random.default_rng(seed), [], 0
    runs = {setting: [seeds[seed] for seed in sorted(seeds)] for setting, seeds in found.items()}
    for _ in range(replays):
        drawn = {setting: of_setting[random.integers(len(of_setting))] for setting, of_setting in runs.items()}
        winner = min(drawn, key=lambda setting: drawn[setting][steps])
        chosen = halved(drawn, config, steps)
        same += chosen == winner
        lost.append(drawn[chosen][steps] - drawn[winner][steps])
    return Found(same / replays, sum(one <= CLOSE for one in lost) / replays, float(np.mean(lost)), max(lost))


def candidates(settings: int) -> Iterator[HalvingConfig]:
    """The plans with one to three rungs up to 60% that take at most `MOST` of so many settings' steps."""
    places = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    rungs = [rungs for count in (1, 2, 3) for rungs in combinations(places, count)]
    for chosen, keep in product(rungs, (0.1, 0.2, 0.34, 0.5, 0.7)):
        config = HalvingConfig(rungs=chosen, keep=keep)
        if cost(counts_of(settings, config), config.rungs) <= MOST:
            yield config


def chosen_on(found: Curves, steps: int) -> dict[str, tuple[HalvingConfig, Found]]:
    """The plan that loses least in the mean, and what it finds where it was chosen; of several that do, the one with
    the fewest steps, and the one with the most. Beside them the plan that the documentation names."""
    judged = [
        (replay(config, found, steps, CHOOSING), cost(counts_of(len(found), config), config.rungs), config)
        for config in candidates(len(found))
    ]
    fewest = min(judged, key=lambda one: (one[0].mean, one[1]))
    most = min(judged, key=lambda one: (one[0].mean, -one[1]))
    named = HalvingConfig(rungs=(0.1, 0.3), keep=0.5)
    chosen = {"chosen, the cheapest": fewest, "chosen, the dearest": most}
    of_each = {name: (config, figures) for name, (figures, _, config) in chosen.items()}
    return of_each | {f"`{_text(named)}`": (named, replay(named, found, steps, CHOOSING))}


def parts(found: Curves, what: str, random: np.random.Generator) -> tuple[Curves, Curves]:
    """Two parts of the curves: half of the settings each; or of each setting all runs but one, and this one."""
    if what == "settings":
        order = random.permutation(sorted(found))
        first = set(order[: len(order) // 2])
        return {s: c for s, c in found.items() if s in first}, {s: c for s, c in found.items() if s not in first}
    held = {setting: str(random.choice(sorted(seeds))) for setting, seeds in found.items()}
    rest = {s: {seed: curve for seed, curve in c.items() if seed != held[s]} for s, c in found.items()}
    return rest, {s: {held[s]: c[held[s]]} for s, c in found.items()}


def hold_out() -> list[dict[str, Any]]:
    """A row for each split and plan: what it finds where it was chosen, and in the other part."""
    (found, steps), rows = curves(), []
    for what, number in product(("settings", "runs"), range(SPLITS)):
        here, there = parts(found, what, np.random.default_rng([number, what == "runs"]))
        for name, (config, own) in chosen_on(here, steps).items():
            other = replay(config, there, steps, CHOOSING if what == "settings" else 1, seed=1)
            share = cost(counts_of(len(there), config), config.rungs)
            about = {"held_out": what, "how": name, "plan": _text(config), "steps": share}
            rows.append(about | {"winner_where_chosen": own.winner} | other._asdict())
    return rows


def _text(config: HalvingConfig) -> str:
    return f"{{rungs: [{', '.join(map(str, config.rungs))}], keep: {config.keep}}}"


def table() -> str:
    """A row for each plan, and one for each way to hold curves out."""
    (found, steps), rows = curves(), []
    for rungs, keep in PLANS:
        config = HalvingConfig(rungs=rungs, keep=keep)
        share = cost(counts_of(len(found), config), rungs)
        rows.append((f"`{_text(config)}`", f"{share:.0%}", *_figures(*replay(config, found, steps))))
    columns = ("steps", "the grid's winner", f"or one within {CLOSE}", "lost, mean", "lost, at most")
    known = tables.markdown(("halving", *columns), rows)
    of_each: dict[tuple[str, str], list[tables.Row]] = defaultdict(list)
    for row in tables.read(HERE / "holdout.csv"):
        of_each[row["held_out"], row["how"]].append(row)
    rows = [(HELD_OUT[what], how, *_held_out(of)) for (what, how), of in of_each.items()]
    return f"{known}\n\n{tables.markdown(('held out', 'plan', 'winner, where chosen', *columns), rows)}"


def _held_out(rows: Sequence[tables.Row]) -> tuple[str, ...]:
    means = {
        key: float(np.mean([float(row[key]) for row in rows]))
        for key in ("winner_where_chosen", "steps", *Found._fields)
    }
    figures = _figures(means["winner"], means["close"], means["mean"], max(float(row["most"]) for row in rows))
    return f"{means['winner_where_chosen']:.1%}", f"{means['steps']:.0%}", *figures


def _figures(winner: float, close: float, mean: float, most: float) -> tuple[str, ...]:
    return f"{winner:.1%}", f"{close:.1%}", f"{mean:.4f}", f"{most:.4f}"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--hold-out", action="store_true", help="chooses plans anew; some minutes")
    if parser.parse_args().hold_out:
        tables.write(HERE / "holdout.csv", hold_out())
    page = HERE / "README.md"
    page.write_text(tables.into_readme(page.read_text(), table()))
    print(table())


if __name__ == "__main__":
    main()
