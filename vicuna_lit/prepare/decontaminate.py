"""Decontamination: conversations in which a user asks a question of the evaluation are dropped."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from vicuna_lit.config.prepare import DecontaminationConfig
from vicuna_lit.data.conversation import Conversation, DataError, Rejection

WORD = re.compile(r"[぀-ヿ㐀-鿿가-힯]|[^\W_]+")
"""A word, or one character of a script without blanks."""


@dataclass(frozen=True)
class Questions:
    """The n-grams of all questions: which questions each belongs to, and how many each question has."""

    grams: dict[int, dict[tuple[str, ...], list[int]]]
    """By length, since a question shorter than `ngram` words is one gram of its own length."""
    sizes: tuple[int, ...]
    names: tuple[str, ...]


def read_questions(files: Sequence[Path], ngram: int) -> Questions:
    """Reads JSONL with `text` or `turns` (vicuna_bench, MT-bench).

    Raises:
        DataError: a line is neither.
    """
    grams: dict[int, dict[tuple[str, ...], list[int]]] = defaultdict(lambda: defaultdict(list))
    sizes, names = [], []
    for file in files:
        for number, line in enumerate(file.read_bytes().splitlines(), 1):
            if not line.strip():
                continue
            try:
                record = orjson.loads(line)
                texts = [record["text"]] if "text" in record else record["turns"]
                asked = [WORD.findall(text.lower()) for text in texts]
            except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
                raise DataError(
                    f"{file.name}, line {number}: not a question; expected JSON with text or turns"
                ) from None
            for i, words in enumerate(w for w in asked if w):
                length = min(ngram, len(words))
                unique = {tuple(words[k : k + length]) for k in range(len(words) - length + 1)}
                for gram in unique:
                    grams[length][gram].append(len(sizes))
                sizes.append(len(unique))
                names.append(f"{record.get('question_id', f'{file.name}:{number}')}, turn {i + 1}")
    return Questions({n: dict(g) for n, g in grams.items()}, tuple(sizes), tuple(names))


def decontaminate(
    conversation: Conversation, config: DecontaminationConfig, questions: Questions
) -> Conversation | Rejection:
    """Rejects a conversation in which a user's turn holds enough of a question's n-grams."""
    for i, turn in enumerate(conversation.turns):
        if turn.role != "user":
            continue
        words = WORD.findall(turn.content.lower())
        for length, grams in questions.grams.items():
            found = grams.keys() & set(zip(*(words[k:] for k in range(length)), strict=False))
            counts: dict[int, int] = defaultdict(int)
            for gram in found:
                for question in grams[gram]:
                    counts[question] += 1
            for question, count in sorted(counts.items()):
                overlap = count / questions.sizes[question]
                incidental = questions.sizes[question] == 1 and len(words) > 2 * length  # a short one in a long turn
                if overlap >= config.min_overlap and not incidental:
                    detail = f"turn {i} holds {overlap:.0%} of question {questions.names[question]}"
                    return Rejection(conversation.id, "asks an evaluation question", detail)
    return conversation
