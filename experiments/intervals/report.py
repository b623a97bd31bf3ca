"""How often the intervals and verdicts of a sweep are right, where the truth is known: README.md and its tables.

`--runs <sweep>` reads the losses of real runs anew; `--simulate` simulates anew from those that are committed.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from experiments import tables
from vicuna_lit.compare.conclusions import ALPHA
from vicuna_lit.compare.conversations import validation_of
from vicuna_lit.compare.runs import read_sweep
from vicuna_lit.intervals import Interval, PairedTest, crossed_test, holm, interval, paired_test, resample, wilson

HERE = Path(__file__).parent
SEEDS, CONVERSATIONS = (2, 3, 5, 10), (10, 30, 100)
SPREADS = {
    "seeds": (1.0, 0.0, 0.1),
    "conversations": (0.0, 5.0, 0.1),
    "both": (1.0, 5.0, 1.0),
    "noise": (0.0, 0.0, 5.0),
}
"""What makes differences vary: deviations of a seed, of a conversation, and of a seed on a conversation."""
METHODS = {
    "t": "t, seeds alone",
    "bootstrap": "bootstrap, seeds × conversations",
    "both": "as used: t, seeds and conversations",
}
SAMPLES = 300
"""Of each bootstrap."""
SETTINGS = 4
"""Of a simulated A/A sweep, the baseline among them."""
SWEEPS = 20
"""Simulated for each repetition of a cell: a rate near 5% wants more of them."""
SET, SETS, DEALS = 20, 200, 20_000
"""Runs of a small set, how many such sets are drawn from the real ones, and sweeps dealt from each."""


def coverage(repetitions: int) -> list[dict[str, Any]]:
    """How many 95% intervals hold the true difference, which is zero, in each cell of the grid."""
    rows = []
    for (what, spread), seeds, conversations in product(SPREADS.items(), SEEDS, CONVERSATIONS):
        rng, held = np.random.default_rng([seeds, conversations, len(rows)]), defaultdict(int)
        for number in range(repetitions):
            differences, tokens = _drawn(rng, seeds, conversations, spread)
            for method, found in _intervals(differences, tokens, number).items():
                held[method] += bool(found and found.low <= 0 <= found.high)
        shares = {method: held[method] / repetitions for method in METHODS}
        rows.append({"varies": what, "seeds": seeds, "conversations": conversations} | shares)
    return rows


def _drawn(
    rng: np.random.Generator, seeds: int, conversations: int, spread: tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Differences [seeds, conversations] and tokens: lengths are log-normal, conversations have heavy tails (t, 4)."""
    of_seeds, of_conversations, noise = spread
    tokens = rng.lognormal(5.5, 1, conversations).round() + 5
    each = of_conversations * rng.standard_t(4, conversations) / 2**0.5
    own = noise * rng.normal(size=(seeds, conversations)) * (200 / tokens) ** 0.5
    return of_seeds * rng.normal(size=(seeds, 1)) + each + own, tokens


def _intervals(differences: np.ndarray, tokens: np.ndarray, seed: int) -> dict[str, Interval | None]:
    alone = paired_test((differences @ tokens / tokens.sum()).tolist())
    both = crossed_test(alone, differences, tokens)
    return {"t": alone.interval, "bootstrap": _bootstrap(differences, tokens, seed), "both": both.interval}


def _bootstrap(differences: np.ndarray, tokens: np.ndarray, seed: int) -> Interval | None:
    """Draws seeds and conversations anew, each by itself (Owen's pigeonhole bootstrap), percentiles."""
    of_seeds, of_conversations = (resample(n, SAMPLES, 2 * seed + i) for i, n in enumerate(differences.shape))
    weights = of_conversations * tokens
    drawn = np.einsum("bs,sc,bc->b", of_seeds, differences, weights)
    return interval(drawn / (len(differences) * weights.sum(1)))


def null_sweeps(losses: np.ndarray, tokens: np.ndarray, repetitions: int) -> list[dict[str, Any]]:
    """How many sweeps of four settings claim a difference where there is none; the conversations are drawn with
    replacement.

    Runs are `dealt`: each of the real ones to one setting at most; or `drawn` at random from the normal distribution
    that has the mean and the covariance of the real ones.

    Args:
        losses: [runs, conversations]
    """
    rows, mean = [], losses.mean(0)
    factor = (losses - mean) / (len(losses) - 1) ** 0.5
    for how, seeds in product(("dealt", "drawn"), (2, 3, 5)):
        rng, claims, wanted = np.random.default_rng([seeds, how == "drawn"]), defaultdict(int), SETTINGS * seeds
        for _ in range(repetitions):
            runs = losses[rng.permutation(len(losses))[:wanted]]
            if how == "drawn":
                runs = mean + rng.normal(size=(wanted, len(losses))) @ factor
            drawn = rng.integers(len(tokens), size=len(tokens))
            settings = runs.reshape(SETTINGS, seeds, -1)[:, :, drawn]
            tests = list(_tests(settings[1:] - settings[0], tokens[drawn]))
            for method, of_method in (("t", [one for one, _ in tests]), ("both", [both for _, both in tests])):
                claims[method] += min(holm([test.p for test in of_method])) <= ALPHA  # as `conclude` decides it
        rows += [
            {"runs": how, "seeds": seeds, "method": method, "sweeps": repetitions, "claims": claims[method]}
            for method in ("t", "both")
        ]
    return rows


def levels(losses: np.ndarray, tokens: np.ndarray, sets: int = SETS) -> list[dict[str, Any]]:
    """How many A/A sweeps claim a difference where all runs come from one small set of the real ones, a row for each
    set: by Student's t over the seeds, on the conversations as they are.

    Args:
        losses: [runs, conversations]
    """
    from scipy.stats import t

    runs, rows = losses @ tokens / tokens.sum(), []
    for seeds, number in product((2, 3, 5), range(sets)):
        rng = np.random.default_rng([seeds, number])
        dealt = rng.permuted(np.tile(rng.choice(runs, SET, replace=False), (DEALS, 1)), axis=1)
        settings = dealt[:, : SETTINGS * seeds].reshape(DEALS, SETTINGS, seeds)
        differences = settings[:, 1:] - settings[:, :1]
        error = differences.std(-1, ddof=1) / seeds**0.5
        clear = np.abs(differences.mean(-1)) >= error * t.ppf(1 - ALPHA / (SETTINGS - 1) / 2, seeds - 1)
        rows.append({"seeds": seeds, "set": number, "sweeps": DEALS, "claims": int(clear.any(1).sum())})
    return rows


def _tests(differences: np.ndarray, tokens: np.ndarray) -> Iterator[tuple[PairedTest, PairedTest]]:
    for one in differences:
        alone = paired_test((one @ tokens / tokens.sum()).tolist())
        yield alone, crossed_test(alone, one, tokens)


def collect(sweep: Path) -> list[dict[str, Any]]:
    """A row for each held-out conversation: its supervised tokens, and its loss in each run."""
    found = [(run.config["seed"], validation_of(run.folder)) for run in read_sweep(sweep).finished]
    runs = {seed: losses for seed, losses in sorted(found) if losses}
    first = next(iter(runs.values()))
    assert all(losses.alike(first) for losses in runs.values())
    return [
        {"tokens": int(tokens)} | {f"seed_{seed}": round(float(losses.last[i]), 6) for seed, losses in runs.items()}
        for i, tokens in enumerate(first.tokens)
    ]


def table() -> str:
    """The three tables of README.md, of what is committed."""
    cells: dict[tuple[str, str], list[tuple[float, ...]]] = defaultdict(list)
    for row in tables.read(HERE / "coverage.csv"):
        cells[row["seeds"], row["varies"]].append(tuple(float(row[method]) for method in METHODS))
    lines = [
        [f"{seeds} seeds, {what}", *(f"{min(column):.1%} to {max(column):.1%}" for column in zip(*found, strict=True))]
        for (seeds, what), found in sorted(cells.items(), key=lambda cell: (int(cell[0][0]), cell[0][1]))
    ]
    covered = tables.markdown(["what varies", *METHODS.values()], lines)
    rows = tables.read(HERE / "null_sweeps.csv")
    claimed = [
        [f"runs {row['runs']}, {row['seeds']} seeds, {METHODS[row['method']]}", row["sweeps"], _rate(row)]
        for row in rows
    ]
    null = tables.markdown(["A/A", "sweeps", "that claim a difference"], claimed)
    return f"{covered}\n\n{null}\n\n{_of_sets()}"


def _of_sets() -> str:
    """What a level is worth that is simulated from a small set of runs."""
    shares: dict[str, list[float]] = defaultdict(list)
    for row in tables.read(HERE / "levels.csv"):
        shares[row["seeds"]].append(int(row["claims"]) / int(row["sweeps"]))
    lines = [
        (f"{seeds} seeds", len(of), f"{np.mean(of):.1%}", f"{np.std(of):.1%}", f"{min(of):.1%} to {max(of):.1%}")
        for seeds, of in shares.items()
    ]
    columns = (f"A/A from {SET} runs alone", "sets", "mean", "standard deviation", "lowest to highest set")
    return tables.markdown(columns, lines)


def _rate(row: tables.Row) -> str:
    claims, sweeps = int(row["claims"]), int(row["sweeps"])
    found = wilson(claims / sweeps, sweeps)
    assert found
    return f"{claims / sweeps:.1%} [{found.low:.1%}, {found.high:.1%}]"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=Path, help="a sweep over seeds alone, whose losses are to be kept")
    parser.add_argument(
        "--simulate", type=int, help=f"so many repetitions of each cell, and {SWEEPS} times as many sweeps"
    )
    given = parser.parse_args()
    if given.runs:
        tables.write(HERE / "losses.csv", collect(given.runs))
    if given.simulate:
        tables.write(HERE / "coverage.csv", coverage(given.simulate))
        tables.write(HERE / "null_sweeps.csv", null_sweeps(*losses(), SWEEPS * given.simulate))
        tables.write(HERE / "levels.csv", levels(*losses()))
    readme = HERE / "README.md"
    readme.write_text(tables.into_readme(readme.read_text(), table()))
    print(table())


def losses() -> tuple[np.ndarray, np.ndarray]:
    """[runs, conversations] and tokens, of the committed file."""
    rows = tables.read(HERE / "losses.csv")
    names = [name for name in rows[0] if name.startswith("seed_")]
    return np.array([[float(row[name]) for row in rows] for name in names]), np.array([int(r["tokens"]) for r in rows])


if __name__ == "__main__":
    main()
