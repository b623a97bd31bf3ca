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


def visible(text: str) -> str:
    """A text from outside that cannot steer a terminal: colours, titles, the cursor, or lines that are written over."""
    return text.replace("\r\n", "\n").translate(CONTROL | {0x0D: 0x240D}).encode(errors="replace").decode()


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
