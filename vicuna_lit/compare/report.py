"""The page of a sweep, and its figures and table as files."""

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

from vicuna_lit.compare.claims import claim_in_words
from vicuna_lit.compare.conclusions import in_words
from vicuna_lit.compare.figures import SvgPlot, figures
from vicuna_lit.compare.runs import Sweep, names_of
from vicuna_lit.compare.table import METRICS, REPEATS, Setting, Table, settings, table
from vicuna_lit.pages import render_page
from vicuna_lit.whole_files import cell, write


def write_report(
    sweep: Sweep,
    folder: Path,
    metrics: Sequence[str] = METRICS,
    repeats: Sequence[str] = REPEATS,
    baseline: str | None = None,
    margin: float | None = None,
) -> Path:
    """Writes `compare.html`, `runs.csv` (a row for each run) and `figures/*.svg` into a folder; returns the page.

    Args:
        metrics, repeats, baseline: see `table.settings`.
        margin: see `conclusions.conclude`.
    """
    found = settings(sweep, metrics, repeats, baseline)
    drawn, lines = figures(found), in_words(sweep, found, margin, repeats, baseline)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for title, svg in drawn.items():
        write(folder / "figures" / f"{title.lower().replace(' ', '_')}.svg", [svg.encode()])
    write(folder / "runs.csv", [runs_csv(sweep, metrics).encode()])
    write(
        folder / "compare.html",
        [page(sweep, found, drawn, table(found, metrics), lines, folder).encode()],
    )
    return folder / "compare.html"


def page(
    sweep: Sweep,
    found: Sequence[Setting],
    drawn: dict[str, SvgPlot],
    rows: Table,
    conclusions: Sequence[str],
    folder: Path,
) -> str:
    """The page as text.

    Args:
        folder: where it will lie; its links to the runs are relative.
    """
    return render_page(
        "compare/report.html.jinja",
        {},
        name=sweep.folder.resolve().name,
        sweep=sweep,
        keys=[key for key in sweep.keys if key not in REPEATS],
        table=rows,
        baseline=next((setting.label for setting in found if setting.baseline), ""),
        conclusions=conclusions,
        conversations=min((s.test.conversations for s in found if s.differences), default=0),
        claim=claim_in_words(sweep),
        names=names_of(sweep.runs),
        links={run.folder: quote(os.path.relpath(run.folder, folder)) for run in sweep.runs},
        others=[run for run in sweep.runs if run.status != "finished"],
        failures={f["job"]: f for f in sweep.failures},
        figures={title: Markup(svg) for title, svg in drawn.items()},  # drawn here, its texts escaped
    )


def runs_csv(sweep: Sweep, metrics: Sequence[str] = METRICS) -> str:
    """A row for each run: what differs, its status, every metric unrounded, losses by reply, position and source."""
    rows = []
    for run in sweep.runs:
        row: dict[str, object] = {key: cell(sweep.choice(run, key)) for key in sweep.keys}
        row |= {"status": run.status}
        if run.status == "stopped":  # not in the columns of finished runs
            row |= {"stopped_after_step": run.result.get("steps"), "val_loss_then": run.metric("val_loss")}
            rows.append(row)
            continue
        row |= {metric: run.metric(metric) for metric in metrics}
        row |= {
            f"loss_by_{what}/{k}": v for what in ("turn", "position", "source") for k, v in run.val_by(what).items()
        }
        rows.append(row)
    out = io.StringIO()
    columns = dict.fromkeys(key for row in rows for key in row)
    writer = csv.DictWriter(out, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
