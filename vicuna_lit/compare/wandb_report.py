"""A sweep as a report in W&B: what its page says, and the panels of the workspace for its runs alone."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from vicuna_lit import wandb_workspace
from vicuna_lit.compare.run import Run
from vicuna_lit.compare.runs import Sweep
from vicuna_lit.run_folder import RunError, read_json
from vicuna_lit.tracking.server import check_login, one_line
from vicuna_lit.whole_files import write_json

SAVED = "wandb_report.json"
"""In the folder of the page: which report it is, so that the next one takes its place."""


def save_report(sweep: Sweep, rows: Sequence[dict[str, str]], sentences: Sequence[str], folder: Path) -> str:
    """Saves the report, in the place of the last one of this folder; returns its address.

    Args:
        rows: the table of the page; `sentences`: what is said above it.
        folder: of the page.

    Raises:
        RunError: nobody is logged in, the runs lie in no project or in several, or W&B refuses it.
    """
    runs = {name: run for run in sweep.runs if (name := _identity(run))}
    if not runs:
        raise RunError("--wandb-report: none of these runs was logged to W&B (wandb.mode=offline or online)")
    check_login("--wandb-report")
    try:
        places = {_place(run) or wandb_workspace.default_place(_project(run)) for run in runs.values()}
        if len(places) > 1:
            said = ", ".join(sorted(map("/".join, places)))
            raise RunError(f"--wandb-report: these runs lie in several projects ({said}); give those of one")
        (place,) = places
        title = sweep.folder.resolve().name
        report = wandb_workspace.report(*place, title, sentences, rows, list(runs))
        known = read_json(folder, SAVED) or {} if (folder / SAVED).exists() else {}
        if [known.get("entity"), known.get("project")] == list(place):
            report.id = known["id"]
        report.save()
    except ImportError:
        raise RunError("--wandb-report needs the package wandb-workspaces: pip install -e '.[dashboard]'") from None
    except RunError:
        raise
    except Exception as error:  # of the network, or the project's rights
        again = f" (a report that was deleted there: delete {folder / SAVED})" if (folder / SAVED).exists() else ""
        raise RunError(f"--wandb-report: W&B did not save it: {one_line(error)}{again}") from None
    write_json(folder / SAVED, {"entity": place[0], "project": place[1], "id": report.id, "url": report.url})
    return report.url


def _identity(run: Run) -> str | None:
    """W&B's id of a run; None of one that it does not have."""
    if run.config.get("wandb", {}).get("mode") == "disabled" or not (run.folder / "run.json").exists():
        return None
    return (read_json(run.folder, "run.json") or {}).get("wandb_id")


def _project(run: Run) -> tuple[str | None, str]:
    return run.config["wandb"]["entity"], run.config["wandb"]["project"]


def _place(run: Run) -> tuple[str, str] | None:
    """Entity and project of a run's page, which ends in `/<entity>/<project>/runs/<id>`."""
    parts = urlsplit(run.result.get("wandb_url") or "").path.split("/")
    return (unquote(parts[-4]), unquote(parts[-3])) if len(parts) >= 5 and parts[-2] == "runs" else None
