"""What a field says by its name, also one that no tool known here writes: what is trained, and what is in no turn.

A field of which the name says that it decides about the loss, or holds a thought, tools or what an answer was drawn
from, is read where it is known and refused by its name elsewhere; it is never passed over.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from vicuna_lit.records.exports import Unusable
from vicuna_lit.records.fields import filled, is_absent, loaded

FLAGS = (
    "weight", "train", "loss", "loss_mask", "trainable", "training", "train_on_turn", "supervised", "step_loss_mask",
    "loss_weight", "is_train", "is_trainable", "compute_loss", "calculate_loss", "need_loss", "with_loss",
    "output_with_loss", "learnable",
)  # fmt: skip
"""By which tools take a turn out of the loss (OpenAI, axolotl, ms-swift, XTuner and others): false or 0 does. `weight`
and `loss_weight` may be any number."""
NUMBERS = ("weight", "loss_weight")
INVERSE = (
    "masked", "is_masked", "no_loss", "ignore_loss", "skip_loss", "mask_loss", "exclude_from_loss",
    "exclude_from_training", "ignore_in_loss", "no_train",
)  # fmt: skip
"""Flags that take a turn out of the loss where they are true."""
PARTLY = ("train_detail", "training_detail", "loss_scale", "token_weights", "loss_weights")
"""Weights of parts of a turn, which nothing here reads; a single number is the turn's."""
BAD = (
    "label", "kto_tag", "is_correct", "is_safe", "resolved", "is_resolved", "correct", "success", "is_success",
    "passed", "is_passed", "solved", "is_solved", "review_result",
)  # fmt: skip
"""Flags of an answer that is not to be imitated, where they are false."""
REASONING = (
    "reasoning_content", "reasoning", "thinking", "thought", "thoughts", "tool_plan", "thinking_blocks",
    "reasoning_details", "thinking_trace",
)  # fmt: skip
"""The first that holds anything: some tools write the same thought as a text and as blocks."""
_ELSEWHERE = ("previous_response_id", "cached_content")
"""Names of what a request went on from, which is in another place."""
_WEIGHTS = ("loss_weight", "sample_weight", "example_weight", "instance_weight")
_OF_RECORD = frozenset((*BAD, *_WEIGHTS, *_ELSEWHERE, *FLAGS, *INVERSE, "mask")) - {"weight"}
_SAYS_MEDIA = re.compile(
    r"(?:(?:input|decoded|original|raw|question|query|user)_)?(?:images?|imgs?|pictures?|photos?|videos?|audios?|media"
    r"|pixel_values|attachments_media)(?:_(?:paths?|files?|urls?|uris?|ids?|bytes|data|list|b64|base64))?"
)
"""Not `image_name` and `docker_image`, which the sets of programming have."""
_SAYS_ANSWER = re.compile(
    r"(?:response|answer|output|completion|solution|reply)s?_?(?:[a-e]|\d+)"
    r"|(?:bad|negative|worse|wrong|incorrect|losing|dispreferred|non_preferred)_(?:response|answer|output|completion|reply)"
)
"""Of one more answer to the same question."""
_NO_EXAMPLE = "an answer that is not to be imitated; to train on it take the field out"
_EACH_TURN = "give each turn a weight of its own, or train on all replies: take the field out, or name data.columns"
_NO_LOSS = "say weight: 0, which keeps the record; to train on it take the field out"
_LONGEST = 80
_COUNTS = ("correct", "success", "passed", "solved")
"""Of those flags the ones of which a 0 may be a number of something."""
_BAD_WORDS = ("unsafe", "harmful", "undesirable", "rejected", "incorrect", "wrong")
_SAYS_LOSS = re.compile(
    r"(?:^|_)(?:loss|losses|masks?|masked|train|trained|training|trainable|supervised?|weights?)(?:_|$)"
)
_OF_TOKENS = re.compile(r"(?:loss|completion|assistant|response|token|label|train)s?_(?:masks?|weights?)|weights")
"""Fields of a record that hold a number for each turn or token."""
_SAYS_THOUGHT = re.compile(
    r"(?:\w+_)?(?:reasoning|thinking|think|thoughts?|chain_of_thought|cot|rationale)"
    r"(?:_(?:content|text|traces?|process|steps?|details|blocks|output|summary|trajector(?:y|ies)))*"
)
_RESULTS = (
    r"(?:\w+_)?(?:search|web|retrieval|retrieved|grounding|source|reference)_(?:\w+_)?"
    r"(?:results?|documents?|docs?|contexts?|passages?|chunks?|nodes?|supports?)"
    r"|(?:\w+_)?(?:search|retrieval|grounding)_(?:\w+_)?metadata"
    r"|retrieved_(?!(?:at|on|date|datetime|time|timestamp|from|by|via|count)(?:_|$))\w+"
)
"""Not `source_metadata` and `retrieved_at`: where a record comes from, and since when it is there."""
_SAYS_RESULTS = re.compile(_RESULTS)
_SAYS_SOURCE = re.compile(f"{_RESULTS}|quotes|canvas|references|citation_metadata")
_CITED = ("citation", "_location")
"""How the types of marks end that say what an answer was drawn from, OpenAI's and Anthropic's."""
_SAYS_TOOLS = re.compile(
    r"(?:\w+_)?(?:tools?|functions?|apis?)(?:_(?:list|definitions?|schemas?|specs?|descriptions?))?"
)


@lru_cache(maxsize=4096)
def snake(key: str) -> str:
    """A name as Python writes it: `toolCallId` → `tool_call_id`."""
    return re.sub(r"(?<=[a-z0-9])[A-Z]", lambda found: f"_{found[0]}", key).lower() if key[:1].islower() else key


def _says(found_in: Callable[[str], Any], key: str) -> bool:
    """Whether a pattern is found; a text that stands where a name should is none, and would take long."""
    return len(key) < _LONGEST and found_in(key) is not None


@lru_cache(maxsize=4096)
def loss_sign(key: str) -> str | None:
    """What a field of a message does to the loss: `flag`, `number`, `inverse`, `partly`, `unknown`; None: nothing."""
    for sign, names in (("number", NUMBERS), ("flag", FLAGS), ("inverse", INVERSE), ("partly", PARTLY)):
        if key in names:
            return sign
    return "unknown" if _says(_SAYS_LOSS.search, key) else None


@lru_cache(maxsize=4096)
def says_thought(key: str) -> bool:
    """Whether a field holds what an assistant thought, and no figure or setting of it."""
    return _says(_SAYS_THOUGHT.fullmatch, key)


@lru_cache(maxsize=4096)
def says_source(key: str) -> bool:
    """Whether a field holds what an answer was drawn from."""
    return _says(_SAYS_SOURCE.fullmatch, key)


def refuse_cited(said: dict[str, Any], where: str) -> None:
    """
    Raises:
        Unusable: marks in a message or part say that it was drawn from a search or a file.
    """
    for key in ("annotations", "citations"):
        marks = said.get(key)
        for mark in marks if isinstance(marks, list) else ():
            if isinstance(mark, dict) and str(mark.get("type")).endswith(_CITED):
                raise Unusable(
                    "context beside the turns",
                    f"{where}: {key}: the answer is drawn from what is in no turn; put it there, or take the field out",
                )


def refuse_sources(said: dict[str, Any], where: str) -> None:
    """
    Raises:
        Unusable: a field says by its name that it is what the answer was drawn from.
    """
    for key in said:
        if says_source(snake(key)) and filled(said, key):
            raise Unusable(
                "context beside the turns", f"{where}: {key} is in no turn; put it there, or take the field out"
            )


@lru_cache(maxsize=1024)
def signs_in(keys: tuple[Any, ...]) -> tuple[str, ...]:
    """Those keys of a record that its verdict, loss or tools may stand in."""
    names = [(key, snake(key).lower()) for key in keys if isinstance(key, str) and len(key) < _LONGEST]
    patterns = (_OF_TOKENS, _SAYS_TOOLS)
    return tuple(
        key
        for key, name in names
        if name in _OF_RECORD or name.endswith("label") or any(pattern.fullmatch(name) for pattern in patterns)
    )


@lru_cache(maxsize=4096)
def signs_of_turn(keys: tuple[str, ...]) -> tuple[str, ...]:
    """Those keys of a message, in snake_case, that say more than who says what."""
    known = ("tools", "functions", *BAD)
    return tuple(k for k in keys if k in known or says_source(k) or (says_thought(k) and k not in REASONING))


@lru_cache(maxsize=1024)
def thoughts_in(keys: tuple[Any, ...]) -> tuple[str, ...]:
    """Those columns that hold the way to an answer, by their names."""
    return tuple(k for k in keys if isinstance(k, str) and (k.lower() == "explanation" or says_thought(k.lower())))


@lru_cache(maxsize=4096)
def media_in(keys: tuple[Any, ...]) -> tuple[str, ...]:
    """Those keys of a record or message that hold pictures, films or sounds, or say where they are."""
    return tuple(k for k in keys if isinstance(k, str) and _says(_SAYS_MEDIA.fullmatch, snake(k)))


@lru_cache(maxsize=1024)
def answers_in(keys: tuple[Any, ...]) -> tuple[str, ...]:
    """Those columns that hold one more answer by their names: numbered ones, and worse ones."""
    return tuple(k for k in keys if isinstance(k, str) and _says(_SAYS_ANSWER.fullmatch, snake(k).lower()))


@lru_cache(maxsize=1024)
def contexts_in(keys: tuple[Any, ...]) -> tuple[str, ...]:
    """Those keys of a record with turns that hold what the turns may be about, or drawn from."""
    names = ("context", "contexts", "instructions", "passage", "passages")
    return tuple(k for k in keys if isinstance(k, str) and (k in names or _says(_SAYS_RESULTS.fullmatch, snake(k))))


def as_flag(value: Any) -> Any:
    """A flag that tables hold as a text; another value as it is."""
    return {"true": True, "false": False}.get(value.strip().lower(), value) if isinstance(value, str) else value


def is_bad(name: str, value: Any) -> bool:
    """Whether a flag says that an answer is not to be imitated."""
    value = as_flag(value)
    return name in BAD and (value is False or (name not in _COUNTS and isinstance(value, int | float) and value == 0))


def refuse_by_flags(record: dict[str, Any]) -> None:
    """
    Raises:
        Unusable: a record's own flags say that it is not to be imitated or trained on, or weigh its turns apart.
    """
    for key in signs_in(tuple(record)):
        name, value = snake(key).lower(), as_flag(record[key])
        if is_absent(value):
            continue
        is_no, said = value is False or (value == 0 and isinstance(value, int | float)), str(value).lower()
        if is_bad(name, value):
            other = "" if isinstance(value, bool) else ", as where 0 is a class"
            raise Unusable("bad answer", f"{key} is {said}: {_NO_EXAMPLE}{other}")
        if name.endswith("label") and not name.startswith("prompt") and str(value).strip().lower() in _BAD_WORDS:
            raise Unusable("bad answer", f"{key} is {value}: {_NO_EXAMPLE}")
        if name in _ELSEWHERE and value:
            raise Unusable("context beside the turns", f"{key}: what was said before is in another place")
        if isinstance(value, list) and value and (loss_sign(name) or _OF_TOKENS.fullmatch(name)):
            raise Unusable("weights within a turn", f"{key} is a list; {_EACH_TURN}")
        if (name in INVERSE and value is True) or (name in FLAGS and name != "weight" and is_no):
            raise Unusable("record out of the loss", f"{key} is {said}; {_NO_LOSS}")
        if name in _WEIGHTS and value != 1:
            raise Unusable("record out of the loss", f"{key}: call it weight, which multiplies those of the turns")
        if name == "mask" and str(value).strip().lower() not in ("user", "human", "prompter", "prompt", "true"):
            why = "it does not say that replies alone are trained; take the field out"
            raise Unusable("loss on another's turn", f"{key} is {value!r:.40}: {why}")


def other_tools(record: dict[str, Any], known: tuple[str, ...]) -> str | None:
    """The first key with schemas of tools that is none of those that are read."""
    for key in signs_in(tuple(record)):
        if key not in known and _SAYS_TOOLS.fullmatch(snake(key).lower()) and are_schemas(record[key]):
            return key
    return None


def are_schemas(value: Any) -> bool:
    """Whether a value is a list of descriptions of tools, also as JSON."""
    tools = loaded(value, list) if isinstance(value, str) else value
    if not isinstance(tools, list) or not tools:
        return False
    inner = [tool.get("function", tool) if isinstance(tool, dict) else None for tool in tools]
    described = ("parameters", "input_schema", "inputSchema", "description")
    return all(isinstance(t, dict) and "name" in t and any(k in t for k in described) for t in inner)
