"""results.json → the tables of the README, and the ratios that other pages quote.

    python -m experiments.benchmarks.train.report     # renders the tables again

Every step is a round: all systems of a group took it in turn. Ratios are ours over a peer's within a step; tables show
medians over the timed steps.
"""

import json
import statistics
from pathlib import Path
from typing import Any, NamedTuple

from experiments import tables

HERE = Path(__file__).parent
WARM_UP = 1
"""Steps that are not timed."""
PEERS = ("hf", "hf_flattening", "padded"), ("trl", "trl_bfd", "trl_padding_free")
"""The systems of one peer, of which the fastest setting counts."""
TOLERANCE = {"fp32": 1e-5, "bf16": 5e-3}
"""How far a step's loss may be from ours, relative."""
OTHER_STEPS = ("trl_bfd",)
"""Systems that put other conversations into a step than they were given."""
NAMES = {
    "ours": "**ours**, `vicuna_lit.fit`", "ours_loop": "the same module in a bare Lightning loop",
    "hf": "HF `Trainer`, padded to the longest of the micro-batch", "hf_flattening": "HF `Trainer`, flattened",
    "padded": "HF `Trainer`, padded to the context (as FastChat)",
    "trl": "TRL, padded to the longest of the micro-batch", "trl_bfd": "TRL, packed (bfd), rows of the context",
    "trl_padding_free": "TRL, padding-free",
}  # fmt: skip
Run = dict[str, Any]


class Setting(NamedTuple):
    """What is measured; a precision has one context."""

    system: str
    micro: int | None
    precision: str
    context: int

    @classmethod
    def of(cls, run: Run) -> "Setting":
        return cls(*(run[key] for key in cls._fields))

    def __str__(self) -> str:
        """`hf/3/bf16`: the system, its micro-batch, its precision."""
        return "/".join(str(part) for part in self[:3] if part is not None)


def load(file: Path = HERE / "results.json") -> list[Run]:
    return json.loads(file.read_text())["runs"]


def check(runs: list[Run]) -> None:
    """Every system computed the same steps and losses as ours in its group.

    Raises:
        ValueError: one did not; or fewer than five of its steps were timed.
    """
    for run in runs:
        if len(run["seconds"]) < WARM_UP + 5:
            raise ValueError(f"{Setting.of(run)}: {len(run['seconds'])} steps")
        ours = _partner(runs, run)
        tokens, theirs = ours["supervised"], run["supervised"]
        if run["system"] not in OTHER_STEPS and tokens != theirs:
            raise ValueError(f"{Setting.of(run)}: supervised tokens of the steps are {theirs}, ours {tokens}")
        tolerance = max(TOLERANCE[ours["precision"]], TOLERANCE[run["precision"]])
        if (apart := deviation(runs, run)) is not None and apart > tolerance:
            raise ValueError(f"{Setting.of(run)}: losses {run['losses']}, ours {ours['losses']}")


def deviation(runs: list[Run], run: Run) -> float | None:
    """The largest relative deviation of a step's loss from ours; None where the steps are others."""
    if run["system"] in OTHER_STEPS:
        return None
    pairs = zip(run["losses"], _partner(runs, run)["losses"], strict=True)
    return max(abs(a / b - 1) for a, b in pairs)


def speeds(run: Run, clock: str = "processor_seconds") -> list[float]:
    """Supervised tokens per second of each timed step."""
    return [n / s for n, s in zip(run["supervised"][WARM_UP:], run[clock][WARM_UP:], strict=True)]


def ratios(runs: list[Run], setting: Setting, what: str = "speed") -> list[float]:
    """Ours over theirs: the `speed` of each timed step, or the `memory` of each run."""
    found = []
    for run in of(runs, setting):
        ours = _partner(runs, run)
        if what == "memory":
            found.append(ours["peak_memory_above_model"] / run["peak_memory_above_model"])
        else:
            found += [a / b for a, b in zip(speeds(ours), speeds(run), strict=True)]
    return found


def of(runs: list[Run], setting: Setting) -> list[Run]:
    """The runs of a setting, of all groups."""
    return [run for run in runs if Setting.of(run) == setting]


def _partner(runs: list[Run], run: Run) -> Run:
    """What a group's runs are compared with: its first, which is ours."""
    return next(r for r in runs if r["group"] == run["group"])


def best(runs: list[Run], systems: tuple[str, ...], precision: str) -> Setting:
    """The setting of these systems that is fastest against ours, both in this precision."""
    its = [run for run in runs if run["precision"] == _partner(runs, run)["precision"] == precision]
    candidates = {one for one in map(Setting.of, its) if one.system in systems}
    return min(candidates, key=lambda s: statistics.median(ratios(runs, s)))


def table(runs: list[Run]) -> str:
    """One for each precision of ours that the others are compared with."""
    return "\n\n".join(_table(runs, p) for p in TOLERANCE if any(_partner(runs, r)["precision"] == p for r in runs))


def _table(every: list[Run], precision: str) -> str:
    runs = [run for run in every if _partner(every, run)["precision"] == precision]
    columns = [
        "system", "precision", "micro-batch", "timed steps", "supervised tokens per processor second",
        "speed, ours / it", "peak memory above the model, MiB", "memory, ours / it", "losses, largest deviation",
    ]  # fmt: skip
    order = list(NAMES)
    measured = sorted(set(map(Setting.of, runs)), key=lambda s: (order.index(s.system), s.precision, s.micro or 0))
    peers = [peer for peer in PEERS if any(s.system in peer for s in measured)]
    fastest = {best(runs, peer, precision) for peer in peers}
    lines = []
    for one in measured:
        its = of(runs, one)
        tokens = [speed for run in its for speed in speeds(run)]
        memory = statistics.median(run["peak_memory_above_model"] for run in its)
        apart = [d for d in (deviation(runs, run) for run in its) if d is not None]
        mark = "**" if one in fastest else ""
        lines.append([
            NAMES[one.system], one.precision, one.micro or "", len(tokens), f"{statistics.median(tokens):,.0f}",
            f"{mark}{spread(ratios(runs, one))}{mark}", f"{memory / 2**20:,.0f}",
            f"{mark}{statistics.median(ratios(runs, one, 'memory')):.2f}{mark}",
            f"{max(apart):.0e}" if apart else "other steps",
        ])  # fmt: skip
    units = "with" if runs[0]["bf16_units"] else "without"
    where = f", on a processor **{units} units for bf16**" if precision == "bf16" else ""
    title = f"{'bf16-mixed' if precision == 'bf16' else precision}, context {runs[0]['context']:,}{where}:"
    return f"{title}\n\n{tables.markdown(columns, lines)}"


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def main() -> None:
    runs = load()
    check(runs)
    readme = HERE / "README.md"
    readme.write_text(tables.into_readme(readme.read_text(), table(runs)))
    print(table(runs))


if __name__ == "__main__":
    main()
