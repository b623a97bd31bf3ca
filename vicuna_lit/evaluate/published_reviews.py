"""Recorded reviews in the published forms → `Review`. What was stored is what counts; what the text says is compared.

FastChat's first form (two scores), QLoRA's (scores, or 1, 2, 3), MT-bench's pairs (both orders in one record) and
single ratings, PandaLM's human and model verdicts, the votes of `vicuna-chat`, and our own `reviews.jsonl`.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vicuna_lit.evaluate import questions as q
from vicuna_lit.evaluate import verdicts
from vicuna_lit.evaluate.answers import Answer, Answers, read_answers
from vicuna_lit.evaluate.questions import Question
from vicuna_lit.evaluate.reviews import Review, checked, from_record, read_votes, without_repeats
from vicuna_lit.evaluate.verdicts import Scores, Winner
from vicuna_lit.records.conversation import DataError
from vicuna_lit.records.files import find_files
from vicuna_lit.run_folder import read_json

VoteRow = tuple[str, dict[str, Any]]
_ANSWER_FOLDERS = ("answer", "answers", "generations", "model_answer")
_LEVELS = 4
"""How far above the reviews their questions and answers are looked for."""


@dataclass
class Recorded:
    """What recorded files hold."""

    reviews: list[Review] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    answers: Answers = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """What was concluded and not read."""
    models: list[str] = field(default_factory=list)
    """In the order of an evaluation of ours; empty where there is none."""


def read_reviews(path: str | Path, answers: Answers | None = None, judge: str | None = None) -> Recorded:
    """Reads a file of reviews, or all in a folder.

    Args:
        answers: say which answer was shown first, by `answer1_id`; those in a folder `answer` nearby are read too.
        judge: names the judge; null: as recorded.

    Raises:
        DataError: a record is of no known form, or nothing says whose answers were shown.
    """
    place = q.locate(str(path))
    for name in ("reviews.jsonl", "votes.jsonl"):  # in the folder of an evaluation or a chat of ours
        place = place / name if (place / name).exists() else place
    found = Recorded(answers=dict(answers or {}))
    for folder in _nearby(place, _ANSWER_FOLDERS):
        try:
            found.answers = read_answers(folder) | found.answers
        except DataError as error:
            found.notes.append(f"{folder}: beside the reviews, but no answers: {error}")
    _read_files(place, found)
    kept = without_repeats(found.reviews)
    if twice := len(found.reviews) - len(kept):
        found.notes.append(
            f"{twice} reviews are of answers that were reviewed before in the same order; the first counts"
        )
    found.reviews = kept if judge is None else [replace(review, judge=judge) for review in kept]
    found.models = _ours(place, "statistics.json").get("models", [])
    if not found.questions and (asked := _asked_beside(place)):
        found.questions = q.read_questions(asked)
    return found


def _read_files(place: Path, found: Recorded) -> None:
    """Adds all that the files say. Some forms give a model's reviews in rows that are read together, at the end."""
    models = {answer.id: m for m, given in found.answers.items() for answer in given.values() if answer.id}
    late: list[VoteRow] = []
    votes: list[VoteRow] = []
    for file, _ in find_files(place):
        rows = list(q.rows(file, "review"))
        by_id = [(where, record) for where, record in rows if "answer1_id" in record]
        ids = [tuple(q.named(where, record, f"answer{i}_id") for i in (1, 2)) for where, record in by_id]
        models |= _models_by_id(file, ids, models, found.notes) if ids else {}
        for where, record in rows:
            if "gpt_result" in record:
                late.append((where, record))
            elif "vote" in record:
                votes.append((where, record))
            else:
                found.reviews += _checked(_reviews, where, record, models, found)
    judged = {review.question_id: review.models for review in found.reviews}
    for where, record in late:
        found.reviews += _checked(_pandalm_by_model, where, record, judged)
    given, asked, said = read_votes(votes)
    found.reviews, found.questions = found.reviews + given, found.questions + asked
    found.answers |= {model: found.answers.get(model, {}) | theirs for model, theirs in said.items()}


def _checked(read: Callable[..., Iterator[Review]], where: str, *given: Any) -> list[Review]:
    """The reviews that a form finds in a record.

    Raises:
        DataError: a part of it is missing or of another kind, or it is of no two models.
    """
    try:
        return [checked(review) for review in read(where, *given)]
    except DataError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"the field {error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise DataError(f"{where}: is no whole review: {what}") from None


def _nearby(place: Path, names: tuple[str, ...]) -> list[Path]:
    around = [place, *place.absolute().parents][:_LEVELS]
    return next(([p] for folder in around for name in names if (p := folder / name).exists()), [])


def _ours(reviews: Path, name: str) -> dict[str, Any]:
    """A file of an evaluation of ours beside its reviews; empty where there is none.

    Raises:
        RunError: it is damaged.
    """
    there = reviews.name == "reviews.jsonl" and (reviews.parent / name).exists()
    return (read_json(reviews.parent, name) if there else None) or {}


def _asked_beside(place: Path) -> str | Path | None:
    """The questions of an evaluation of ours, or a file of them nearby."""
    if ours := _ours(place, "config.json"):
        return ours.get("questions") or q.BUNDLED
    return next(iter(_nearby(place, ("question.jsonl",))), None)


def _reviews(where: str, record: dict[str, Any], models: dict[str, str], found: Recorded) -> Iterator[Review]:
    match record:
        case {"answer1_id": first, "answer2_id": second}:
            yield _fastchat(where, record, (models[str(first)], models[str(second)]))
        case {"g1_winner": _, "g2_winner": _}:
            yield from _mt_bench_pair(where, record)
        case {"judgment": text, "model": model}:
            read, stored = verdicts.rating(text), float(q.field(where, record, "score"))
            scores = (stored,) if stored >= 0 else None
            yield Review(
                q.named(where, record, "question_id"),
                int(record.get("turn", 1)),
                (model,),
                _mt_judge(record),
                text,
                scores,
                problem=_doubt(stored if stored >= 0 else None, read),
            )
        case {"annotator1": _}:
            yield from _pandalm(where, record, found)
        case {"models": _, "judge": _}:
            yield from_record(record)
        case _:
            raise DataError(
                f"{where}: no known form of a review (FastChat, MT-bench, QLoRA, PandaLM, votes, ours); "
                f"it has the fields {q.fields_of(record)}"
            )


def _fastchat(where: str, record: dict[str, Any], models: tuple[str, str]) -> Review:
    text, stored = q.field(where, record, "text"), q.field(where, record, "score")
    scores: Scores | None = None
    if isinstance(stored, list):
        if len(stored) != 2:
            raise DataError(f"{where}: score is two numbers or a class, not {stored!r:.60}")
        scores = Scores(*map(float, stored)) if min(stored) >= 0 else None
        winner, problem = scores.winner if scores else None, _doubt(scores, verdicts.pair_scores(text))
    else:
        winner = verdicts.CLASSES.get(stored)
        problem = _doubt(winner, verdicts.number(text))
    reviewer = str(record.get("reviewer_id", ""))  # numbers and endings tell the prompt, not the judge
    judge = (
        "recorded" if not reviewer or reviewer.isdigit() else re.sub(r"-(default|generic|coding|math)$", "", reviewer)
    )
    return Review(q.named(where, record, "question_id"), 1, models, judge, text, scores, winner, problem)


def _doubt(stored: Any, read: Any) -> str | None:
    if stored is None:
        return "no verdict is stored" + (f"; the text says {_words(read)}" if read is not None else "")
    if read is None:
        return f"stored as {_words(stored)}; no verdict is found in the text"
    return None if stored == read else f"stored as {_words(stored)}; the text says {_words(read)}"


def _words(verdict: Any) -> str:
    return " ".join(f"{s:g}" for s in verdict) if isinstance(verdict, tuple) else str(verdict)


def _mt_judge(record: dict[str, Any]) -> str:
    judge = record.get("judge_model") or record.get("judge") or "recorded"
    return str(judge[0] if isinstance(judge, list) else judge)


def _mt_bench_pair(where: str, record: dict[str, Any]) -> Iterator[Review]:
    """One review for each of the two orders: in the second game the models have changed places."""
    for game, first, second in (("g1", "model_1", "model_2"), ("g2", "model_2", "model_1")):
        models, text = [q.field(where, record, m) for m in (first, second)], q.field(where, record, f"{game}_judgment")
        winners: dict[str, Winner] = {first: "first", second: "second", "tie": "tie"}
        winner = winners.get(record[f"{game}_winner"])
        problem = _doubt(winner, verdicts.letter(text))
        id, turn = q.named(where, record, "question_id"), int(record.get("turn", 1))
        yield Review(id, turn, tuple(models), _mt_judge(record), text, None, winner, problem)


def _pandalm(where: str, record: dict[str, Any], found: Recorded) -> Iterator[Review]:
    """The verdicts of the annotators on one record, which holds its question and both answers too."""
    one, _, two = q.field(where, record, "cmp_key").partition("_")
    id = q.named(where, record, "idx")
    asked = "\n\n".join(t for t in (record["instruction"], record.get("input")) if t)
    found.questions.append(Question(id, str(record.get("motivation_app", "all")), (asked,)))
    for model, text in ((one, record["response1"]), (two, record["response2"])):
        found.answers.setdefault(model, {})[id] = Answer(model, id, (str(text),))
    for i in (1, 2, 3):
        said = record[f"annotator{i}"]
        winner = verdicts.CLASSES.get({"0": 3, "1": 1, "2": 2}.get(str(said)))
        problem = None if winner else f"stored as {said!r:.60}"
        yield Review(id, 1, (one, two), f"human {i}", "", None, winner, problem)


def _pandalm_by_model(where: str, record: dict[str, Any], models: dict[str, tuple[str, ...]]) -> Iterator[Review]:
    """A model's verdict on a record that the annotators judged; they share the index."""
    id = q.named(where, record, "idx")
    if id not in models:
        raise DataError(f"{where}: the record {id} is judged, but no file of {Path(where).name} holds its answers")
    winners: dict[str, Winner] = {"1": "first", "2": "second", "Tie": "tie"}
    winner = winners.get(str(record["gpt_result"]))
    problem = None if winner else f"stored as {record['gpt_result']!r:.60}"
    yield Review(id, 1, models[id], "gpt-3.5-turbo", record.get("gpt_reason") or "", None, winner, problem)


def _models_by_id(file: Path, pairs: list[tuple[str, ...]], known: dict[str, str], notes: list[str]) -> dict[str, str]:
    """Whose answers a file's ids are.

    The order of the names in a file's name tells nothing: ids decide. Where one side is known, the other one has
    the name that is left; where none is, only FastChat's own `review_<first>_<second>` is trusted. Else the sides are
    called 1 and 2. All of it is noted.

    Raises:
        DataError: a side shows answers of several models, and one of an unknown model.
    """
    ids = [dict.fromkeys(side) for side in zip(*pairs, strict=True)]
    owners = [list(dict.fromkeys(known[i] for i in side if i in known)) for side in ids]
    for side, names in zip(ids, owners, strict=True):
        if len(names) > 1 and (lost := [i for i in side if i not in known]):
            raise DataError(
                f"{file}: no file of answers has the id {lost[0]}, which may be of {' or '.join(names)}; "
                "give that file, models=[<answer file>, …]"
            )
    sides = [next(iter(names), None) for names in owners]
    stem = re.sub(r"-gpt-?4-reviewer(-threeclass)?$", "", file.name.partition(".jsonl")[0])
    if None in sides:
        names = stem.removeprefix("review_").split("_") if stem.startswith("review_") else stem.split("-vs-")
        if sides != [None, None]:
            names = _by_elimination(sides, names) or [s or f"{stem} (answer {i})" for i, s in enumerate(sides, 1)]
        elif len(names) != 2 or not stem.startswith("review_"):
            names = [f"{stem} (answer {i})" for i in (1, 2)]
        sides = names
        notes.append(
            f"{file.name}: not all ids have an answer file; taken as answers of {names[0]} first, of {names[1]} second "
            "(models=[<answer file>, …] would tell)"
        )
    return {i: name for side, name in zip(ids, sides, strict=True) for i in side if name and i not in known}


def _by_elimination(sides: list[str | None], names: list[str]) -> list[str] | None:
    """The two names with the unknown one in its place, if it is plain which of them the known side is."""
    known = next(side for side in sides if side)
    common = [len(_common_start(known, name)) for name in names]
    if len(names) != 2 or abs(common[0] - common[1]) < 3:
        return None
    left = names[common.index(min(common))]
    return [side or left for side in sides]


def _common_start(a: str, b: str) -> str:
    return a[: next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))]
