"""Pages that are one file: they load nothing, run nothing, and escape every text."""

from collections.abc import Callable
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from vicuna_lit.config.base import PACKAGE

CONTROL: dict[int, int | str] = {
    **{code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n\r"},
    0x7F: 0x2421,
    **{code: f"\\x{code:02x}" for code in range(0x80, 0xA0)},
}
"""Characters that are seen nowhere, and which terminals obey, as pictures of themselves."""

PLURALS = {
    "copies": "copy",
    **{
        f"{word}s": word
        for word in (
            "answer", "conversation", "epoch", "example", "exchange", "file", "job", "line", "piece", "question",
            "record", "review", "start", "step", "token", "turn",
        )
    },
}  # fmt: skip
"""What is counted here, and its singular."""


def visible(text: str) -> str:
    """A text from outside that cannot steer a terminal: colours, titles, the cursor, or lines that are written over."""
    return text.replace("\r\n", "\n").translate(CONTROL | {0x0D: 0x240D}).encode(errors="replace").decode()


def counted(count: float, what: str) -> str:
    """A number before what it counts: `2,000 turns cut`, `1 turn cut`. The first word may be a plural."""
    figure = f"{count:,}" if isinstance(count, int) else f"{count:g}"
    first, space, rest = what.partition(" ")
    return f"{figure} {PLURALS.get(first, first) if count == 1 else first}{space}{rest}"


def render_page(template: str, filters: dict[str, Callable[..., str]], **values: Any) -> str:
    """Fills a template of the package, named as `train/report.html.jinja`; `page.html.jinja` is its frame."""
    environment = Environment(
        loader=FileSystemLoader(PACKAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters)
    page = environment.get_template(template).render(values)
    # A text may hold half a surrogate pair, which no file can; control characters become visible.
    return page.translate(CONTROL).encode(errors="replace").decode()
