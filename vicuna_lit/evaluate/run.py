"""The job: questions and models → answers → reviews → table, page, W&B. Each stage resumes where it was stopped."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from vicuna_lit.config.base import other_keys
from vicuna_lit.config.evaluate import EvaluateConfig, EvaluateRecipe, FolderSource, RecordedJudgeConfig
from vicuna_lit.data.template_date import fixed_date
from vicuna_lit.evaluate import generate, ratings
from vicuna_lit.evaluate.answers import Answers, line
from vicuna_lit.evaluate.outcomes import outcomes
from vicuna_lit.evaluate.published_reviews import Recorded, read_reviews
from vicuna_lit.evaluate.questions import BUNDLED, REFERENCES, Question, read_questions, spread_over_categories
from vicuna_lit.evaluate.report import Evaluation, render
from vicuna_lit.evaluate.reviews import Review, without_repeats
from vicuna_lit.evaluate.stages import BudgetedClients, answers_of, can_be_opened, console, cost_estimate, reviews_of
from vicuna_lit.file_hashes import Hashes, hashes_of, model_files, refuse_other_files
from vicuna_lit.hub import fetched
from vicuna_lit.paths import locate
from vicuna_lit.records.files import find_files
from vicuna_lit.run_folder import (
    CONFIG,
    PLACE,
    RUN,
    RunError,
    check_disk,
    copy_note,
    lives_elsewhere,
    locked,
    read_json,
    refuse_other_settings,
    write_hydra_files,
)
from vicuna_lit.tracking.server import check_wandb
from vicuna_lit.whole_files import write, write_json

MAY_CHANGE = other_keys(EvaluateConfig, EvaluateRecipe)
"""Keys that may differ between two starts."""
LEAST_BYTES = 64e6
"""Free on the disk before anything is asked: many times what our largest evaluation has written."""


def evaluate_models(config: EvaluateConfig) -> Evaluation:
    """Evaluates; the same config in the same folder resumes, and pays for nothing twice.

    Raises:
        DataError, RunError, ModelError, MissingPath: bad input; found before anything is paid, as far as it can be.
    """
    config = fetched(config)
    with locked(Path(config.run.dir)):
        return _evaluate(config, Path(config.run.dir))


def _evaluate(config: EvaluateConfig, folder: Path) -> Evaluation:
    saved = read_json(folder, "config.json")
    here = [source.path for source in config.models if isinstance(source, FolderSource)]
    date = fixed_date(config.template_date, saved, [*here, config.judge.facts.folder])
    config = config.model_copy(update={"template_date": date})
    settings = config.model_dump(mode="json")
    if saved is not None:
        refuse_other_settings(folder, saved, settings, MAY_CHANGE)
    check_disk(folder, LEAST_BYTES, "an evaluation")
    check_disk(Path(config.requests.cache).parent, LEAST_BYTES, "the cache of paid replies")
    check_wandb(config.wandb)
    if isinstance(config.judge, RecordedJudgeConfig):
        found = _recorded(config, folder)
        _claim(folder, settings)
        _keep_what_was_judged(found, folder)
    else:
        found = _asked(config, folder, settings)
    _save(found, folder)
    if config.wandb.mode != "disabled":
        from vicuna_lit.evaluate.tracking import log_to_wandb

        log_to_wandb(config, found, folder)
    return found


def _claim(folder: Path, settings: dict[str, Any], files: Hashes | None = None) -> None:
    """Makes the folder that of an evaluation with these settings and files."""
    before = read_json(folder, RUN) or {}
    folder.mkdir(parents=True, exist_ok=True)
    here = {PLACE: str(folder.resolve())}
    if lives_elsewhere(folder):
        console.print(copy_note(folder), markup=False, highlight=False)
        before = {key: value for key, value in before.items() if not key.startswith("wandb_")}
        write_json(folder / RUN, before | here)  # before `config.json` says that it lives here
    write_hydra_files(folder)
    write_json(folder / CONFIG, settings)
    write_json(folder / RUN, before | here | ({} if files is None else {"files": files}))


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
    """Writes the questions and answers that came with recorded reviews, so that another judge can be asked."""
    if not (found.questions and found.answers):
        return
    rows = [{"question_id": q.id} | asdict(q) | {"reference": q.references} for q in found.questions]
    write(folder / "questions.jsonl", [json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows])
    (folder / "answers").mkdir(exist_ok=True)
    for model, given in found.answers.items():
        write(generate.answers_file(folder, model), map(line, given.values()))


def _asked(config: EvaluateConfig, folder: Path, settings: dict[str, Any]) -> Evaluation:
    assert not isinstance(config.judge, RecordedJudgeConfig)
    questions = spread_over_categories(read_questions(config.questions or BUNDLED), config.max_questions)
    names, models, given = generate.models_of(config.models, questions, folder)
    if config.baseline and config.baseline not in names:
        raise RunError(f"baseline={config.baseline}: no such model; they are {', '.join(names)}")
    if len(names) == 1 and config.judge.mode == "pairwise":
        raise RunError(
            f"models: {names[0]} is the only one; judge.mode=pairwise compares two or more, judge.mode=single rates one"
        )
    local = [config.judge.facts.folder] if config.judge.facts.folder else []
    here = [m.source.path for m in models if isinstance(m.source, FolderSource)]
    by_rule = _judged_by_rule(config, questions)
    can_be_opened([*here, *local])
    files = files_read(config, here)
    other = "run.dir=<another folder> asks and judges anew"
    refuse_other_files(folder, (read_json(folder, "run.json") or {}).get("files"), files, other)
    with BudgetedClients(config, folder) as payer:
        payer.check(models)
        _claim(folder, settings, files)
        if by_rule:
            console.print(by_rule, markup=False, highlight=False)
        if left := cost_estimate(config, questions, names, models, given, payer):
            console.print(left)
        for model in models:
            given[model.name] = answers_of(model, questions, config, payer)
        answers = {name: given[name] for name in names}
        reviews = reviews_of(config, folder, questions, answers, payer)
        notes = payer.notes(models)
    for model in names:
        given_by = answers[model].values()
        if cut := sum(answer.cut for answer in given_by):
            most = f"{config.answers.max_new_tokens} tokens, or by the end of its context"
            notes.append(f"replies of {model} that were cut off at {most}: {cut}")
        if empty := sum(not turn.strip() for answer in given_by for turn in answer.turns):
            notes.append(f"empty replies of {model}: {empty}")
    return _rated(config, names, questions, answers, reviews, [*notes, *([by_rule] if by_rule else [])])


def _judged_by_rule(config: EvaluateConfig, questions: Sequence[Question]) -> str:
    """How many questions the judge leaves out since they have no reference answer; empty where there is none.

    Raises:
        RunError: it could judge no question at all.
    """
    without = sum(not q.references for q in questions)
    if not config.judge.facts.needs_reference or not without:
        return ""
    if without < len(questions):
        return f"rules judge the {len(questions) - without} questions with a reference answer; {without} have none"
    way = "of the bundled ones coding and math have, and max_questions=8 or more takes some of them"
    if config.questions is not None:
        way = "give the questions a reference, or leave questions= out"
    judge = f"judge={config.judge.kind}"
    raise RunError(f"{judge}: judges by a reference answer, and none of {len(questions)} questions has one: {way}")


def files_read(config: EvaluateConfig, asked: Iterable[str]) -> Hashes:
    """The sha256 of questions, files of answers, models and a judge on this machine, as they are now.

    Args:
        asked: paths of the models that answer here; the other folders and files of `models` hold answers.

    Raises:
        DataError, MissingPath: a path leads nowhere.
    """
    judge, models = config.judge, set(asked)
    given = {source.path for source in config.models if isinstance(source, FolderSource)} - models
    files: dict[str, Path] = {}
    for path in (*sorted(given), config.questions or BUNDLED):
        place = locate(path)
        if place.is_file() and (place.parent / REFERENCES).is_dir():  # read_questions looks there
            beside = find_files(place.parent / REFERENCES)
            files |= {f"{REFERENCES}/{name} beside {path}": file for file, name in beside}
        files |= {path if place.is_file() else f"{path}/{name}": file for file, name in find_files(place)}
    for path in (*sorted(models), *([judge.facts.folder] if judge.facts.folder else [])):
        files |= model_files(path)
    return hashes_of(files)


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
        ratings=ratings.bradley_terry_ratings(found, *draw),
        judges=ratings.judges(found),
        agreements=ratings.agreements(found, *draw),
        notes=[*notes, *ratings.unequal_means(found)],
    )


def _save(found: Evaluation, folder: Path) -> None:
    rows = [asdict(row) for row in found.table]
    write_json(folder / "table.json", rows)
    text = io.StringIO()
    sheet = csv.DictWriter(text, [f.name for f in fields(ratings.RatingRow)])
    sheet.writeheader()
    sheet.writerows({k: " ".join(map(str, v)) if isinstance(v, tuple) else v for k, v in row.items()} for row in rows)
    write(folder / "table.csv", [text.getvalue().encode()])
    rest = {
        "models": found.models,
        "bradley_terry": found.ratings,
        "judges": [asdict(judge) for judge in found.judges],
        "agreements": found.agreements,
        "notes": found.notes,
        "doubts": [asdict(review) for review in found.flagged_reviews],
    }
    write_json(folder / "statistics.json", rest)
    write(folder / "reviews.jsonl", map(line, found.reviews))
    write(folder / "report.html", [render(found).encode()])
