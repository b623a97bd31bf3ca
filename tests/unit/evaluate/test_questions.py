"""Files of questions and answers: what is odd is refused by its place, and nothing of it is dropped."""

import json
from pathlib import Path
from typing import Any

import pytest

from vicuna_lit.config.evaluate import FolderSource
from vicuna_lit.evaluate.answers import read_answers
from vicuna_lit.evaluate.generate import Model
from vicuna_lit.evaluate.questions import read_questions
from vicuna_lit.records.conversation import DataError
from vicuna_lit.run_folder import RunError


def row(**fields: Any) -> str:
    return json.dumps({"question_id": 1, "category": "a", "turns": ["x"]} | fields)


def test_marks_line_ends_and_numbers_of_other_programs(tmp_path: Path):
    file = tmp_path / "question.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + f"{row()}\r\n{row(question_id=2.0)}\r\n".encode())
    assert [question.id for question in read_questions(file)] == ["1", "2"]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([row(), row(question_id="1")], "2: question_id 1 occurs twice"),
        ([row(question_id={"a": 1})], "1: question_id is a text or a whole number, not \"{'a': 1}\""),
        ([row(question_id=" ")], "question_id is a text"),
        ([row(category=["a"])], "category is a text"),
        ([row(category=None)], "the field category is missing"),
        (
            ['{"question": "2 + 2?"}'],
            'fields question_id and category are missing; it has question; a question is {"qu',
        ),
        ([row(turns=["a", " "])], "question 1 has an empty turn"),
        ([row(turns=["\ud800"])], "no question can be read"),
        ([row(reference=["r"], turns=["a", "b"])], "question 1 has 2 turns and 1 references"),
    ],
)
def test_odd_questions(lines: list[str], said: str, tmp_path: Path):
    (tmp_path / "question.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataError) as error:
        read_questions(tmp_path)
    assert said in str(error.value)


def test_odd_answers_and_references(tmp_path: Path):
    file = tmp_path / "a.jsonl"
    for odd, said in (
        ({"choices": {"turns": ["a"]}}, "choices is no list of"),
        ({"choices": ["a"]}, "choices is no list of"),
        ({"choices": [{"turns": [1]}]}, "a text or a list of texts"),
        ({"text": "a", "question_id": True}, "question_id is a text or a whole number"),
    ):
        file.write_text(json.dumps({"question_id": 1} | odd))
        with pytest.raises(DataError, match=said):
            read_answers(file)
    for nothing in ("", "[]", "\n"):
        file.write_text(nothing)
        with pytest.raises(DataError, match=r"a\.jsonl: holds no answer"):
            read_answers(file)
    (tmp_path / "q").mkdir()
    (tmp_path / "q/question.jsonl").write_text(row())
    (tmp_path / "q/reference_answer").mkdir()
    for name in ("gpt-4", "human"):
        given = {"question_id": 1, "choices": [{"turns": [name]}]}
        (tmp_path / f"q/reference_answer/{name}.jsonl").write_text(json.dumps(given))
    with pytest.raises(DataError, match="question 1 has a reference before this one; leave one file"):
        read_questions(tmp_path / "q")


def test_a_damaged_line_of_what_was_kept_is_named(tmp_path: Path):
    file = tmp_path / "answers.jsonl"
    model = Model("a", FolderSource(kind="folder", path="x"), file)
    whole = b'{"model": "a", "question_id": "1", "turns": ["x"], "id": "", "cut": 0}\n'
    file.write_bytes(whole + b"\n" + whole[:9])  # a stop has cut the last one
    assert list(model.answered()) == ["1"] and file.read_bytes() == whole + b"\n"
    for odd, said in (
        (b'{"model": "a", \0\0\n', r"answers\.jsonl:2: the line is damaged; take it out"),
        (b"[1]\n", r"answers\.jsonl:2: the line is damaged"),
        (b'{"model": "a"}\n', r"answers\.jsonl: a line is no answer of this command"),
    ):
        file.write_bytes(whole + odd + whole)
        with pytest.raises(RunError, match=said):
            model.answered()
