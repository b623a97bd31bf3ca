"""The evaluation as a W&B run: figures under fixed names, tables of pairs, answers and reviews, and which runs made the
models; and its figures in the summary of the train run whose model it judges.

Online a model that a train run logged is the evaluation's input. Offline nothing can be looked up and W&B's
`use_artifact` refuses, so the runs' ids also stand in the config and in the evaluation's artifact.
"""

import hashlib
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vicuna_lit.config.base import RunConfig
from vicuna_lit.config.evaluate import EvaluateConfig, FolderSource
from vicuna_lit.evaluate.ratings import RatingRow
from vicuna_lit.evaluate.report import Evaluation
from vicuna_lit.evaluate.stages import console
from vicuna_lit.paths import locate_model, model_name
from vicuna_lit.run_folder import flatten, new_wandb_id, read_json
from vicuna_lit.tracking.about import about_run, nested
from vicuna_lit.tracking.server import one_line
from vicuna_lit.tracking.session import Session, open_session
from vicuna_lit.tracking.wandb_file import state
from vicuna_lit.whole_files import write_json

FILES = ("table.json", "statistics.json", "report.html")
"""Of the run folder, in the evaluation's artifact; the page holds texts."""
FIGURES = (
    "win_rate",
    "length_controlled_win_rate",
    "ratio",
    "mean_score",
    "score",
    "opponent_score",
    "questions",
    "unparsed",
)


def log_to_wandb(config: EvaluateConfig, found: Evaluation, folder: Path) -> str | None:
    """Writes one run, and returns the address of its page, if it has one.

    The same folder evaluated again is the same run: with other results they take the place of those before, with the
    same ones nothing is written again. What W&B cannot do costs W&B's run alone.
    """
    known = read_json(folder, "run.json") or {}
    identity, row = new_wandb_id(folder, known.get("wandb_id")), headline(config, found)
    known |= {"wandb_id": identity}
    told = (figures_of(row), [asdict(one) for one in found.table], config.wandb.model_dump(mode="json"))
    digest = hashlib.sha256(json.dumps(told).encode()).hexdigest()
    if known.get("wandb_logged") == digest:
        return known.get("wandb_url")
    write_json(folder / "run.json", known)
    _remove_unsent(Path(config.wandb.dir or folder), f"offline-run-*-{identity}")
    behind = runs_behind(config)
    values = config.model_dump(mode="json", exclude={"judge": {"prompts"}, "run": {"swept"}})
    values |= about_run(config.run, config.wandb.group)
    values |= {"lineage": {"models": {name: identity for name, (identity, _) in behind.items()}}}
    if row:
        values |= {"model": row.model, "opponent": row.opponent}
    session = open_session(config.wandb, config.run, folder, identity, nested(values), _say)
    if session is None:
        return None
    session.log(figures_of(row))
    session.log(session.do("its tables", lambda _: _tables(config, found, folder)) or {})
    _log_lineage(session, config, behind, folder)
    url = session.url
    session.finish()
    if not session.failed:
        write_json(folder / "run.json", known | {"wandb_logged": digest, "wandb_url": url})
    _tell_train_runs(config, found)
    return url


def _say(line: str) -> None:
    console.print(line, style="yellow", markup=False)


def headline(config: EvaluateConfig, found: Evaluation) -> RatingRow | None:
    """The comparison that stands for the evaluation: the last model against the baseline, or the first one."""
    opponent = config.baseline or found.models[0]
    rows = [row for row in found.totals if row.model == found.models[-1] and row.opponent == opponent]
    return next(iter([*rows, *found.totals]), None)


def figures_of(row: RatingRow | None) -> dict[str, float]:
    """`eval/win_rate`, `eval/win_rate_low`, `eval/win_rate_high` and so on: the same names in every evaluation."""
    figures: dict[str, float] = {}
    for key in FIGURES if row else ():
        if (value := getattr(row, key)) is not None:
            figures[f"eval/{key}"] = value
        if between := getattr(row, f"{key}_interval", None):
            figures |= {f"eval/{key}_low": between[0], f"eval/{key}_high": between[1]}
    return figures


def _remove_unsent(folder: Path, pattern: str) -> None:
    """Records that `wandb sync` has not uploaded, for others take their place; it marks those that it has."""
    for record in folder.glob(f"wandb/{pattern}"):
        if not any(record.glob("*.synced")):
            shutil.rmtree(record, ignore_errors=True)


def runs_behind(config: EvaluateConfig) -> dict[str, tuple[str, str]]:
    """By the name of each model that a train run made: the run's W&B id, and the model as that run logged it."""
    found = {}
    for name, run in _train_folders(config).items():
        about: Any = read_json(run, "run.json")
        where: Any = (read_json(run, "config.json") or {})["wandb"]
        parts = (where["entity"], where["project"], f"model-{about['wandb_id']}:latest")
        found[name] = about["wandb_id"], "/".join(part for part in parts if part)
    return found


def _train_folders(config: EvaluateConfig) -> dict[str, Path]:
    """By the name of each model that a train run made: the run's folder."""
    found = {}
    for source in config.models:
        if isinstance(source, FolderSource):
            place = locate_model(source.path)
            run = place.absolute().parent
            if place.name == "hf" and all((run / file).is_file() for file in ("run.json", "config.json")):
                found[source.name or model_name(place)] = run
    return found


def _tell_train_runs(config: EvaluateConfig, found: Evaluation) -> None:
    """Writes an evaluation's figures into the summary of the run that made the model."""
    for name, run in _train_folders(config).items():
        rows = [row for row in found.totals if row.model == name]
        where: Any = (read_json(run, "config.json") or {})["wandb"]
        if not rows or where["mode"] == "disabled":
            continue
        row = next((one for one in rows if one == headline(config, found)), rows[0])
        figures: dict[str, Any] = figures_of(row) | {"eval/opponent": row.opponent, "eval/judge": row.judge}
        identity = (read_json(run, "run.json") or {})["wandb_id"]
        if config.wandb.mode == "online" and (read_json(run, "result.json") or {}).get("wandb_url"):
            _summarize_online("/".join(filter(None, (where["entity"], where["project"], identity))), figures)
        else:
            _summarize_offline(config, run, identity, figures)


def _summarize_online(path: str, figures: dict[str, Any]) -> None:
    import wandb

    try:
        wandb.Api(timeout=30).run(path).summary.update(figures)
    except Exception as error:  # deleted, or not ours to change
        _say(f"W&B did not take the win rate for the run {path}: {one_line(error)}")


def _summarize_offline(config: EvaluateConfig, run: Path, identity: str, figures: dict[str, Any]) -> None:
    """A further record of the train run, with all that its config and its summary were: the last one counts."""
    saved: Any = read_json(run, "config.json")
    about: Any = saved["wandb"]
    place = Path(about.get("dir") or run)
    mark = place / "wandb" / "evaluated.json"
    if mark.is_file():
        _remove_unsent(place, json.loads(mark.read_bytes()))
    values, summary = state(place, identity)
    kept = {key: about.get(key) for key in ("project", "entity", "name", "group", "notes", "dir")}
    tags = {"tags": tuple(about.get("tags", ())), "mode": "offline", "console": "off"}
    wandb = config.wandb.model_copy(update={**kept, **tags, "job_type": about.get("job_type", "train")})
    named = RunConfig.model_validate({"choices": {}} | saved["run"])
    session = open_session(wandb, named, run, identity, values, _say)
    if session and session.folder:
        session.summarize(summary | figures)
        write_json(mark, session.folder.name)
        session.finish()


def _log_lineage(session: Session, config: EvaluateConfig, behind: dict[str, tuple[str, str]], folder: Path) -> None:
    """The models as inputs, where W&B can say so, and the evaluation as an artifact; neither ever fails a run."""
    for name, (_, artifact) in behind.items() if session.online else ():
        session.do(f"{name} as its input ({artifact})", lambda run, artifact=artifact: run.use_artifact(artifact))

    def log(run: Any) -> None:
        import wandb

        models = {name: identity for name, (identity, _) in behind.items()}
        about = {"models": models, "judge": config.judge.kind, "evaluates": config.run.name}
        artifact = wandb.Artifact(f"evaluation-{run.id}", "evaluation", metadata=about)
        for file in FILES if config.wandb.samples == "text" else FILES[:2]:
            artifact.add_file(str(folder / file))
        run.log_artifact(artifact)

    session.do("the evaluation as an artifact", log)


def _tables(config: EvaluateConfig, found: Evaluation, folder: Path) -> dict[str, Any]:
    """Those that hold texts as `wandb.samples` says."""
    import wandb

    tables = {"eval/table": _table([flatten(asdict(row)) for row in found.table])}
    reviews = [asdict(r) | {"models": " | ".join(r.models), "scores": str(r.scores)} for r in found.reviews]
    if config.wandb.samples == "text":
        tables |= {"eval/answers": _table(_answers(found)), "eval/reviews": _table(reviews)}
        tables["eval/report"] = wandb.Html((folder / "report.html").read_text(encoding="utf-8"), inject=False)
    elif config.wandb.samples == "ids":
        ids = ("question_id", "turn", "models", "scores")
        tables["eval/reviews"] = _table([{key: row[key] for key in ids} for row in reviews])
    return {name: table for name, table in tables.items() if table is not None}


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
    import wandb

    cells: Any = [[" to ".join(map(str, v)) if isinstance(v, tuple) else v for v in row.values()] for row in rows]
    return wandb.Table(columns=list(rows[0]), data=cells, allow_mixed_types=True)
