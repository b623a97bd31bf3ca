"""The date that a chat template writes: one for all starts of a run."""

import datetime
import re
from collections.abc import Iterable, Mapping
from typing import Any

from vicuna_lit.data.chat_template import TemplateError
from vicuna_lit.paths import own_template

NOW = "strftime_now"
"""Transformers' function of today's date, as templates call it."""
_CALL = re.compile(rf"""\b{NOW}\(\s*(['"])((?:(?!\1).)*)\1\s*\)""")


def fixed_date(given: str | None, saved: Mapping[str, Any] | None, models: Iterable[str | None] | None) -> str | None:
    """The date for this start: as given, that of the first start, or today; None where no template writes any.

    Args:
        saved: `config.json` of the first start; None: this is it.
        models: folders whose own templates are used; None: the template is one of ours, and writes it.
    """
    if given is not None:
        return given
    if saved is not None:
        return saved.get("template_date")
    if models is None or any(NOW.encode() in own_template(path) for path in models if path):
        return datetime.datetime.now().date().isoformat()
    return None


def dated(template: str, date: str | None) -> dict[str, str]:
    """Arguments of `apply_chat_template` with which a template writes one date, whatever the day; none where it writes
    none, or its own.

    Raises:
        TemplateError: it makes the form of the date while it is rendered.
    """
    day = datetime.datetime.fromisoformat(date) if date else datetime.datetime.now()
    fixed = {"date_string": day.strftime("%d %b %Y")} if date and "date_string" in template else {}
    if NOW not in template:
        return fixed
    text = _CALL.sub(lambda call: repr(day.strftime(call[2])), template)
    if f"{NOW}(" in text:
        raise TemplateError(
            "the tokenizer's chat template writes the date in a form that is not a plain text, so it cannot be fixed; "
            "choose one of conf/template"
        )
    return {"chat_template": text, **fixed}
