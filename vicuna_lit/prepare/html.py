"""ChatGPT's page as HTML → the markdown its reader saw.

ShareGPT's extension sent a question as its text and an answer as the `outerHTML` of ChatGPT's
`.markdown` element. What the page added around the answer (code headers, buttons, counters, the drawn
form of formulas) is taken out of the tree as elements, never out of the text: "Copy code" and
"2 / 2" may well be what somebody wrote.
"""

import re
from itertools import islice

from turbohtml import Element, Markdown, Text, escape, parse_fragment

from vicuna_lit.records.conversation import Conversation

_CONTAINER = re.compile(
    r"""\s*<[a-z][\w-]*\s[^>]*?\bclass\s*=\s*["'][^"']*\b(?:markdown|prose|whitespace-pre-wrap)\b""", re.I
)
_HTML = re.compile(r"\b(?:html5?|web ?page|landing page|mark-?up)\b", re.I)
_OPENS_BLOCK = re.compile(
    r"\s*<(?:p|div|pre|h[1-6]|ul|ol|table|blockquote|code-block|response-element|message-content)\b", re.I
)
_TYPED = re.compile(
    r"```"  # somebody's markdown, with HTML in it
    r"|>[ \t]*\r?\n(?:[ \t]*\r?\n|[ \t]+<)"  # laid out by hand
    r"|<!doctype|<(?:html|head|body|title|meta|link|script|style|form|label|select|textarea|nav|header|footer)\b"
    r"|<[a-z][^<>]*\s(?:on[a-z]+|id|name)\s*=(?![\"']?(?:user-content|footnote-label))"  # ids of footnotes
    r"|<[a-z][^<>]*='",  # a browser quotes attributes with "
    re.I,
)

_BLOCKS = "p, li, td, th, dt, dd, pre, blockquote, h1, h2, h3, h4, h5, h6"
_MAY_HOLD_BLOCKS = (
    "div, p, li, ul, ol, dl, dd, dt, blockquote, table, caption, thead, tbody, tfoot, tr, td, th, section, article, "
    "main, aside, header, footer, nav, details, summary, figure, figcaption, pre"
)
_ONE_LINE = "td, th, h1, h2, h3, h4, h5, h6, a"
_CONTROL_TAGS = ("svg", "script", "style", "iframe", "object", "textarea", "select", "datalist", "input", "button")
_CONTROLS = ", ".join(_CONTROL_TAGS) + f":not(:has({_BLOCKS}))"
_WRITTEN_IN = f"{_BLOCKS}, code"
_CONTAINERS = ".markdown, .prose, .whitespace-pre-wrap"
_COUNTER = re.compile(r"\d+ / \d+|(?:Copy\s*)?\d+ chars / \d+ words")
_EMPHASIS = ("strong", "b", "em", "i")
_TAG = re.compile(r"<([a-zA-Z][^\s/>]*)")
_REPEATED_EMPHASIS = ":is(strong, b) :is(strong, b), :is(em, i) :is(em, i)"
_UNSEEN = ".sr-only, .visually-hidden, .cdk-visually-hidden"
"""What pages write for readers of screens alone."""
_LINE_NUMBERS = (
    "td.linenos, td.hljs-ln-numbers, .rouge-gutter, .linenumber, .react-syntax-highlighter-line-number, "
    ".line-numbers-rows, .cm-gutters"
)
_NUMBERED = "table.highlighttable, table.rouge-table, table.hljs-ln"
"""Tables that hold one box of code, beside the numbers of its lines."""
_WRAPPERS = 4
_RAISED = str.maketrans("0123456789+-=()ni", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ")
_LOWERED = str.maketrans("0123456789+-=()aeox", "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₒₓ")
_ORDINAL = re.compile(r"(?i)st|nd|rd|th|er|e|de|te|[ao]|tm|®|™|\W*")
"""Raised for looks alone: 1st, 2e."""
_UNSAFE = re.compile(r"(?:javascript|data|vbscript):", re.I)
_IGNORED_IN_URL = re.compile(r"[\x00-\x20]+")

_LANGUAGE_CLASS = re.compile(r"(?:^|\s)language-([^\s`]+)")
_LABEL = re.compile(r"(?!Copy|Copied|Code\b|Edit\b)([a-z][\w+#.-]*?)(?:Copy code|Copied!|Copy|Edit|\s)*", re.I)
_HEADER_LENGTH = 60


def is_html(conversation: Conversation) -> tuple[bool, ...]:
    """For each turn: is it rendered HTML, to be converted?

    A turn is if it opens with a container of ChatGPT's. Some dumps lost the container: there every
    answer opens with a block and ends with a tag; if any of them looks typed, they are HTML that was
    talked about, and none is converted.
    """
    answers = [turn.content for turn in conversation.turns if turn.role == "assistant" and turn.content.strip()]
    bare = bool(answers) and all(_is_fragment(content) for content in answers) and not _asked_for(conversation, answers)
    return tuple(
        bool(_CONTAINER.match(turn.content)) or (bare and turn.role == "assistant" and bool(turn.content.strip()))
        for turn in conversation.turns
    )


def _asked_for(conversation: Conversation, answers: list[str]) -> bool:
    """Whether HTML is what was asked for: ChatGPT's page would show it in a box, so without one it was typed."""
    asked = any(_HTML.search(turn.content) for turn in conversation.turns if turn.role != "assistant")
    return "{{" in "".join(answers) or (asked and not any("<pre" in answer for answer in answers))


def _is_fragment(content: str) -> bool:
    if not _OPENS_BLOCK.match(content) or not content.rstrip().endswith(">"):
        return False
    if _CONTAINER.match(content):
        return True
    first, *boxes = content.split("<pre")
    return not any(_TYPED.search(part) for part in (first, *(box.partition("</pre>")[2] for box in boxes)))


def to_markdown(html: str) -> str:
    """The markdown a person saw as this HTML. Takes any text, however broken; runs of white space collapse."""
    root = parse_fragment(html, positions=False)
    tags = set(map(str.lower, _TAG.findall(html)))  # most answers have few kinds: what is not there is not searched
    if "pre" in tags:
        _take_labels(root, html)
        _write_code_boxes(root)
    if "data-math" in html:
        _write_sources(root)
    if "data-footnote" in html:
        _write_footnotes(root)
    if not tags.isdisjoint(("sup", "sub")):
        _write_raised(root)
    if "annotation" in tags:
        _write_formulas(root)
    if "whitespace-pre-wrap" in html:
        for typed in root.select("div.whitespace-pre-wrap:not(:has(*))"):
            typed.tag = "pre"
    _remove_page_furniture(root, html, tags)
    if not tags.isdisjoint(("a", "img")):
        _drop_unsafe_addresses(root)
    if not tags.isdisjoint(_EMPHASIS):
        root.strip_tags(_REPEATED_EMPHASIS)
    if "pre" in tags or "annotation" in tags:
        for element in root.select(f":has(pre):not({_MAY_HOLD_BLOCKS})"):
            element.tag = "div"  # text would stick to the fence
    return root.to_markdown(_OPTIONS)


def _write_sources(root: Element) -> None:
    """Formulas of Gemini's page, whose TeX is in an attribute."""
    for formula in root.select("[data-math]"):
        tex, block = _attribute(formula, "data-math").strip(), "math-block" in _attribute(formula, "class")
        if block and not formula.closest(_ONE_LINE):
            formula.replace_with(_verbatim(f"$$\n{tex}\n$$"))
        elif tex:
            formula.replace_with(Text(f"$${tex}$$" if block else f"${tex}$"))


def _write_raised(root: Element) -> None:
    """Exponents and indices as signs of their own, or behind `^` and `_`: 10⁶ is not 106. A link stays one."""
    for element in root.select("sup:not(:has(*)), sub:not(:has(*))"):
        text = element.text.strip()
        raised = element.tag == "sup"
        signs = text.translate(_RAISED if raised else _LOWERED)
        if raised and _ORDINAL.fullmatch(text):
            signs = text
        elif any(c.isascii() for c in signs):
            signs = f"{'^' if raised else '_'}{text if len(text) == 1 else f'({text})'}"
        element.replace_with(Text(signs))


def _take_labels(root: Element, html: str) -> None:
    """Takes what stands beside code: numbers of lines, and the language, which Gemini's page has there alone."""
    if "line" in html or "gutter" in html:
        root.remove(_LINE_NUMBERS)
        for table in root.select(_NUMBERED):
            if (box := table.select_one("pre")) is not None:
                table.replace_with(box)
    for label in root.select(".code-block-decoration"):
        box, name = label.closest("code-block"), next(iter(label.strings), "").strip()
        code = box.select_one("pre code") if box is not None else None
        if code is not None and _LABEL.fullmatch(name) and not _class_language(code):
            code.attrs["class"] = f"language-{name.lower()}"
        label.decompose()
    for code in root.select("div > pre > code"):
        language, label = _class_language(code).lower(), _before(code)
        if language and label is not None and label.text.strip().lower() == language:
            label.decompose()


def _before(code: Element) -> Element | None:
    """The `div` or `span` that a reader sees before a box of code, through a few wrappers that begin with it."""
    outer = code.parent
    for _ in range(_WRAPPERS):
        if not isinstance(outer, Element):
            return None
        for other in outer.previous_siblings:
            if isinstance(other, Element):
                return other if other.tag in ("div", "span") else None
            if isinstance(other, Text) and other.data.strip():
                return None
        outer = outer.parent
    return None


def _write_footnotes(root: Element) -> None:
    """Footnotes as markdown has them: `[^1]`."""
    for back in root.select("a[data-footnote-backref]"):
        back.decompose()
    for mark in root.select("a[data-footnote-ref]"):
        (mark.closest("sup") or mark).replace_with(Text(f"[^{mark.text.strip()}]"))
    for notes in root.select("[data-footnotes] > ol"):
        for number, note in enumerate(notes.select("li"), 1):
            note.tag = "p"
            for paragraph in note.select("p"):
                paragraph.unwrap()
            note.insert(0, Text(f"[^{number}]: "))
        notes.unwrap()


def _write_formulas(root: Element) -> None:
    for formula in root.select(".katex"):
        source = formula.select_one('annotation[encoding="application/x-tex"]')
        tex = source.text.strip() if source is not None else ""
        if not tex:
            continue
        if not formula.closest(".katex-display, .math-display"):
            formula.replace_with(Text(f"${tex}$"))
        elif formula.closest(_ONE_LINE):
            formula.replace_with(Text(f"$${tex}$$"))
        else:
            formula.replace_with(_verbatim(f"$$\n{tex}\n$$"))


def _write_code_boxes(root: Element) -> None:
    for box in root.select("pre:not(pre pre)"):
        for line_break in box.select("br"):
            line_break.replace_with(Text("\n"))
        before, code, after, language = _code_box(box)
        if box.closest("td, th"):
            lines = f"{escape(before)} {_code_lines(code)} {escape(after)}"
            box.replace_with(parse_fragment(lines, positions=False))
            continue
        if before:
            box.insert_before(Element("p", {}, [Text(before)]))
        if after:
            box.insert_after(Element("p", {}, [Text(after)]))
        if code.strip():
            box.replace_with(_verbatim(_fenced(code, language)))
        else:
            box.decompose()


def _code_box(box: Element) -> tuple[str, str, str, str]:
    """The text before the code, the code, the text after it, and its language; a header is no text."""
    codes = box.select("code:not(code code)")
    loose = any(isinstance(child, Text) and child.data.strip() for child in box.children)
    class_language = _class_language(codes[0] if codes else box) or _class_language(box)
    code = codes[0].text if codes else ""
    box.remove(_CONTROLS)
    if len(codes) != 1 or loose:
        return "", box.text, "", class_language
    # The parser lets no NUL through, so it can mark the place of the code.
    codes[0].replace_with(Text("\0"))
    before, _, after = box.text.partition("\0")
    before, after = before.strip(), after.strip()
    if len(before) > _HEADER_LENGTH or "\n" in before:
        return before, code, after, class_language
    label = _LABEL.fullmatch(before)
    return "", code, after, class_language or (label[1].lower() if label else "")


def _class_language(element: Element) -> str:
    found = _LANGUAGE_CLASS.search(_attribute(element, "class"))
    return found[1] if found else ""


def _fenced(code: str, language: str) -> str:
    longest = max(map(len, re.findall(r"`{3,}", code)), default=2)
    fence, end = "`" * (longest + 1), "" if code.endswith("\n") else "\n"
    return f"{fence}{language}\n{code}{end}{fence}"


def _code_lines(code: str) -> str:
    """A table cell has no room for a box: one inline code a line."""
    return "<br>".join(f"<code>{escape(line)}</code>" for line in code.strip("\n").split("\n"))


def _remove_page_furniture(root: Element, html: str, tags: set[str]) -> None:
    if "input" in tags:
        for box in root.select('li input[type="checkbox" i]'):
            box.replace_with(Text("[x] " if "checked" in box.attrs else "[ ] "))
    if not tags.isdisjoint(_CONTROL_TAGS):
        root.remove(_CONTROLS)
    if "sr-only" in html or "visually-hidden" in html:
        root.remove(_UNSEEN)
    if " / " in html:
        for element in root.select("div, span"):
            if _is_counter(element):
                element.decompose()


def _is_counter(element: Element) -> bool:
    # A counter has few pieces; to read all the text of every nested element would take quadratic time.
    pieces = list(islice(element.strings, 9))
    if len(pieces) == 9 or not _COUNTER.fullmatch("".join(pieces).strip()):
        return False
    return not (element.closest(_WRITTEN_IN) or element.select_one(_WRITTEN_IN) or element.matches(_CONTAINERS))


def _drop_unsafe_addresses(root: Element) -> None:
    for link in root.select("a[href]"):
        if _is_unsafe(_attribute(link, "href")):
            link.unwrap()
    for image in root.select("img"):
        address = _attribute(image, "src")
        if not address or _is_unsafe(address) or "emoji" in _attribute(image, "class"):
            image.replace_with(Text(_attribute(image, "alt")))


def _is_unsafe(address: str) -> bool:
    return bool(_UNSAFE.match(_IGNORED_IN_URL.sub("", address)))


def _attribute(element: Element, name: str) -> str:
    return element.attr(name) or ""


def _verbatim(markdown: str) -> Element:
    """A block whose markdown is written already: `_OPTIONS` passes the text of a `pre` on untouched."""
    return Element("pre", {}, [Text(markdown)])


def _strong(element: Element, content: str) -> str:
    return _emphasised(element, content, "**")


def _emphasis(element: Element, content: str) -> str:
    return _emphasised(element, content, "*")


def _emphasised(element: Element, content: str, mark: str) -> str:
    # turbohtml falls back to <strong> where CommonMark would not see the end of `**a:**b`; no model should
    # learn tags from that. A cell escapes what is returned here once more.
    if element.closest("td, th"):
        content = content.replace("\\|", "|")
    return f"{mark}{content}{mark}" if content else ""


class _Options(Markdown):
    """turbohtml works its options out anew for every document, which takes as long as writing one."""

    def _unpack(self) -> dict[str, object]:
        return _UNPACKED


_OPTIONS = _Options(
    escaping=Markdown.Escaping(mode="none", asterisks=False, underscores=False),
    converters={
        "pre": lambda element, _: element.text,
        "strong": _strong,
        "b": _strong,
        "em": _emphasis,
        "i": _emphasis,
    },
)
_UNPACKED = Markdown._unpack(_OPTIONS)
