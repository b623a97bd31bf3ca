"""The value of a column as messages: an answer in any form that servers and sets give it, and lists of exchanges."""

import re
from typing import Any

from vicuna_lit.records.exports import Unusable
from vicuna_lit.records.field_names import refuse_sources
from vicuna_lit.records.fields import filled, loaded, present, text
from vicuna_lit.records.message_forms import refuse_cut_off

PAIRS = (
    ("input", "output"), ("human", "assistant"), ("user", "assistant"), ("user", "bot"), ("question", "answer"),
    ("prompt", "response"), ("query", "response"), ("instruction", "output"),
)  # fmt: skip
"""The keys of a question and its answer in lists of exchanges."""
_SPOKEN = re.compile(r"^[^\S\n]*(?:Human|User)[^\S\n]*[:：]", re.MULTILINE)
_OPEN_END = re.compile(r"\n\s*(?:Assistant|AI|Bot)\s*[:：]$")
_RENDERED = re.compile(
    r"(?:<\|im_start\|>assistant|\[/INST\]|<start_of_turn>model"
    r"|<\|start_header_id\|>assistant<\|end_header_id\|>|<\|assistant\|>|<｜Assistant｜>)$"
)
"""Of a question that is a conversation so far, as BELLE's, HH's and HelpSteer's are, or that a template has rendered;
of its end the last characters are looked at, for the time must not grow faster than the text does."""
_END = 80


def answer_messages(answer: Any, where: str) -> list[dict[str, Any]]:
    """An answer as messages: a text, a message, a list of messages, or what a server answers, also as JSON.

    Raises:
        Unusable: it is none, several to choose from, or was cut off.
    """
    answer, where = _out_of_response(answer, where)
    if is_message(answer):
        return [answer]
    if isinstance(answer, list) and answer and all(isinstance(one, dict) for one in answer):
        return list(answer)
    if isinstance(answer, list) and answer:
        raise Unusable("several answers", f"{where} is a list of {len(answer)}; {where}.0 names the first")
    return [{"role": "assistant", "content": text(answer, where)}]


def _out_of_response(answer: Any, where: str) -> tuple[Any, str]:
    """The messages in a server's answer, and where they stand; anything else as it is.

    Raises:
        Unusable: there are several to choose from, or it was cut off.
    """
    served: Any = loaded(answer, dict) if isinstance(answer, str) else answer
    if key := served_key(served):
        refuse_cut_off(served, where, "status")
        answer, where = served[key], f"{where}.{key}"
    if not isinstance(answer, list) or not answer or not all(isinstance(one, dict) for one in answer):
        return answer, where
    choices = [one.get("message", one.get("content") if is_message(one.get("content")) else None) for one in answer]
    if None in choices:
        return answer, where
    if len(choices) > 1:
        raise Unusable("several answers", f"{where}: {len(choices)} choices; keep one")
    refuse_cut_off(answer[0], where)
    refuse_sources(answer[0], where)
    return choices[0], where


_KEYS_SERVED = {"choices": list, "candidates": list, "output": list, "message": dict}
"""Where OpenAI's, Google's, the Responses API's and Ollama's answers hold what was said."""


def served_key(answer: Any) -> str | None:
    """The key of a server's answer that holds its messages; None: it is none."""
    if not isinstance(answer, dict) or present(answer, "role", "from"):
        return None
    for key, kind in _KEYS_SERVED.items():
        held = answer.get(key)
        if held and isinstance(held, kind) and (is_message(held) or all(isinstance(one, dict) for one in held)):
            return key
    return None


def refuse_served_cut_off(served: Any, where: str) -> None:
    """
    Raises:
        Unusable: a server's answer, as it stands beside the turns that hold it, was cut off.
    """
    if key := served_key(served):
        held = served[key] if isinstance(served[key], list) else [served]
        for one in (served, *held):
            refuse_cut_off(one, f"{where}.{key}")


def is_message(answer: Any) -> bool:
    """Whether it says who speaks."""
    return isinstance(answer, dict) and present(answer, "role", "from", "kwargs") is not None


def as_messages(turns: Any) -> Any:
    """A list of texts (the user's first), of exchanges, or an object of columns, as messages; others as they are."""
    if isinstance(turns, dict) and turns.keys() & {"role", "from"} and all(isinstance(c, list) for c in turns.values()):
        if len({len(column) for column in turns.values()}) > 1:
            raise Unusable("wrong type", f"{' and '.join(map(repr, turns))} are not of one length")
        return [dict(zip(turns, row, strict=True)) for row in zip(*turns.values(), strict=True)]
    if not isinstance(turns, list) or not turns:
        return turns
    if all(isinstance(one, str) for one in turns):
        return [{"role": ("user", "assistant")[number % 2], "content": one} for number, one in enumerate(turns)]
    if all(isinstance(one, list) and len(one) == 2 and all(isinstance(side, str) for side in one) for one in turns):
        return as_messages([side for one in turns for side in one])
    first = turns[0]
    for question, answer in [pair for pair in PAIRS if isinstance(first, dict) and pair[0] in first]:
        if all(isinstance(one, dict) and {question, answer} <= one.keys() and "role" not in one for one in turns):
            return [message for one in turns for message in _exchange(one, question, answer)]
    return turns


def _exchange(one: dict[str, Any], question: str, answer: str) -> list[dict[str, Any]]:
    system = [{"role": "system", "content": one["system"]}] if filled(one, "system") else []
    flags = {key: value for key, value in one.items() if key not in (question, answer, "system")}
    reply = {**flags, "role": "assistant", "content": one[answer]}
    return [*system, {"role": "user", "content": one[question]}, reply]


def refuse_transcript(question: str) -> None:
    """
    Raises:
        Unusable: a question is a conversation so far in one text.
    """
    end = question.rstrip()[-_END:]
    is_open = end[-1:] in (":", "：") and _OPEN_END.search(end) and _SPOKEN.search(question)
    if is_open or _RENDERED.search(end) or "<extra_id_1>Assistant\n" in question or "<extra_id_1>User\n" in question:
        why = "the question ends as a transcript or a rendered template does"
        raise Unusable("several turns in one text", f"{why}; make it a list of messages")
