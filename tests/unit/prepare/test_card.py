"""The data card: hostile text stays text, every number is there, and the page stays small and the same."""

import copy
import re
from html.parser import HTMLParser
from typing import Any, get_args

import orjson
import pytest

from vicuna_lit.config.prepare import PersonalData
from vicuna_lit.pages import counted
from vicuna_lit.prepare.card import KINDS, Sample, render_card
from vicuna_lit.records.conversation import PLACEHOLDER, SHAREGPT_ROLES, Role, Turn

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror="alert(2)">',
    "' onmouseover='alert(3)' x='",
    '</text></svg></title></style><a href="javascript:alert(4)">',
    "<!--<iframe src=//evil.example>",
    "{{ 7 * 191 }}{% raw %}",
    "<style>@import url(//evil.example/x.css)</style>&lt;&#x27;",
)
STEPS = [
    {"step": "read", "in": 17672, "kept": 17671, "rejected": {"file cut off": 1}, "changes": {}},
    {"step": "html", "in": 17671, "kept": 17671, "rejected": {}, "changes": {"turns converted": 88}},
    {"step": "filters", "in": 17671, "kept": 16043, "rejected": {"too short": 1611, "blocklist": 17}, "changes": {}},
    {"step": "personal_data", "in": 16043, "kept": 16043, "rejected": {}, "changes": {"email": 1303, "phone": 29}},
]
MANIFEST: dict[str, Any] = {
    "records_in": 17672,
    "records_kept": 16043,
    "records_rejected": 1629,
    "rejected_by_reason": {"too short": 1611, "blocklist": 17, "file cut off": 1},
    "steps": STEPS,
    "inputs": [{"path": "a.json", "bytes": 125509632, "sha256": "ab" * 32, "records": 17672}],
    "outputs": {"train.jsonl": {"bytes": 118_000_000, "sha256": "cd" * 32, "lines": 16001}},
    "sets": {
        "train": {"conversations": 15900, "pieces": 16001, "turns": 120000, "characters": 9, "tokens": None},
        "validation": {"conversations": 143, "pieces": 144, "turns": 900, "characters": 8, "supervised_tokens": 71},
    },
    "histograms": {
        "turns": {"2": 5000, "4": 3000, "90": 1},
        "tokens": {"0": 12, "128": 300},
        "languages": {"en": 12000, "ko": 100, "none": 12},
    },
    "questions": 80,
    "files": {"tokenizer.json": "ef" * 32},
    "config": {"filters": {"min_turns": 2}, "seed": 0},
    "versions": {"turbohtml": "1.15.4"},
}
EMPTY = {
    **{"records_in": 0, "records_kept": 0, "records_rejected": 0, "rejected_by_reason": {}},
    "steps": [{"step": "read", "in": 0, "kept": 0, "rejected": {}, "changes": {}}],
    **{"inputs": [], "outputs": {}, "sets": {"train": {}, "validation": None}, "config": {}},
    "histograms": {"turns": {}, "tokens": {}, "languages": {}},
}
VOID = {"meta", "img", "br", "link", "input", "base", "hr"}


class Page(HTMLParser):
    """What a browser would make of the page."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.css: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        (self.css if self.open[-1:] == ["style"] else self.texts).append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def assert_harmless(self):
        assert not {"script", "iframe", "img", "link", "base", "object", "embed", "form", "a", "use"} & set(self.tags)
        assert self.tags.count("style") == 1
        for name, value in self.attributes:
            assert not name.startswith("on")
            assert name not in ("src", "href", "xlink:href", "srcset", "action", "data", "style")
            assert "url(" not in value or name == "aria-label"
        assert not re.search(r"url\(|@import|//", "".join(self.css))
        assert ("http-equiv", "Content-Security-Policy") in self.attributes


def poisoned(value: Any, text: str) -> Any:
    """The manifest with the text in place of every name and every string."""
    if isinstance(value, dict):
        return {(k if k in KNOWN or k.isdigit() else text + k): poisoned(v, text) for k, v in value.items()}
    if isinstance(value, list):
        return [poisoned(v, text) for v in value]
    return text + value if isinstance(value, str) else value


KNOWN = MANIFEST.keys() | set(
    """train validation step in kept rejected changes path bytes sha256 records lines
    turns tokens languages conversations pieces characters supervised_tokens""".split()
)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text: str):
    turns = (Turn("user", text), Turn("assistant", f"before {text} after"))
    samples = [
        Sample(text, turns, ()),
        Sample(text, turns, (Turn("user", "safe"), Turn("assistant", f"before {text}{text} after"))),
        Sample(text, turns, turns),
    ]
    page = Page(render_card(poisoned(MANIFEST, text), samples))
    page.assert_harmless()
    for name in ("too short", "turns converted", "a.json", "train.jsonl", "ab" * 32, "turbohtml", "1.15.4", "personal"):
        assert text.replace("_", " ") + name in page.text
    assert f"{text}filters.{text}min_turns" in page.text or f"{text}seed" in page.text
    assert page.text.count(text) > 25
    assert f"before {text} after" in page.text


def test_hostile_config_values():
    page = Page(render_card({"config": {"a": {"b": list(HOSTILE)}}}, []))
    page.assert_harmless()
    assert orjson.dumps(list(HOSTILE)).decode().replace('","', '", "') in page.text


def test_every_number_of_every_step():
    page = Page(render_card(MANIFEST, []))
    for step in STEPS:
        name = step["step"].replace("_", " ")
        counts = [*step["rejected"].items(), *step["changes"].items()]
        row = f"{name}{step['in']:,}{step['kept']:,}" + "".join(f"{count:,} {reason}" for reason, count in counts)
        assert row in page.text.replace("–", "").replace("\n", "")
    assert "Of 17,672 records, 16,043 were kept (90.8%):\n15,900 conversations to train on" in page.text
    for number in (
        "16,001",
        "120,000",
        "71",
        "125.5 MB",
        "ab" * 32,
        "ef" * 32,
        "80 test questions",
        "12,000",
        "1.15.4",
    ):
        assert number in page.text


def test_what_was_looked_for_and_what_was_not_is_said():
    kinds = {"personal_data": {"kinds": ["email", "iban"]}, "moderation": {"scorer": "mine:score"}}
    page = render_card({**MANIFEST, "config": kinds}, [])
    assert "Looked for, by form: e-mail addresses; bank accounts. Not looked for: telephone numbers" in page
    assert "names of persons" in page
    assert "unsuitable content (sexual, violent, hateful, dangerous)" in page
    moderated = [*STEPS, {"step": "moderation", "in": 16043, "kept": 16043, "rejected": {}, "changes": {}}]
    page = render_card({**MANIFEST, "config": kinds, "steps": moderated}, [])
    assert "by the scores of mine:score" in page
    page = render_card({**MANIFEST, "config": kinds, "steps": MANIFEST["steps"][:2]}, [])
    assert "Looked for, by form" not in page
    assert "Not looked for: e-mail addresses" in page


def test_the_funnel_is_to_scale():
    page = render_card(MANIFEST, [])
    nodes = re.findall(r'<rect class="node" y="[\d.]+" width="([\d.]+)"', page)
    widths = [float(width) for width in nodes[: len(STEPS)]]
    assert widths == pytest.approx([800 * step["kept"] / 17672 for step in STEPS])
    assert float(nodes[-1]) == pytest.approx(widths[-1] * 15900 / 16043)
    assert page.count('class="ribbon"') == 3


@pytest.mark.parametrize(
    "manifest", [EMPTY, {}, {**MANIFEST, "steps": []}, {**EMPTY, "sets": None, "histograms": None}]
)
def test_nothing_to_show(manifest: dict[str, Any]):
    page = Page(render_card(manifest, []))
    page.assert_harmless()
    assert "There were no records." in page.text
    assert "nan" not in page.text.lower()


def test_all_rejected():
    step = {"step": "roles", "in": 3, "kept": 0, "rejected": {"no answered turn": 3}, "changes": {}}
    sample = Sample("a", (Turn("user", "hi"),), ())
    page = Page(render_card({"records_in": 3, "records_rejected": 3, "steps": [step]}, [sample, Sample("b", (), ())]))
    assert "no answered turn" in page.text
    assert "1 removed" in page.text
    assert "no turns" in page.text


def test_same_input_same_bytes():
    samples = [Sample("a", (Turn("user", "<b>hi</b>"),), (Turn("user", "**hi**"),))]
    shuffled = copy.deepcopy(MANIFEST)
    shuffled["histograms"]["languages"] = dict(reversed(MANIFEST["histograms"]["languages"].items()))
    assert render_card(MANIFEST, samples) == render_card(shuffled, samples)


def test_a_long_turn_is_cut_for_display():
    long = "<div>a b</div>" * 400_000
    samples = [Sample("x" * 1000, (Turn("user", long), Turn("assistant", long)), (Turn("user", long + "!"),))] * 10
    page = render_card(MANIFEST, samples)
    assert len(page.encode()) < 1_000_000
    assert f"{len(long) - 2000:,} more characters, not shown" in page
    assert "920 more characters" in page


def test_text_no_file_can_hold():
    page = render_card({"versions": {"a": "\ud800\x1b[31m\0"}}, [])
    assert "?␛[31m␀" in page


def test_histograms_lose_nothing():
    turns = {str(2 * i): 100 - i for i in range(1, 60)} | {"5001": 7}
    page = render_card({"histograms": {"turns": turns, "characters": {"0": 3, "500": 4, "1500": 2}}}, [])
    counts = [int(n.replace(",", "")) for n in re.findall(r"turns: ([\d,]+)</title>", page)]
    assert sum(counts) == sum(turns.values())
    assert "and more" in page
    for bar in (
        "0–499 characters: 3",
        "500–999 characters: 4",
        "1,000–1,499 characters: 0",
        "from 1,500 characters: 2",
    ):
        assert bar in page
    page = render_card({"histograms": {"tokens": {"0": 1, "4": 5, "32": 7, "16384": 9}}}, [])
    for bar in ("0–3 tokens: 1", "4–7 tokens: 5", "8–15 tokens: 0", "32–63 tokens: 7", "from 16,384 tokens: 9"):
        assert bar in page
    assert page.count(" tokens: ") == 14
    page = render_card({"histograms": {"turns": {str(i): 1 for i in range(2, 41)}}}, [])
    for bar in ("2–3 turns: 2", "40 turns: 1"):
        assert bar in page
    many = {f"l{i:02}": 50 - i for i in range(30)}
    page = render_card({"histograms": {"languages": many}}, [])
    assert f"other (10): {sum(range(21, 31))}" in page


def test_real_pages(shared):
    roles: dict[str, Role] = {name: role for role, name in SHAREGPT_ROLES.items()}
    samples = []
    for file in sorted((shared / "conversations").glob("raw_html_*.json")):
        for record in orjson.loads(file.read_bytes()):
            turns = tuple(Turn(roles[t["from"]], t["value"]) for t in record["conversations"])
            samples.append(Sample(str(record.get("id")), turns, turns[1:]))
    assert any("<svg" in turn.content or "href" in turn.content for s in samples for turn in s.before)
    page = render_card(MANIFEST, samples)
    Page(page).assert_harmless()
    for sample in samples:
        assert sample.id in page


def test_every_kind_of_personal_data_is_named_on_the_card_and_known_to_training():
    kinds = get_args(PersonalData)
    assert set(KINDS) == set(kinds)
    assert all(PLACEHOLDER.fullmatch(f"[{kind.upper()}]") for kind in kinds)


def test_one_is_no_plural():
    assert counted(1, "turns cut: identity") == "1 turn cut: identity"
    assert (counted(1_200, "copies"), counted(1, "copies of a")) == ("1,200 copies", "1 copy of a")
    assert (counted(1.0, "epochs"), counted(0.5, "epochs")) == ("1 epoch", "0.5 epochs")
    assert counted(1, "refusal") == "1 refusal"
