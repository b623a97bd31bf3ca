"""The job: questions and models → answers → reviews → table, page, W&B. Each stage goes on where it was stopped."""

import csv
import io
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from vicuna_lit.evaluate import generate, ratings
from vicuna_lit.evaluate.answers import Answers, line
from vicuna_lit.evaluate.board import log_to_wandb
from vicuna_lit.evaluate.config import EvaluateConfig, FolderSource, RecordedJudgeConfig
from vicuna_lit.evaluate.outcomes import outcomes
from vicuna_lit.evaluate.questions import BUNDLED, Question, first_of_each, read_questions
from vicuna_lit.evaluate.recorded import Recorded, read_reviews
from vicuna_lit.evaluate.report import Evaluation, render
from vicuna_lit.evaluate.reviews import Review, without_repeats
from vicuna_lit.evaluate.stages import Payer, answers_of, can_be_opened, console, estimate, reviews_of
from vicuna_lit.folder import RunError, read_json, refuse_other_settings, write, write_json

FREE = ("run", "wandb", "requests", "budget_usd", "answers.batch_size", "bootstrap")
"""What may change between two starts: it decides no answer and no verdict."""


def evaluate_models(config: EvaluateConfig) -> Evaluation:
    """Evaluates; the same config in the same folder goes on where it was stopped, and pays for nothing twice.

    Raises:
        DataError, RunError, ModelError, MissingPath: bad input; found before anything is paid, as far as it can be.
    """
    folder = Path(config.run.dir)
    settings = config.model_dump(mode="json")
    if (saved := read_json(folder, "config.json")) is not None:
        refuse_other_settings(folder, saved, settings, FREE)
    if isinstance(config.judge, RecordedJudgeConfig):
        found = _recorded(config, folder)
        _claim(folder, settings)
        _keep_what_was_judged(found, folder)
    else:
        found = _asked(config, folder, settings)
    _save(found, folder)
    if config.wandb.mode != "disabled":
        log_to_wandb(config, found, folder)
    return found


def _claim(folder: Path, settings: dict[str, Any]) -> None:
    """From here on the folder is that of an evaluation with these settings."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", settings)


def _recorded(config: EvaluateConfig, folder: Path) -> Evaluation:
    judge = config.judge
    assert isinstance(judge, RecordedJudgeConfig)
    asked = read_questions(config.questions) if config.questions else None
    names, to_ask, answers = generate.models_of(config.models, None, folder)
    if to_ask:
        raise RunError(
            f"models: {to_ask[0].name} is no file of answers; recorded reviews are of recorded answers, such as "
            "<run>/answers/<model>.jsonl (models may be left out)"
        )
    all_of = Recorded()
    for path in [judge.reviews] if isinstance(judge.reviews, str) else judge.reviews:
        one = read_reviews(path, all_of.answers | answers, judge.name)
        all_of.reviews += one.reviews
        all_of.notes += one.notes
        all_of.questions += [q for q in one.questions if q not in all_of.questions]
        all_of.answers |= one.answers
        all_of.models += [model for model in one.models if model not in all_of.models]
    if all_of.questions and not asked:
        all_of.notes.append("the questions are those found beside the reviews; questions=<file> names others")
    reviews = without_repeats(all_of.reviews)
    judged = dict.fromkeys(m for review in reviews for m in review.models)
    return _rated(
        config,
        [n for n in names or all_of.models if n in judged],
        asked or all_of.questions,
        all_of.answers,
        reviews,
        all_of.notes,
    )


def _keep_what_was_judged(found: Evaluation, folder: Path) -> None:
    """What came with recorded reviews, so that another judge can be asked about the same answers."""
    if not (found.questions and found.answers):
        return
    rows = [{"question_id": q.id} | asdict(q) | {"reference": q.references} for q in found.questions]
    write(folder / "questions.jsonl", [json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows])
    (folder / "answers").mkdir(exist_ok=True)
    for model, given in found.answers.items():
        write(generate.answers_file(folder, model), map(line, given.values()))


def _asked(config: EvaluateConfig, folder: Path, settings: dict[str, Any]) -> Evaluation:
    questions = first_of_each(read_questions(config.questions or BUNDLED), config.max_questions)
    names, models, given = generate.models_of(config.models, questions, folder)
    if config.baseline and config.baseline not in names:
        raise RunError(f"baseline={config.baseline}: no such model; they are {', '.join(names)}")
    local = [config.judge.path] if config.judge.kind == "local" else []
    can_be_opened([*(m.source.path for m in models if isinstance(m.source, FolderSource)), *local])
    with Payer(config, folder) as payer:
        payer.check(models)
        _claim(folder, settings)
        if left := estimate(config, questions, names, models, given, payer):
            console.print(left)
        for model in models:
            given[model.name] = answers_of(model, questions, config, payer)
        answers = {name: given[name] for name in names}
        reviews = reviews_of(config, folder, questions, answers, payer)
        notes = payer.notes(models)
    for model in names:
        given_by = answers[model].values()
        if cut := sum(answer.cut for answer in given_by):
            notes.append(f"{cut} replies of {model} were cut off at {config.answers.max_new_tokens} tokens")
        if empty := sum(not turn.strip() for answer in given_by for turn in answer.turns):
            notes.append(f"{empty} replies of {model} are empty")
    without = sum(not q.references for q in questions)
    if config.judge.kind == "rule" and without:
        notes.append(
            f"rules judge the {len(questions) - without} questions with a reference answer; {without} have none"
        )
    return _rated(config, names, questions, answers, reviews, notes)


def _rated(
    config: EvaluateConfig,
    names: list[str],
    questions: list[Question],
    answers: Answers,
    reviews: list[Review],
    notes: list[str],
) -> Evaluation:
    found = outcomes(reviews, names, questions, answers, config.baseline)
    names = [*names, *dict.fromkeys(m for r in reviews for m in r.models if m not in names)]
    if config.baseline and config.baseline not in names:
        raise RunError(f"baseline={config.baseline}: no such model; they are {', '.join(names)}")
    draw = (config.bootstrap.samples, config.bootstrap.seed)
    return Evaluation(
        name=config.run.name,
        models=names,
        questions=questions,
        answers=answers,
        reviews=reviews,
        table=ratings.table(found, *draw),
        ladder=ratings.ladder(found, *draw),
        judges=ratings.judges(found),
        agreements=ratings.agreements(found),
        notes=notes,
    )


def _save(found: Evaluation, folder: Path) -> None:
    rows = [asdict(row) for row in found.table]
    write_json(folder / "table.json", rows)
    text = io.StringIO()
    sheet = csv.DictWriter(text, [f.name for f in fields(ratings.Row)])
    sheet.writeheader()
    sheet.writerows({k: " ".join(map(str, v)) if isinstance(v, tuple) else v for k, v in row.items()} for row in rows)
    write(folder / "table.csv", [text.getvalue().encode()])
    rest = {
        "models": found.models,
        "bradley_terry": found.ladder,
        "judges": [asdict(judge) for judge in found.judges],
        "agreements": found.agreements,
        "notes": found.notes,
        "doubts": [asdict(review) for review in found.doubts],
    }
    write_json(folder / "statistics.json", rest)
    write(folder / "reviews.jsonl", map(line, found.reviews))
    write(folder / "report.html", [render(found).encode()])
