"""The fields of a record: which are there, and that they are what they should be."""

import json
import math
from typing import Any

from vicuna_lit.records.exports import Unusable, kind_of


def is_absent(value: Any) -> bool:
    """Null, or the NaN that a column of a merged set has where a record lacks it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def present(record: dict[str, Any], *keys: str) -> str | None:
    """The first of some keys that the record has, with something in it."""
    for key in keys:  # a loop, and what is in the record alone: a record is asked a hundred times
        if key in record and not is_absent(record[key]):
            return key
    return None


def filled(record: dict[str, Any], *keys: str) -> str | None:
    """The first of some keys that holds more than an empty text, list or object."""
    for key in keys:
        if key in record and not is_absent(record[key]) and record[key] not in ("", [], {}):
            return key
    return None


def loaded(value: Any, kind: Any) -> Any:
    """JSON of a kind in a text; None where it is none."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return None
    try:
        loaded = json.loads(value)
    except (ValueError, RecursionError):
        return None
    return loaded if isinstance(loaded, kind) else None


def as_json(value: Any, where: str) -> str:
    """As chat templates write it.

    Raises:
        Unusable: it is no JSON, such as NaN.
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise Unusable("wrong type", f"{where}: {error}") from None


def text(value: Any, where: str) -> str:
    """A text that can be written and tokenised.

    Raises:
        Unusable: it is none.
    """
    if not isinstance(value, str):
        raise Unusable("wrong type", f"{where} is {kind_of(value)}, not text")
    if "\0" in value:
        raise Unusable("NUL byte", f"{where} holds a NUL byte")
    try:
        _ = value.isascii() or value.encode()
    except UnicodeEncodeError:
        raise Unusable("invalid Unicode", f"{where} holds half a surrogate pair") from None
    return value
