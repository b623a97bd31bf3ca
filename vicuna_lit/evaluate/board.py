"""The evaluation as a W&B run: summary metrics, and tables of pairs, answers and reviews."""

import re
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

import wandb

from vicuna_lit.evaluate.config import EvaluateConfig
from vicuna_lit.evaluate.report import Evaluation
from vicuna_lit.folder import flatten, read_json, write_json


def log_to_wandb(config: EvaluateConfig, found: Evaluation, folder: Path) -> None:
    """Writes one run; the same folder evaluated again is the same run."""
    identity = (read_json(folder, "run.json") or {"wandb_id": uuid.uuid4().hex[:8]})["wandb_id"]
    write_json(folder / "run.json", {"wandb_id": identity})
    wandb.setup(settings=wandb.Settings(silent=True))  # else it advertises another product, since openai is imported
    run = wandb.init(
        **config.wandb.model_dump(),
        name=config.run.name,
        job_type="evaluate",
        id=identity,
        resume="allow",
        dir=str(folder),
        config=flatten(config.model_dump(mode="json", exclude={"judge": {"prompts"}})),
        settings=wandb.Settings(silent=True, console="off"),
    )
    run.summary.update(summary(found))
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
    run.finish()


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
    cells = [[" to ".join(map(str, v)) if isinstance(v, tuple) else v for v in row.values()] for row in rows]
    return wandb.Table(columns=list(rows[0]), data=cells, allow_mixed_types=True)
