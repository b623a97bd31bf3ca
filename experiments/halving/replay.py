"""What halving would have lost: `python -m experiments.halving.replay` writes the table of the README.

Each replay draws a run of each of the 24 settings from `curves.csv`, with a seed of its own, and halves them by the
rule of `vicuna-train -m halving=…`. The full grid's winner is the setting with the lowest last loss of the same draw.
"""

from collections import defaultdict
from pathlib import Path

import numpy as np

from experiments.tables import into_readme, markdown, read
from vicuna_lit.cli.halving import best, cost, counts_of
from vicuna_lit.config.halving import HalvingConfig, step_of

PLANS = (
    ((0.1, 0.2, 0.4), 0.5), ((0.1, 0.3), 0.34), ((0.1, 0.3), 0.5), ((0.2, 0.4), 0.34), ((0.2, 0.5), 0.34),
    ((0.3,), 0.1), ((0.3, 0.6), 0.2), ((0.2, 0.5), 0.5),
)  # fmt: skip
"""Rungs and `keep`."""
REPLAYS = 1000
CLOSE = 0.01
"""Nats per supervised token; two seeds of one of the best settings are about as far apart."""
Curves = dict[str, dict[str, dict[int, float]]]


def curves() -> tuple[Curves, int]:
    """Validation losses by setting, seed and step, and the steps of a run."""
    found: Curves = defaultdict(lambda: defaultdict(dict))
    rows = read(Path(__file__).with_name("curves.csv"))
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


def replay(rungs: tuple[float, ...], keep: float) -> tuple[float, float, float, float, float]:
    """Steps of the full grid's, replays with its winner, those with one at most `CLOSE` worse, and what is lost in the
    mean and at most, in nats."""
    found, steps = curves()
    config, random = HalvingConfig(rungs=rungs, keep=keep), np.random.default_rng(0)
    lost, same = [], 0
    for _ in range(REPLAYS):
        drawn = {setting: seeds[random.choice(sorted(seeds))] for setting, seeds in found.items()}
        winner = min(drawn, key=lambda setting: drawn[setting][steps])
        chosen = halved(drawn, config, steps)
        same += chosen == winner
        lost.append(drawn[chosen][steps] - drawn[winner][steps])
    close = sum(one <= CLOSE for one in lost)
    return cost(counts_of(len(found), config), rungs), same / REPLAYS, close / REPLAYS, float(np.mean(lost)), max(lost)


def table() -> str:
    """A row for each plan."""
    rows = []
    for rungs, keep in PLANS:
        share, same, close, mean, most = replay(rungs, keep)
        plan = f"`{{rungs: [{', '.join(map(str, rungs))}], keep: {keep}}}`"
        rows.append((plan, f"{share:.0%}", f"{same:.1%}", f"{close:.1%}", f"{mean:.4f}", f"{most:.4f}"))
    columns = ("halving", "steps", "the grid's winner", f"or one within {CLOSE}", "lost, mean", "lost, at most")
    return markdown(columns, rows)


if __name__ == "__main__":
    page = Path(__file__).with_name("README.md")
    page.write_text(into_readme(page.read_text(), table()))
