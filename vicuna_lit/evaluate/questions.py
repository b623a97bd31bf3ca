"""What the models are asked: the bundled 80 questions, and the published forms (vicuna_bench, MT-bench)."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vicuna_lit.paths import locate
from vicuna_lit.records.conversation import DataError, Rejection
from vicuna_lit.records.readers import records

BUNDLED = "package://vicuna_lit/evaluate/questions.jsonl"
FORM = '{"question_id": 1, "category": "math", "turns": ["…"], "reference": ["…"]}'
"""A line of a file of questions; `reference` may be left out."""
REFERENCES = "reference_answer"
"""The folder beside a file of questions that has the answers to them."""
MOST_FIELDS = 10
"""Of a record that are named."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question of one or more turns; `references` has a model answer for each turn, or is empty."""

    id: str
    category: str
    turns: tuple[str, ...]
    references: tuple[str, ...] = ()


def rows(path: str | Path, what: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The records of a JSON or JSONL file, or of the files of a folder, named by file and index.

    Raises:
        DataError: one is broken.
    """
    place = locate(str(path))
    for name, record in records(place):
        where = str((place if place.is_dir() else place.parent) / name)
        if isinstance(record, Rejection) or not isinstance(record, dict):
            detail = record.detail if isinstance(record, Rejection) else f"not an object: {str(record)[:60]}"
            raise DataError(f"{where}: no {what} can be read: {detail}")
        yield where, record


def field(where: str, record: dict[str, Any], *names: str) -> Any:
    """The first of some fields that a record has.

    Raises:
        DataError: it has none of them.
    """
    for name in names:
        if record.get(name) is not None:
            return record[name]
    raise DataError(f"{where}: the field {' or '.join(names)} is missing; it has {fields_of(record)}")


def fields_of(record: dict[str, Any]) -> str:
    """The names of a record's fields, the first of many."""
    names = sorted(record)
    more = f" and {len(names) - MOST_FIELDS} more" if len(names) > MOST_FIELDS else ""
    return f"{', '.join(names[:MOST_FIELDS])}{more}"


def texts(where: str, value: Any) -> tuple[str, ...]:
    """A text, or a list of texts, as a tuple.

    Raises:
        DataError: it is something else.
    """
    value = [value] if isinstance(value, str) else value
    if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
        raise DataError(f"{where}: a text or a list of texts is expected, not {str(value)[:60]!r}")
    return tuple(value)


def choices(where: str, record: dict[str, Any]) -> tuple[str, ...]:
    """The turns of MT-bench's `choices`; the first choice."""
    found = field(where, record, "choices")
    if not isinstance(found, list) or not found or not isinstance(found[0], dict):
        raise DataError(f'{where}: choices is no list of {{"turns": [...]}}, but {str(found)[:60]!r}')
    return texts(where, field(where, found[0], "turns"))


def named(where: str, record: dict[str, Any], name: str) -> str:
    """A field that names something: a text, or a whole number.

    Raises:
        DataError: it is missing, or names nothing.
    """
    value = field(where, record, name)
    if isinstance(value, float) and value.is_integer():  # as pandas writes a column of numbers
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise DataError(f"{where}: {name} is a text or a whole number, not {str(value)[:60]!r}")
    return str(value)


def read_questions(path: str | Path = BUNDLED) -> list[Question]:
    """Reads questions in the order of the file.

    Args:
        path: JSONL with `question_id`, `category` and `turns` (or `text`), and `reference` where there is one; or a
            folder with `question.jsonl` and `reference_answer/`, as FastChat's `vicuna_bench` and `mt_bench`.

    Raises:
        DataError: a record is broken or lacks a field, or two have the same id.
    """
    place = locate(str(path))
    file = place / "question.jsonl" if place.is_dir() else place
    beside = file.parent / REFERENCES
    given: dict[str, tuple[str, ...]] = {}
    for where, record in rows(beside, "reference") if beside.is_dir() else ():
        id = named(where, record, "question_id")
        if id in given:
            raise DataError(f"{where}: question {id} has a reference before this one; leave one file in {beside}")
        given[id] = choices(where, record)
    questions: dict[str, Question] = {}
    for where, record in rows(file, "question"):
        if missing := [key for key in ("question_id", "category") if record.get(key) is None]:
            one, has = " and ".join(missing), fields_of(record)
            said = f"the field {one} is missing" if len(missing) == 1 else f"the fields {one} are missing"
            raise DataError(f"{where}: {said}; it has {has}; a question is {FORM}")
        id = named(where, record, "question_id")
        if id in questions:
            raise DataError(f"{where}: question_id {id} occurs twice")
        turns = texts(where, field(where, record, "turns", "text"))
        if not all(turn.strip() for turn in turns):
            raise DataError(f"{where}: question {id} has an empty turn, which asks nothing")
        references = texts(where, record["reference"]) if record.get("reference") else given.get(id, ())
        if references and len(references) != len(turns):
            raise DataError(f"{where}: question {id} has {len(turns)} turns and {len(references)} references")
        questions[id] = Question(id, named(where, record, "category"), turns, references)
    if not questions:
        raise DataError(f"{file}: holds no question")
    return list(questions.values())


def first_of_each(questions: Sequence[Question], most: int) -> list[Question]:
    """The first so many of each category."""
    place = _places(questions)
    return [q for q in questions if place[q.id] < most]


def spread_over_categories(questions: Sequence[Question], most: int | None) -> list[Question]:
    """So many questions in their order: the first of each category, then the second ones, …; None: all."""
    place = _places(questions)
    kept = {q.id for q in sorted(questions, key=lambda q: place[q.id])[:most]}
    return [q for q in questions if q.id in kept]


def _places(questions: Sequence[Question]) -> dict[str, int]:
    """The place of each question in its category, from 0."""
    seen, place = Counter[str](), dict[str, int]()
    for question in questions:
        place[question.id] = seen[question.category]
        seen[question.category] += 1
    return place
