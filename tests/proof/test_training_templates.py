"""TRL's patched training templates beside the stock ones: what ours trains on and theirs, every difference by its kind.

They are others' and not in this repository, see `test_stock_templates.py`. A difference without a kind fails."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.jinja_templates import DATE, OTHERS, encoder_with, messages_of, spans
from tests.helpers.talks import TALKS
from vicuna_lit.data.encoder import Encoder
from vicuna_lit.data.template_date import dated
from vicuna_lit.records.conversation import Conversation, Rejection

PATCHED = sorted(OTHERS.glob("*_training.jinja"))
TABLE = Path(__file__).parents[2] / "docs/training_templates.md"
"""Letters alone: the kinds of difference of each pair and talk."""
THOUGHT = re.compile(
    r"^.*</think>|<\|channel>thought\n.*?<channel\|>|<\|channel\|>analysis<\|message\|>.*?<\|end\|><\|start\|>assistant",
    re.DOTALL,
)


def theirs_of(encoder: Encoder, template: str, talk: Conversation) -> tuple[list[int], np.ndarray] | None:
    """Ids and mask of a patched template; None: it takes no such talk."""
    tools = json.loads(talk.tools) if talk.tools else None
    for as_text in (False, True):
        try:
            found: Any = encoder.tokenizer.apply_chat_template(
                messages_of(talk.turns, as_text),
                tools=tools,
                return_dict=True,
                return_assistant_tokens_mask=True,
                **{"chat_template": template, **dated(template, DATE)},
            )
        except Exception:  # a Jinja template may raise anything
            continue
        return found["input_ids"], np.array(found["assistant_masks"], bool)
    return None


def stretches(encoder: Encoder, ids: list[int], mask: np.ndarray) -> tuple[list[str], bool]:
    """The supervised texts, and whether a token inside a letter was left out."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]]))).reshape(-1, 2).tolist()
    joined: list[list[int]] = []
    for start, stop in edges:
        if joined and encoder.decode(ids[joined[-1][0] : joined[-1][1]]).endswith("\ufffd"):
            joined[-1][1] = stop
        else:
            joined.append([start, stop])
    return [encoder.decode(ids[a:b]) for a, b in joined], len(joined) < len(edges)


def kinds(ours: str, theirs: str, prompt: str, eos: str) -> str:
    """How the texts of one reply differ; `?` where the letters do not explain all of it."""
    found = ""
    if theirs.rstrip() != theirs and ours.rstrip() == ours:
        found, theirs = found + "n", theirs.rstrip()
    if re.fullmatch(re.escape(ours) + r"\s*" + re.escape(eos), theirs):
        found, theirs = found + "z", ours
    tails = (prompt, prompt.removesuffix("<think>\n"))
    given = max(n for tail in tails for n in range(min(60, len(theirs)) + 1) if tail.endswith(theirs[:n]))
    if given and theirs != ours:
        found, theirs = found + "p", theirs[given:]
    if ours.endswith("<|return|>") and theirs.endswith("<|end|>"):
        found, theirs = found + "e", theirs.removesuffix("<|end|>") + "<|return|>"
    if ours == theirs + "<|tool_response>":
        found, ours = found + "s", theirs
    if ours.startswith("<|turn>model\n"):
        found, ours = found + "h", ours.removeprefix("<|turn>model\n")
    if ours != theirs:
        mine, other = (THOUGHT.sub("", text).lstrip("\n") for text in (ours, theirs))
        if mine.removesuffix("<|tool_response>") == other != mine:
            found, mine = found + "s", other
        if mine != other:
            return "?"
        found += "t"
    return found


def cell(encoder: Encoder, template: str, talk: Conversation) -> str:
    found, theirs = encoder.unfold([talk])[0], theirs_of(encoder, template, talk)
    if isinstance(found, Rejection) or theirs is None:
        return "ours" if theirs else "both refuse" if isinstance(found, Rejection) else "TRL"
    ids, mask = theirs
    texts, gap = stretches(encoder, ids, mask)
    mine = [(e, a, b) for e in found for a, b in spans(e)]
    if len(mine) != len(texts):
        return "?"
    letters = {"g"} if gap else set()
    for (example, a, b), text in zip(mine, texts, strict=True):
        prompt = encoder.decode(example.input_ids[:a])
        letters |= {*kinds(encoder.decode(example.input_ids[a:b]), text, prompt, encoder.tokenizer.eos_token)}
    if len(found) > 1:
        letters.add("u")
    elif not letters:
        assert (found[0].supervised == mask).all()
    if len(found) == 1 and "t" not in letters:
        assert found[0].input_ids.tolist() == ids
    return "".join(sorted(letters)) or "="


@pytest.mark.slow
@pytest.mark.skipif(not PATCHED, reason="no training templates beside the stock ones, see CONTRIBUTING.md")
def test_every_difference_from_trls_training_templates_has_its_kind(request):
    """`--golden` writes the table."""
    lines = []
    for path in PATCHED:
        name = path.stem.removesuffix("_training")
        try:
            encoder = encoder_with((OTHERS / f"{name}.jinja").read_text())
        except ValueError as refusal:
            why = str(refusal).removeprefix("the tokenizer's chat template ")
            lines.append(f"| {name} | refused: {why} |" + " |" * (len(TALKS) - 1))
            continue
        cells = [cell(encoder, path.read_text(), talk) for talk in TALKS.values()]
        assert not any("?" in one for one in cells), (name, cells)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    above = TABLE.read_text().partition("| template |")[0]
    head = f"| template | {' | '.join(TALKS)} |\n" + "|---" * (len(TALKS) + 1) + "|\n"
    now = above + head + "\n".join(lines) + "\n"
    if request.config.getoption("--golden"):
        TABLE.write_text(now)
    assert TABLE.read_text() == now
