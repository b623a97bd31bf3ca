"""Run folders → results.csv → the tables of the README and the figure.

python -m experiments.006_spot.report [--runs <folder>] [--output <folder>]
"""

import json
from pathlib import Path
from typing import Any

from experiments import tables
from vicuna_lit.estimate.spot import daly, young

from .model import PARTS, Job, Spent, expected_hours, mean_life, replay, traces

SPOT, ON_DEMAND = 9.8, 32.8
"""$ an hour of 8 A100-80GB; a ratio of 0.30, as the article's $300 for $1,000."""
PRICE = SPOT / ON_DEMAND
DAY, RESTART, SAVE = 24.0, 10 / 60, 62 / 3600
"""Hours: the job alone; a machine's way from its start to the first step; what training waits for a save. Assumed."""
MINUTES = (2, 5, 10, 30, 60, 120)
WITH_NOTICE = (10, 30)
CAUSES = {"useful": "#4c72b0", "starting": "#dd8452", "replayed": "#c44e52", "interrupted": "#8c564b",
          "saving": "#55a868", "rest": "#b0b0b0"}  # fmt: skip


def measured(folder: Path, one_save: float) -> list[dict[str, Any]]:
    """A run and, from its own seconds, what the model says it had to cost."""
    outcome = json.loads((folder / "outcome.json").read_text())
    alone = json.loads((folder.parent / outcome["reference"] / "outcome.json").read_text())
    lost, machine = outcome["lost_time"], outcome["machine_seconds"]
    start = lost["starting"] / lost["starts"]
    rest = lost["validation"] + lost["data"] + alone["machine_seconds"] - alone["lost_time"]["total"]  # and the export
    parts = {k: lost[k] for k in ("useful", "starting", "replayed", "saving")} | {"rest": rest}
    parts["interrupted"] = machine - sum(parts.values())
    undisturbed = lost["useful"] + start + rest
    about = {k: outcome[k] for k in ("policy", "trace", "seed")}
    counts = {"interruptions": outcome["interruptions"], "steps_replayed": lost["steps_replayed"],
              "differences": len(outcome["mismatches"])}  # fmt: skip
    of_step = lost["useful"] / outcome["steps"]
    job = Job(lost["useful"], start, outcome["save_every"] * of_step, one_save, outcome["kind"] == "notice")
    spent = replay(job, [(seconds, 0.0) for seconds in outcome["lives"]])
    taken = {"interruptions": spent.interruptions}
    return [
        row("measured", about, counts, parts, machine, undisturbed),
        row("computed", about, taken, of(spent) | {"rest": rest}, spent.machine + rest, undisturbed),
    ]


def of(spent: Spent) -> dict[str, float]:
    return {part: getattr(spent, part) for part in PARTS}


def row(part: str, about: dict[str, Any], counts: dict[str, Any], parts: dict[str, float], machine: float,
        alone: float, away: float | str = "") -> dict[str, Any]:  # fmt: skip
    """One line of results.csv; shares are of the machine time of the job left alone on one machine."""
    return {
        "part": part,
        **about,
        **{k: counts.get(k, "") for k in ("interruptions", "steps_replayed", "differences")},
        **{k: parts.get(k, 0.0) / alone for k in CAUSES},
        "machine": machine / alone,
        "cost": PRICE * machine / alone,
        "away": away,
    }


def day() -> list[dict[str, Any]]:
    """The traces at full scale: a day's work, with a save every so many minutes."""
    rows, everything = [], [life for lives in traces().values() for life in lives]
    best = round(60 * daly(SAVE, mean_life(everything)), 1)
    alone = DAY + RESTART
    for minutes in sorted({*MINUTES, best}):
        for notice in (False, True) if minutes in WITH_NOTICE else (False,):
            job = Job(DAY, RESTART, minutes / 60, SAVE, notice)
            policy = f"{'notice' if notice else 'kill'}, every {minutes:g} min"
            for (trace, seed), lives in traces().items():
                spent = replay(job, lives)
                about, counts = {"policy": policy, "trace": trace, "seed": seed}, {"interruptions": spent.interruptions}
                rows.append(row("day", about, counts, of(spent), spent.machine, alone, spent.away))
            if not notice:
                about = {"policy": policy, "trace": "exponential", "seed": ""}
                expected = expected_hours(job, mean_life(everything))
                rows.append(row("day", about, {}, {"useful": DAY}, expected, alone))
    return rows


def collect(runs: Path) -> list[dict[str, Any]]:
    saving = json.loads((runs / "saving/outcome.json").read_text())
    one_save = saving["lost_time"]["saving"] / saving["steps"]
    folders = sorted((f.parent for f in runs.glob("*-*-*-*/outcome.json")), key=_kind_and_interval)
    return [line for folder in folders for line in measured(folder, one_save)] + day()


def _kind_and_interval(folder: Path) -> tuple[str, int, str]:
    _, _, kind, every = folder.name.rsplit("-", 3)
    return kind, int(every), folder.name


def by_policy(rows: list[tables.Row], part: str) -> dict[str, list[tables.Row]]:
    found: dict[str, list[tables.Row]] = {}
    for line in rows:
        if line["part"] == part and line["trace"] != "exponential":
            found.setdefault(line["policy"], []).append(line)
    return found


def percent(lines: list[tables.Row], key: str) -> str:
    return tables.plus_minus((100 * float(line[key]) for line in lines), ".1f")


def table(rows: list[tables.Row]) -> str:
    """What was measured, and what was computed."""
    ran = by_policy(rows, "measured")
    computed = by_policy(rows, "computed")
    columns = [
        "measured", "runs", "interruptions", "steps taken twice", "runs that differ", "starting, %", "replayed, %",
        "interrupted, %", "saving, %", "cost, % of on demand", "cost as computed",
    ]  # fmt: skip
    lines = [
        [policy, len(some), sum(int(x["interruptions"]) for x in some), sum(int(x["steps_replayed"]) for x in some),
         sum(x["differences"] != "0" for x in some),
         *(percent(some, k) for k in ("starting", "replayed", "interrupted", "saving", "cost")),
         percent(computed[policy], "cost")]
        for policy, some in ran.items()
    ]  # fmt: skip
    days = by_policy(rows, "day")
    expected = {x["policy"]: float(x["cost"]) for x in rows if x["trace"] == "exponential"}
    full = [
        [policy, tables.plus_minus((float(x["interruptions"]) for x in some), ".1f"),
         *(percent(some, k) for k in ("starting", "replayed", "saving", "cost")),
         f"{100 * expected[policy]:.1f}" if policy in expected else "",
         tables.plus_minus((float(x["machine"]) * (DAY + RESTART) + float(x["away"]) for x in some), ".1f")]
        for policy, some in days.items()
    ]  # fmt: skip
    more = ["computed: a day on 8 A100", "interruptions", "starting, %", "replayed, %", "saving, %",
            "cost, % of on demand", "cost by Daly's formula", "hours until done"]  # fmt: skip
    return tables.markdown(columns, lines) + "\n\n" + tables.markdown(more, full) + "\n\n" + optimum()


def optimum() -> str:
    """The interval that the formulas advise."""
    life = mean_life(life for lives in traces().values() for life in lives)
    return (
        f"A machine of the traces lasts {life:.2f} h in the mean; where a save costs {3600 * SAVE:.0f} s Young advises "
        f"one every {60 * young(SAVE, life):.1f} min, Daly every {60 * daly(SAVE, life):.1f} min."
    )


def figure(rows: list[tables.Row], file: Path) -> None:
    """Cost beside on demand, by cause."""
    from matplotlib import pyplot as plt

    panels = by_policy(rows, "measured"), {k: v for k, v in by_policy(rows, "day").items() if k.startswith("kill")}
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), width_ratios=(1, 1.7), sharey=True)
    titles = "measured: a small run, machines of seconds", "computed: a day on 8 A100"
    for axis, panel, title in zip(axes, panels, titles, strict=True):
        names = list(panel)
        floor = [0.0] * len(names)
        for cause, colour in CAUSES.items():
            heights = [100 * PRICE * tables.mean_error(float(x[cause]) for x in panel[n])[0] for n in names]
            if any(heights):
                axis.bar(range(len(names)), heights, 0.7, floor, color=colour, label=cause)
            floor = [a + b for a, b in zip(floor, heights, strict=True)]
        errors = [100 * tables.mean_error(float(x["cost"]) for x in panel[n])[1] for n in names]
        axis.errorbar(range(len(names)), floor, errors, fmt="none", ecolor="black", capsize=3)
        labels = [
            n.replace(", every ", "\n").removeprefix("kill\n") if "min" in n else n.replace(", every", "\nevery")
            for n in names
        ]
        axis.set_xticks(range(len(names)), labels)
        axis.axhline(100, color="black", linewidth=0.8)
        axis.set_title(title, fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("cost, % of on demand")
    axes[0].text(-0.4, 95, "on demand", fontsize=8)
    axes[0].legend(fontsize=7, frameon=False, loc="upper right", ncols=2, bbox_to_anchor=(1.0, 0.93))
    axes[1].set_xlabel("saved every, killed without notice")
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


if __name__ == "__main__":
    tables.main(Path(__file__).parent, collect, table, figure)
