"""The templates and tokenizers that models ship with: what is trained on is what they would generate.

They are others' and not in this repository; CONTRIBUTING.md says where to put them. Without them nothing runs here but
what lies in the shared data."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from tests.helpers.jinja_templates import OTHERS, check, encoder_with, spans
from tests.helpers.runs import SHARED
from tests.helpers.talks import TALKS
from vicuna_lit.data.encoder import Encoder, Example
from vicuna_lit.records.conversation import Conversation, Turn

TOKENIZERS = sorted(
    folder
    for place in (OTHERS, SHARED / "tokenizers")
    if place.is_dir()
    for folder in place.iterdir()
    if (folder / "tokenizer.json").exists()
    and ((folder / "chat_template.jinja").exists() or "chat_template" in (folder / "tokenizer_config.json").read_text())
)
TEMPLATES = sorted({*OTHERS.glob("*.jinja")} - {*OTHERS.glob("*_training.jinja")})
REASONS = {
    "drops the reasoning": "R",
    "drops tool_calls": "T",
    "drops the tools": "T",
    "drops an argument of a call": "T",
    "opens a thought": "O",
    "closes the thought": "C",
    "drops, repeats or reorders a turn": "L",
    "generation prompt is not a prefix": "P",
    "ends a part of a reply": "S",
    "straddles the mask": "M",
    "template refuses it: the tokenizer's chat template refuses it": "E",
}
"""Why a template cannot be trained with, of all that one is asked for here, and the letter of the table."""
TABLE = Path(__file__).parents[2] / "docs/stock_templates.md"
"""Counts and names alone: how many examples each talk becomes, or why it is refused."""


@cache
def encoder_of(path: Path) -> Encoder:
    if path.suffix == ".jinja":
        return encoder_with(path.read_text())
    return encoder_with("", AutoTokenizer.from_pretrained(path))


def encoder_or_skip(path: Path) -> Encoder:
    try:
        return encoder_of(path)
    except ValueError as refusal:
        # The last: templates for pictures beside text, which take no content that is a plain text.
        known = ("puts no stop token", "not a prefix", "drops, repeats or reorders a turn")
        assert any(reason in str(refusal) for reason in known)
        pytest.skip(str(refusal))


def row(path: Path) -> str:
    """What each talk becomes with a template: a line of the table."""
    name = f"| {path.stem} |" if path.suffix == ".jinja" else f"| {path.name}, its tokenizer |"
    try:
        encoder = encoder_of(path)
    except ValueError as refusal:
        why = str(refusal).removeprefix("the tokenizer's chat template").strip(" :").removeprefix("refuses it: ")
        why = why.replace("|", "\\|")
        return f"{name} refused: {why} |" + " |" * (len(TALKS) - 1)
    cells = []
    for talk in TALKS.values():
        found = check(encoder, talk)
        why = "" if isinstance(found, list) else f"{found.reason}: {found.detail}"
        cells.append(str(len(found)) if isinstance(found, list) else next(REASONS[r] for r in REASONS if r in why))
    return f"{name} " + " | ".join(cells) + " |"


@pytest.mark.parametrize("path", [*TOKENIZERS, *TEMPLATES], ids=lambda path: path.name)
def test_a_stock_template_trains_on_what_it_would_generate(path, request):
    """`--golden` writes its line of the table."""
    now, lines = row(path), TABLE.read_text().splitlines()
    name = now[: now.index(" |", 2) + 2]
    if request.config.getoption("--golden"):
        rows = sorted({*(line for line in lines if line.startswith("| ") and not line.startswith(name)), now})
        head = next(line for line in rows if line.startswith("| template |"))
        above = [line for line in lines if not line.startswith("|")]
        rows.remove(head)
        TABLE.write_text("\n".join([*above, head, "|---" * (len(TALKS) + 1) + "|", *rows]) + "\n")
    else:
        assert now in lines or not any(line.startswith(name) for line in lines)


@pytest.mark.parametrize("path", TOKENIZERS, ids=lambda path: path.name)
def test_blanks_code_and_every_script_get_the_ids_of_the_reference(path):
    """Case 18: a tokenizer with tokens for runs of blanks, or with a normaliser, refuses nothing for them."""
    encoder = encoder_or_skip(path)
    texts = (
        "def f():\n    return 1\n\n\n\n        x",
        "two  blanks, a\ttab and \u00a0 another",
        "cafe\u0301 \u212b \ufb01 👩‍👩‍👧 你好，世界。 Привет ▁ ▁▁",
        "1234567 3.14 <b>bold</b> <table> $x^2$ `a`  \n  - b\n\n\n- c",
        "don't WON'T I'LL 'quoted' ... --- ===",
        "𝔘𝔫𝔦 \u200b\u200d\u2028\ufeff\U000e0041",
    )
    for text in texts:
        turns = (Turn("user", text), Turn("assistant", text), Turn("user", "ok"), Turn("assistant", text))
        found = check(encoder, Conversation("x", turns))
        assert isinstance(found, list), found


@pytest.mark.parametrize("path", TOKENIZERS, ids=lambda path: path.name)
def test_control_tokens_that_people_write_never_become_any(path):
    encoder = encoder_or_skip(path)
    special = [t for t in encoder.template.special if t.isascii()]
    typed = "".join(special[:40]) + " and " + special[0]
    clean = Conversation("x", (Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c"), Turn("assistant", "d")))
    attacked = Conversation("x", tuple(Turn(t.role, f"{t.content} {typed}.") for t in clean.turns))
    ids = set(encoder.tokenizer.convert_tokens_to_ids(list(encoder.template.special)))

    def control(example: Example) -> list[int]:
        return [int(i) for i in example.input_ids if int(i) in ids]

    for plain, other in zip(*encoder.unfold([clean, attacked]), strict=True):
        assert isinstance(plain, Example)
        assert isinstance(other, Example)
        assert control(other) == control(plain)
        assert len(spans(other)) == len(spans(plain))
        assert np.flatnonzero(other.supervised).size > np.flatnonzero(plain.supervised).size
