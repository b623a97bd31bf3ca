"""ChatGPT's pages: what their reader saw, against an oracle of another make, and code byte for byte."""

import json
import re
from html import escape
from html.parser import HTMLParser

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from tests.helpers.examples import examples
from vicuna_lit.prepare.html import is_html, to_markdown
from vicuna_lit.records.conversation import Conversation
from vicuna_lit.records.readers import read

MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
HIDDEN = {"button", "svg", "script", "style", "iframe", "object", "annotation"}
VOID = {"br", "hr", "img", "input", "wbr", "col"}
MATH = r"\$\$\n(.*?)\n *\$\$|\$([^$\n]+)\$"
ANY_TEXT = st.text(st.characters(exclude_characters="\0\r", exclude_categories=["Cs"]))
CODE = st.text(st.sampled_from("\n\n\t  `~ab<>&*_#|\\\xa0é界🙂\f\v\x1c\x85\u2028")) | ANY_TEXT
BOX = (
    '<pre><div class="bg-black rounded-md mb-4"><div class="flex items-center justify-between"><span>{language}</span>'
    '<button class="flex ml-auto gap-2"><svg><path d="M16"></path></svg>Copy code</button></div>'
    '<div class="p-4 overflow-y-auto"><code class="!whitespace-pre hljs language-{language}">{code}</code></div>'
    "</div></pre>"
)
TEX = '<math><semantics><mi>x</mi><annotation encoding="application/x-tex">{}</annotation></semantics></math>'
KATEX = f'<span class="katex"><span class="katex-mathml">{TEX}</span><span class="katex-html"><i>x2</i></span></span>'
TAGS = "<table> <tr> <td> <ul> <li> <b> </p> <a href= <input type=checkbox> <template> &#0; &lt <![CDATA[ <!--".split()
SOUP = [*TAGS, *"<>/&;!-=\"'` \n\0\ud83d", *re.findall(r"<[^>]*>|\w+", BOX + KATEX), " / 2"]


class Page(HTMLParser):
    """What a reader sees: text, the content of the code boxes, and formulas as TeX."""

    def __init__(self, html):
        super().__init__()
        self.open, self.text, self.codes, self.formulas = [], [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        if tag in VOID:
            return
        self.open.append((tag, dict(attrs).get("class") or ""))
        if tag == "code" and self.within("pre"):
            self.codes.append("")
        if tag == "annotation":
            self.formulas.append("")

    def handle_endtag(self, tag):
        while self.open and self.open.pop()[0] != tag:
            pass

    def within(self, tag):
        return any(name == tag for name, _ in self.open)

    def handle_data(self, data):
        if self.within("annotation"):
            self.formulas[-1] += data
        elif self.within("pre"):
            if self.within("code"):
                self.codes[-1] += data
        elif not any(tag in HIDDEN or classes == "katex" for tag, classes in self.open):
            self.text.append(data)


def fences(markdown):
    return [(token.info, token.content) for token in MARKDOWN.parse(markdown) if token.type == "fence"]


def seen(markdown):
    inline = [child for token in MARKDOWN.parse(markdown) for child in token.children or []]
    return squash("".join(child.content for child in inline if child.type in ("text", "code_inline")))


def squash(text):
    return "".join(text.split())


def box(code, language="python"):
    return BOX.format(code=code, language=language)


def ended(code):
    return code if code.endswith("\n") else code + "\n"


@pytest.fixture(scope="module")
def answers(shared):
    texts = []
    for path in sorted((shared / "conversations").glob("raw_html_*.json")):
        for conversation in json.loads(path.read_text()):
            texts += [turn["value"] for turn in conversation["conversations"] if turn["from"] == "gpt"]
    return texts


@pytest.mark.promise("The markdown shows the text of the HTML, and its code to the byte, on real pages of 2022 to 2026")
def test_real_pages_keep_every_visible_character(answers):
    for html in answers:
        page, markdown = Page(html), to_markdown(html)
        if "katex" in html:
            found = [display or inline for display, inline in re.findall(MATH, markdown, re.S)]
            assert found == [tex.strip() for tex in page.formulas]
            markdown = re.sub(MATH, "", markdown, flags=re.S)
        assert seen(markdown) == squash("".join(page.text))


@pytest.mark.promise("The markdown shows the text of the HTML, and its code to the byte, on real pages of 2022 to 2026")
def test_real_code_is_equal_byte_for_byte(answers):
    expected = [[ended(code) for code in Page(html).codes] for html in answers]
    assert [[code for _, code in fences(to_markdown(html))] for html in answers] == expected
    assert sum(map(len, expected)) >= 40


def test_real_code_boxes_name_their_language(answers):
    languages = {language for html in answers for language, _ in fences(to_markdown(html))}
    assert {"go", "python", "bash", "sh", "ts", "javascript"} <= languages
    assert languages <= {"", "go", "python", "bash", "sh", "ts", "tsx", "javascript", "elisp"}


@given(CODE)
@settings(max_examples=examples(100), deadline=None)
def test_code_comes_back_byte_for_byte(code):
    assume(code.strip())
    assert fences(to_markdown(f"<p>a</p>{box(escape(code))}<p>b</p>")) == [("python", ended(code))]


@given(CODE)
@settings(max_examples=examples(100), deadline=None)
def test_code_in_a_list_or_quotation_comes_back_byte_for_byte(code):
    assume(code.strip())
    item = (
        f"<ol start='9'><li>a</li><li><p>b</p><ul><li>c{box(escape(code))}</li><li>{box(escape(code))}d</li></ul></li>"
    )
    assert fences(to_markdown(item)) == [("python", ended(code))] * 2


@given(ANY_TEXT)
def test_text_comes_back(text):
    assert to_markdown(f"<p>{escape(text)}</p>") == re.sub(r"[ \t\n\f]+", " ", text).strip(" ")


@given(st.lists(st.sampled_from(SOUP)))
@settings(max_examples=examples(100), deadline=None)
def test_no_markup_raises(pieces):
    assert isinstance(to_markdown("".join(pieces)), str)


@pytest.mark.parametrize(
    ("html", "markdown"),
    [
        ("", ""),
        ("<p>10 / 2 Copy code</p><p>10 / 2</p>", "10 / 2 Copy code\n\n10 / 2"),
        ('<div class="markdown prose">10 / 2</div>', "10 / 2"),
        ("<p>a</p><div>2 / 2</div><div><span>2<!-- --> / <!-- -->3</span></div>", "a"),
        ("<p>a</p><div><button>Copy</button>12 chars / 3 words</div><span>Copy12 chars / 3 words</span>", "a"),
        (f"<div>2 / 2{'<i>a</i>' * 9}</div>", "2 / 2" + "*a*" * 9),
        ("<ul><li><span>2 / 2</span></li></ul><h2><span>1 / 2</span></h2>", "- 2 / 2\n\n## 1 / 2"),
        ("<p>a</p><button>b</button><svg><text>c</text></svg><script>d</script><style>e</style>", "a"),
        ("<p>a</p><iframe>f</iframe><object>g</object><select><option>h</select><textarea>i</textarea>", "a"),
        ("<x-new>a <y-new>b</y-new></x-new><dialog>c</dialog>", "a bc"),
        ("<button>a<p>never closed", "a\n\nnever closed"),
        ("<p>snake_case *a* # 1. \\d &amp;lt; &lt;div&gt;</p>", "snake_case *a* # 1. \\d &lt; <div>"),
        ("<p>H<sub>2</sub>O x<sup>2</sup> <strong>b</strong><em>i</em> <del>d</del></p>", "H₂O x² **b***i* ~~d~~"),
        ("<p><b>값(value):</b>은 <b> x </b>y <b>a<strong>b</strong></b></p>", "**값(value):**은 **x** y **ab**"),
        ("<h1>a</h1><h6>b</h6><hr><p>c<br>d</p>", "# a\n\n###### b\n\n---\n\nc  \nd"),
        ("<blockquote><p>a</p><blockquote>b</blockquote></blockquote>", "> a\n>\n> > b"),
        ('<ol start="3"><li>a<ul><li>b</li></ul></li><li><p>c</p><p>d</p></li></ol>', "3. a\n\n   - b\n\n4. c\n\n   d"),
        ("<ul><li><input type=checkbox checked> a</li><li><p><input type=checkbox> b</p></ul>", "- [x] a\n- [ ] b"),
        ("<p><input type=text>a<code>x`y</code> <code>``</code></p>", "a``x`y`` ``` `` ```"),
        ("<table><tr><th>a|b<th>c<tr><td><code>x|y</code><td><b>p|q</b></table>",
         "| a\\|b | c |\n| --- | --- |\n| `x\\|y` | **p\\|q** |"),
        ("<table><tr><th>a<tr><td><pre><code>x\n y</code></pre></table>", "| a |\n| --- |\n| `x`<br>` y` |"),
        ('<a href="http://a.b/c">http://a.b/c</a> <a href="http://a.b">t</a>', "<http://a.b/c> [t](http://a.b)"),
        ("<a href=' java\tscript:x'>a</a> <a href='DATA:x'>b</a> <a href='vbscript:x'>c</a>", "a b c"),
        ('<img src="u.png" alt="a"> <img src="data:image/png;base64,x" alt="b"> <img alt="c">', "![a](u.png) b c"),
        (f"<p>so {KATEX.format('a_{1} &lt; b')}.</p>", "so $a_{1} < b$."),
        (f'<p>so</p><span class="katex-display">{KATEX.format("a ; 1 ; 2")}</span>'.replace("; ", "\n"),
         "so\n\n$$\na \n1 \n2\n$$"),
        (f'<p>so <span class="math math-display">{KATEX.format("a")}</span> it is</p>', "so\n\n$$\na\n$$\n\nit is"),
        (f'<h2><span class="katex-display">{KATEX.format("a")}</span></h2>', "## $$a$$"),
        ('<span class="katex"><span class="katex-html">x</span></span>', "x"),
        ('<div class="whitespace-pre-wrap">a\n  b\n\n\nc &lt;</div>', "a\n  b\n\n\nc <"),
        ("<b>a<pre>x\n\n\n y</pre>b</b>", "a\n\n```\nx\n\n\n y\n```\n\nb"),
        (box("&lt;div&gt; &amp;lt;\n", "html"), "```html\n<div> &lt;\n```"),
        (box("a\n```js\nx\n```\n"), "````python\na\n```js\nx\n```\n````"),
        (box("") + box(" \n"), ""),
        ("<pre><div>pythonCopy code</div><code>x</code></pre>", "```python\nx\n```"),
        ("<pre><div><div>Python</div><div><button>Copy</button></div></div><pre><code>x</code></pre></pre>",
         "```python\nx\n```"),
        ("<pre><div>Copy code</div><code>x</code></pre>", "```\nx\n```"),
        (f"<pre><div>a{'Copy' * 10**5}!</div><code>x</code></pre>", f"a{'Copy' * 10**5}!\n\n```\nx\n```"),
        (f"<div>{' ' * 10**6}1</div><p> / </p>", "1\n\n/"),
        ("<pre><div>Plain text</div><code>x</code></pre>", "```\nx\n```"),
        ('<pre><div>Kotlin</div><code class="language-c++">x<br>y</code></pre>', "```c++\nx\ny\n```"),
        ("<pre>bare\n  text<button>Copy</button></pre>", "```\nbare\n  text\n```"),
        ("<pre>Out: <code>x</code> and <code>y</code></pre>", "```\nOut: x and y\n```"),
        ("<pre><div>sh</div><code>x</code><div>Result: 3</div></pre>", "```sh\nx\n```\n\nResult: 3"),
        (f"<pre><div>{'word ' * 20}</div><code>x</code></pre>", f"{('word ' * 20).strip()}\n\n```\nx\n```"),
        ("<p>10<sup>6</sup> m<sup>-1</sup> 1<sup>st</sup> x<sup>y+1</sup> a<sub>k</sub> <sup><a href='u'>1</a></sup>",
         "10⁶ m⁻¹ 1st x^(y+1) a_k [1](u)"),
        ('<p>a<sup><a href="#user-content-fn-1" data-footnote-ref>1</a></sup>.</p><section data-footnotes><h2 '
         'class="sr-only">Footnotes</h2><ol><li><p>b <a data-footnote-backref>↩</a></p></li></ol></section>',
         "a[^1].\n\n[^1]: b"),
        ('<p>Good <img class="emoji" alt="🎉" src="u.png"> job</p><b class="sr-only">Hidden</b>', "Good 🎉 job"),
        ('<p>so <span class="math-inline" data-math="x^2"><span class="katex">x2</span></span></p>', "so $x^2$"),
        ('<p>so</p><div class="math-block" data-math="x"><span class="katex">x</span></div>', "so\n\n$$\nx\n$$"),
        ('<div><div>bash</div><div><pre><code class="language-bash">ls</code></pre></div></div>', "```bash\nls\n```"),
        ('<div><div>bash is</div><div><pre><code class="language-bash">ls</code></pre></div></div>',
         "bash is\n\n```bash\nls\n```"),
        ('<code-block><div class="code-block-decoration"><span>Python</span><button>copy</button></div><pre><code>x'
         "</code></pre></code-block>", "```python\nx\n```"),
        ('<table class="highlighttable"><tr><td class="linenos"><pre>1</pre></td><td><pre>x</pre></td></tr></table>',
         "```\nx\n```"),
        ('<pre><code><span class="linenumber">1</span>x</code></pre>', "```\nx\n```"),
    ],
)  # fmt: skip
def test_markup(html, markdown):
    assert to_markdown(html) == markdown


@pytest.mark.parametrize("tags", ["<div>", "<b>", "<blockquote>", "<ul><li>", "<pre>", "<span>", "<table><tr><td>"])
def test_deep_nesting(tags):
    assert "deep" in to_markdown(tags * 30_000 + "<p>1 / 2 deep")


def test_large_and_broken_input():
    turn = f"<p>2 / 2 <b>a</b></p>{box('x')}" * 120_000
    assert to_markdown(turn).count("```python\nx\n```") == 120_000
    assert "a" in to_markdown("\0<p\ud83d>\ud83da\0<table><td></p><![CDATA[<!--" + "<" * 1000)
    assert is_html(Conversation.of("q", "<p>" + "<pre" * 10**6 + ">\n" * 10**5 + " " * 10**6 + ">")) == (False, True)


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        (("<p>q</p>", '<div class="markdown prose"><p>a</p></div>', "q", "plain"), (False, True, False, False)),
        (('<div class="whitespace-pre-wrap">q</div>', "a"), (True, False)),
        (("q", "<p>a &lt; b</p>\n<ul>\n<li>c</li>\n</ul>", "q", ""), (False, True, False, False)),
        (("q", "<p>a</p><pre><code>&lt;p&gt;\n  <b id='x'></code></pre><p>b</p>"), (False, True)),
        (("q", "<p>a</p>", "q", "plain"), (False, False, False, False)),
        (("q", "<p>a</p>", "q", "<ul>\n  <li>a</li>\n</ul>"), (False, False, False, False)),
        (("q", '<div id="app"></div>'), (False, False)),
        (("q", '<div onclick="f()"></div>'), (False, False)),
        (("q", "<p class='x'>a</p>"), (False, False)),
        (("q", "<p>a</p>\n\n<p>b</p>"), (False, False)),
        (("q", "<p>a</p>\n```html\n<p>"), (False, False)),
        (("q", "<!DOCTYPE html>\n<html></html>"), (False, False)),
        (("q", "<div><form></form></div>"), (False, False)),
        ((), ()),
    ],
)
def test_what_is_html(turns, expected):
    assert is_html(Conversation.of(*turns)) == expected


def test_what_is_html_in_real_data(shared):
    for path in sorted((shared / "conversations").glob("raw_html_*.json")):
        for conversation in read(path):
            assert isinstance(conversation, Conversation)
            assert is_html(conversation) == tuple(turn.role == "assistant" for turn in conversation.turns)
    plain = [path for path in (shared / "conversations").glob("sharegpt_v3_*.json") if ".tags." not in path.name]
    conversations = [c for path in plain for c in read(path) if isinstance(c, Conversation)]
    assert len(conversations) > 1000
    assert not any(any(is_html(conversation)) for conversation in conversations)
