"""The evaluation as a W&B run: summary metrics, tables of pairs, answers and reviews, and which runs made the models.

Online a model that a train run logged is the evaluation's input. Offline nothing can be looked up and W&B's
`use_artifact` refuses, so the runs' ids also stand in the config and in the evaluation's artifact.
"""

import re
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

import wandb

from vicuna_lit.evaluate.config import EvaluateConfig, FolderSource
from vicuna_lit.evaluate.report import Evaluation
from vicuna_lit.evaluate.stages import console
from vicuna_lit.folder import columns, flatten, read_json, write_json
from vicuna_lit.paths import locate, model_name

FILES = ("table.json", "statistics.json", "report.html")
"""Of the run folder, in the evaluation's artifact."""


def log_to_wandb(config: EvaluateConfig, found: Evaluation, folder: Path) -> None:
    """Writes one run; the same folder evaluated again is the same run."""
    identity = (read_json(folder, "run.json") or {"wandb_id": uuid.uuid4().hex[:8]})["wandb_id"]
    write_json(folder / "run.json", {"wandb_id": identity})
    behind = runs_behind(config)
    settings = config.model_dump(mode="json", exclude={"judge": {"prompts"}})
    wandb.setup(settings=wandb.Settings(silent=True))  # else it advertises another product, since openai is imported
    run = wandb.init(
        **config.wandb.model_dump(),
        name=config.run.name,
        job_type="evaluate",
        id=identity,
        resume="allow",
        dir=str(folder),
        config=columns(settings | {"lineage/models": _ids(behind)}),
        settings=wandb.Settings(silent=True, console="off"),
    )
    run.log(summary(found))  # into the history too: a panel finds the pairs by a regular expression
    rows = [flatten(asdict(row)) for row in found.table]
    tables = {
        "table": _table(rows),
        "answers": _table(_answers(found)),
        "reviews": _table(
            [asdict(r) | {"models": " | ".join(r.models), "scores": str(r.scores)} for r in found.reviews]
        ),
    }
    run.log({f"evaluation/{name}": table for name, table in tables.items() if table})
    run.log({"evaluation/report": wandb.Html((folder / "report.html").read_text(), inject=False)})
    _log_lineage(run, config, behind, folder)
    run.finish()


def runs_behind(config: EvaluateConfig) -> dict[str, tuple[str, str]]:
    """By the name of each model that a train run made: the run's W&B id, and the model as that run logged it."""
    found = {}
    for source in config.models:
        if not isinstance(source, FolderSource):
            continue
        place = locate(source.path)
        run = place.absolute().parent
        if place.name == "hf" and all((run / file).is_file() for file in ("run.json", "config.json")):
            about: Any = read_json(run, "run.json")
            where: Any = read_json(run, "config.json")
            where = where["wandb"]
            parts = (where["entity"], where["project"], f"model-{about['wandb_id']}:latest")
            found[source.name or model_name(place)] = about["wandb_id"], "/".join(part for part in parts if part)
    return found


def _log_lineage(run: Any, config: EvaluateConfig, behind: dict[str, tuple[str, str]], folder: Path) -> None:
    """The models as inputs, where W&B can say so, and the evaluation as an artifact; neither ever fails a run."""
    for name, (_, artifact) in behind.items() if run.settings.mode == "online" else ():
        try:
            run.use_artifact(artifact)
        except Exception as error:  # not logged, not synced yet, or another server's
            console.print(f"[yellow]W&B does not know {name} ({artifact}):[/] {error}", highlight=False)
    try:
        about = {"models": _ids(behind), "judge": config.judge.kind, "evaluates": config.run.name}
        artifact = wandb.Artifact(f"evaluation-{run.id}", "evaluation", metadata=about)
        for file in FILES:
            artifact.add_file(str(folder / file))
        run.log_artifact(artifact)
    except Exception as error:
        console.print(f"[yellow]W&B did not take the evaluation as an artifact:[/] {error}", highlight=False)


def _ids(behind: dict[str, tuple[str, str]]) -> dict[str, str]:
    return {name: identity for name, (identity, _) in behind.items()}


def summary(found: Evaluation) -> dict[str, float]:
    """One figure each, named by the pair: `evaluation/<model> vs <opponent>/win_rate`."""
    figures = {}
    for row in found.totals:
        name = row.model if row.opponent is None else f"{row.model} vs {row.opponent}"
        name = re.sub(r"[^\w .:+-]", "_", name if len(found.judges) == 1 else f"{name} by {row.judge}")
        for key in ("score", "opponent_score", "ratio", "mean_score", "win_rate", "length_controlled_win_rate"):
            if (value := getattr(row, key)) is not None:
                figures[f"evaluation/{name}/{key}"] = value
    return figures


def _answers(found: Evaluation) -> list[dict[str, Any]]:
    """A row for each turn of each question, the models' answers as columns."""
    return [
        {"question_id": q.id, "category": q.category, "turn": turn + 1, "question": q.turns[turn]}
        | {m: given.turns[turn] if (given := found.answers.get(m, {}).get(q.id)) else None for m in found.models}
        for q in found.questions
        for turn in range(len(q.turns))
    ]


def _table(rows: list[dict[str, Any]]) -> Any:
    if not rows:
        return None
    cells: Any = [[" to ".join(map(str, v)) if isinstance(v, tuple) else v for v in row.values()] for row in rows]
    return wandb.Table(columns=list(rows[0]), data=cells, allow_mixed_types=True)
