"""Pages that are one file: they load nothing, run nothing, and escape every text."""

from collections.abc import Callable
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from vicuna_lit.config.base import PACKAGE

CONTROL = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n\r"}


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
