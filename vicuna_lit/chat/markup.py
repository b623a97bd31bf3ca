"""Texts as HTML that can do nothing: no scripts, no styles, no pictures, no links but to the web.

Markdown is rendered here and not in the browser, so that a literal `<div>` in a reply is shown and not swallowed. All
of it stands on one line: what reads it as markdown again finds one block of HTML.
"""

import html
from functools import cache, lru_cache

import nh3
from markdown_it import MarkdownIt

from vicuna_lit.inference.backend import Sent

TAGS = set(
    "p br hr strong em s code pre blockquote ul ol li h1 h2 h3 h4 h5 h6 a table thead tbody tr th td div span".split()
)
ATTRIBUTES = {"a": {"href"}, "ol": {"start"}, "div": {"class"}, "span": {"class"}}


@cache
def _markdown() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["table", "strikethrough"]).disable("image")


def markdown(text: str) -> str:
    """A model's reply: markdown without HTML or pictures, cleaned once more."""
    clean = nh3.clean(
        _markdown().render(text),
        tags=TAGS,
        attributes=ATTRIBUTES,
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow",
        set_tag_attribute_values={"a": {"target": "_blank"}},
    )
    return _line(f'<div class="said">{clean.strip()}</div>')


@lru_cache(maxsize=512)
def finished(text: str) -> str:
    """The same for a reply that will not grow; a page shows it again with every piece of the next one."""
    return markdown(text)


def plain(text: str, kind: str = "asked") -> str:
    """A text as it was written.

    Args:
        kind: the CSS class.
    """
    return _line(f'<div class="{kind}">{html.escape(text)}</div>')


def sent(name: str, what: Sent) -> str:
    """Exactly what a model was sent: tokens with their ids, or messages."""
    if what.tokens:
        chips = "".join(
            f"<ruby>{html.escape(text).replace(' ', '␣').replace(chr(10), '⏎') or '∅'}<rt>{id}</rt></ruby>"
            for id, text in what.tokens
        )
        head, body = f"{len(what.tokens)} tokens", f'<div class="tokens">{chips}</div>'
    else:
        rows = "".join(f"<dt>{html.escape(m['role'])}</dt><dd>{html.escape(m['content'])}</dd>" for m in what.messages)
        head = f"{len(what.messages)} messages; the server puts them into the model's template"
        body = f'<dl class="messages">{rows}</dl>'
    return _line(f'<section class="sent"><h3>{html.escape(name)}: {head}</h3>{body}</section>')


def _line(text: str) -> str:
    """Newlines as references, which no markdown reader takes for the end of a block."""
    return text.replace("\r", "").replace("\n", "&#10;")
