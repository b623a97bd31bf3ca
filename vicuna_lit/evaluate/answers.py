"""What the models said: answer files of every published form, and our own."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from vicuna_lit.evaluate.questions import Question, choices, field, named, rows, texts
from vicuna_lit.records.conversation import DataError
from vicuna_lit.run_folder import RunError
from vicuna_lit.whole_files import naming


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's answer to each turn of a question."""

    model: str
    question_id: str
    turns: tuple[str, ...]
    id: str = ""
    """As recorded reviews name it."""
    cut: int = 0
    """Turns that ended at the most tokens that were allowed."""


Answers = dict[str, dict[str, Answer]]
"""By model, then by question."""


def read_answers(path: str | Path, model: str | None = None) -> Answers:
    """Reads a file of answers, or a folder of such files.

    Known are FastChat's first form (`text`), MT-bench's (`choices`), QLoRA's (`generation`, where `text` is the
    question) and our own (`turns`).

    Args:
        model: names the model; null: `model_id`, or the file's name.

    Raises:
        DataError: a record is broken or lacks a field, a question is answered twice, or there is no answer at all.
    """
    answers: Answers = {}
    for where, record in rows(path, "answer"):
        stem = Path(where.rpartition(":")[0]).name.partition(".jsonl")[0].removeprefix("answer_")
        name = model or str(record.get("model_id") or record.get("model") or stem)
        question = named(where, record, "question_id")
        if record.get("choices"):
            turns = choices(where, record)
        else:
            turns = texts(where, field(where, record, "generation", "turns", "text"))
        if question in answers.setdefault(name, {}):
            raise DataError(f"{where}: {name} answers question {question} twice; give one of the files")
        answers[name][question] = Answer(name, question, turns, str(record.get("answer_id") or ""))
    if not answers:
        raise DataError(f"{path}: holds no answer")
    return answers


def append(path: Path, items: Iterable[Any]) -> None:
    """Appends dataclasses to a JSONL file; a stop in between costs the last line at most (see `complete`)."""
    with naming(path), path.open("ab") as stream:
        stream.write(b"".join(map(line, items)))


def line(item: Any) -> bytes:
    """A dataclass as a line of JSONL."""
    return orjson.dumps(asdict(item), default=tuple) + b"\n"


def complete(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSONL file; what a stop has left of a last one is cut off.

    Raises:
        RunError: another line is no object.
    """
    if not path.exists():
        return []
    whole = path.read_bytes()
    if kept := whole.rfind(b"\n") + 1 - len(whole):
        os.truncate(path, len(whole) + kept)  # a full disk has room for that, and not for another copy
    lines = enumerate(whole[: whole.rfind(b"\n") + 1].split(b"\n"), 1)
    return [_object(path, number, line) for number, line in lines if line.strip()]


def _object(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise RunError(f"{path}:{number}: the line is damaged; take it out, and the same command goes on")
    return found


def check_complete(answers: Answers, questions: Sequence[Question]) -> None:
    """Every model has answered every turn.

    Raises:
        DataError: naming what is missing.
    """
    for model, given in answers.items():
        missing = [q.id for q in questions if q.id not in given or len(given[q.id].turns) < len(q.turns)]
        if missing:
            some = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
            raise DataError(
                f"{model}: answers to {len(missing)} of {len(questions)} questions are missing or too short "
                f"(question {some}); give all answers, or questions=<file> with those that were asked"
            )
