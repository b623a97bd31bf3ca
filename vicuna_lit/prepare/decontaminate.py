"""Decontamination: conversations in which a user asks a question of the evaluation are dropped.

Questions in other words are reported, not dropped: by the cosine of their words, each weighted by how few questions
hold it (idf; Salton and Buckley 1988).
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path

import orjson

from vicuna_lit.config.prepare import DecontaminationConfig
from vicuna_lit.records.conversation import Conversation, DataError, Rejection

WORD = re.compile(r"[぀-ヿ㐀-鿿가-힯]|[^\W_]+")
"""A word, or one character of a script without blanks."""
_WORDS = bytes(ord(chr(i).lower()) if chr(i).isalnum() else 32 for i in range(128)) + b" " * 128
RARE, FEWEST, MOST = 0.1, 2, 200
"""A question is compared with a turn where they share so many words that at most this share of the questions hold; and
different words of a turn that may be a question."""
CERTAINLY = 0.999
"""Of a bound below which nothing is computed exactly: more than the error of a sum."""
PARAPHRASE = "paraphrase: "
"""Opens the tally's entry for a question that a user asks in other words."""


@dataclass(frozen=True)
class Questions:
    """The n-grams of all questions: which questions each belongs to, and how many each question has."""

    grams: dict[str, list[tuple[tuple[str, ...], list[int]]]]
    """Each with the questions that hold it, by the rarest of its words; a question shorter than `ngram` words is one
    gram of its own length."""
    sizes: tuple[int, ...]
    names: tuple[str, ...]
    squares: dict[str, float]
    """Squared weights of the words that any question holds."""
    unknown: float
    """That of any other word."""
    words: tuple[frozenset[str], ...]
    """Of each question."""
    weights: tuple[float, ...]
    """The sum of the squares of each question's words."""
    holding: dict[str, list[int]]
    """The questions that hold a word, for the words that few hold."""


def read_questions(files: Sequence[Path], ngram: int) -> Questions:
    """Reads JSONL with `text` or `turns` (vicuna_bench, MT-bench).

    Raises:
        DataError: a line is neither.
    """
    grams: dict[tuple[str, ...], list[int]] = defaultdict(list)
    sizes, names, held_by = [], [], []
    for name, words in _turns(files):
        length = min(ngram, len(words))
        unique = {tuple(words[k : k + length]) for k in range(len(words) - length + 1)}
        for gram in unique:
            grams[gram].append(len(sizes))
        sizes.append(len(unique))
        held_by.append(frozenset(words))
        names.append(name)
    held = Counter(word for words in held_by for word in words)
    squares = {word: math.log(1 + len(names) / n) ** 2 for word, n in held.items()}
    holding = {
        word: [q for q, words in enumerate(held_by) if word in words]
        for word, n in held.items()
        if n <= max(1, RARE * len(names))
    }
    unknown = math.log(1 + len(names)) ** 2
    by_rarest = defaultdict(list)
    for gram, of in grams.items():
        by_rarest[min(gram, key=lambda word: (held[word], word))].append((gram, of))
    weights = tuple(math.fsum(squares[word] for word in words) for words in held_by)
    return Questions(dict(by_rarest), tuple(sizes), tuple(names), squares, unknown, tuple(held_by), weights, holding)


def _turns(files: Sequence[Path]) -> Iterator[tuple[str, list[str]]]:
    """What each turn is called, and its words; turns without any are left out."""
    for file in files:
        for number, line in enumerate(file.read_bytes().splitlines(), 1):
            if not line.strip():
                continue
            try:
                record = orjson.loads(line)
                texts = [record["text"]] if "text" in record else record["turns"]
                asked = [words_of(text) for text in texts]
            except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
                raise DataError(
                    f"{file.name}, line {number}: not a question; expected JSON with text or turns"
                ) from None
            question = record.get("question_id", f"{file.name}:{number}")
            yield from ((f"{question}, turn {turn}", words) for turn, words in enumerate(asked, 1) if words)


def words_of(text: str) -> list[str]:
    """The words of a text in small letters."""
    if not text.isascii():
        for c in set(text):  # mostly quotation marks, dashes and the like
            if not (c.isascii() or c.isalnum()):
                text = text.replace(c, " ")
    if text.isascii():  # the same, five times as fast
        return text.encode().translate(_WORDS).decode().split()
    return WORD.findall(text.lower())


def in_other_words(said: set[str], known: set[str], questions: Questions, least: float) -> tuple[int, float] | None:
    """The question that the words of a turn are most like, and how much; None: less than the least.

    Args:
        said: the words of the turn.
        known: those of them that any question holds.
    """
    if len(said) > MOST:
        return None
    squares, unknown = questions.squares, questions.unknown
    others = (len(said) - len(known)) * unknown
    if sum(map(squares.__getitem__, known)) * (1 - least**2) < CERTAINLY * least**2 * others:
        return None  # what no question says outweighs all that one could share
    shared = Counter(chain.from_iterable(map(questions.holding.__getitem__, known & questions.holding.keys())))
    near = [q for q, n in shared.items() if n >= FEWEST]
    if not near:
        return None
    size = math.fsum(chain(map(squares.__getitem__, known), repeat(unknown, len(said) - len(known))))

    def cosine(q: int) -> float:
        common = math.fsum(map(squares.__getitem__, questions.words[q] & known))
        return common / math.sqrt(size * questions.weights[q])

    similarity, best = max((cosine(q), -q) for q in near)
    return (-best, similarity) if similarity >= least else None


def decontaminate(
    conversation: Conversation, config: DecontaminationConfig, questions: Questions, tally: Counter[str]
) -> Conversation | Rejection:
    """Rejects a conversation in which a user's turn holds enough of a question's n-grams; where none does, the tally
    names the turns that ask one in other words."""
    listed: Counter[str] = Counter()
    for i, turn in enumerate(conversation.turns):
        if turn.role != "user":
            continue
        words = words_of(turn.content)
        said = set(words)
        known = said & questions.squares.keys()
        counts: dict[int, tuple[int, int]] = {}
        for gram, of in _grams(words, known, questions):
            for question in of:
                counts[question] = counts.get(question, (0, 0))[0] + 1, len(gram)
        for question, (count, length) in sorted(counts.items()):
            overlap = count / questions.sizes[question]
            incidental = questions.sizes[question] == 1 and len(words) > 2 * length  # a short one in a long turn
            if overlap >= config.min_overlap and not incidental:
                detail = f"turn {i + 1} holds {overlap:.0%} of question {questions.names[question]}"
                return Rejection(conversation.id, "asks an evaluation question", detail)
        least = config.report_similarity
        if least is not None and (found := in_other_words(said, known, questions, least)):
            listed[f"{PARAPHRASE}turn {i + 1} is like question {questions.names[found[0]]}: {found[1]:.2f}"] += 1
    tally.update(listed)
    return conversation


def _grams(words: list[str], known: set[str], questions: Questions) -> Iterator[tuple[tuple[str, ...], list[int]]]:
    """The n-grams of questions that stand in a turn. Only those of which it holds every word are looked for."""
    near = [
        pair for word in known & questions.grams.keys() for pair in questions.grams[word] if known.issuperset(pair[0])
    ]
    if near:
        text = f" {' '.join(words)} "
        yield from (pair for pair in near if f" {' '.join(pair[0])} " in text)
