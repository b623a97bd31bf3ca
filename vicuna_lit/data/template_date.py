"""The date that a chat template writes: one for all starts of a run."""

import datetime
from collections.abc import Iterable, Mapping
from typing import Any

from vicuna_lit.paths import own_template

NOW = "strftime_now"
"""Transformers' function of today's date, as templates call it."""


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
