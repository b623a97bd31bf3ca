"""Pieces that are cut out of the tokens of a whole have the ids and masks that they would have alone."""

import numpy as np
import pytest

from tests.helpers.runs import QUICKSTART
from vicuna_lit.config.compose import load
from vicuna_lit.data import cut_tokens
from vicuna_lit.data.cut_tokens import Cut
from vicuna_lit.data.splitting import split
from vicuna_lit.data.tokenizer import make_encoder
from vicuna_lit.records.conversation import Conversation, Turn


@pytest.mark.parametrize("template", ["vicuna_v1", "chatml"])
@pytest.mark.parametrize("system", [(), (Turn("system", "Be brief. "),)], ids=["", "system"])
def test_a_cut_is_the_same_as_tokenising_anew(template, system, monkeypatch):
    more = ["model.add_tokens=['<|im_start|>','<|im_end|>']"] if template == "chatml" else []
    config = load("train", f"model.tokenizer={QUICKSTART / 'tokenizer'}", f"template={template}", *more)
    encoder = make_encoder(config)
    said = ("  two  blanks ", "\n\nlines\n", "</s> <|im_end|> typed", "[NAME_1] ünï 文", "once more", "once more")
    turns = [Turn(role, f"{text} {n // 3}") for n in range(9) for text in said for role in ("user", "assistant")]
    talks = [Conversation("a", (*system, *turns)), Conversation("b", (*system, *turns[8:32]))]
    cuts: list[Cut] = []

    class Counted(Cut):
        def __init__(self, *parts):
            super().__init__(*parts)
            cuts.append(self)

    monkeypatch.setattr(cut_tokens, "Cut", Counted)
    for context in (200, 400):
        for talk, parts in zip(talks, split(talks, encoder, context, carried=1), strict=True):
            assert sum(part.exchanges for part in parts) == len(talk.turns) // 2
            for part, alone in zip(parts, encoder.unfold([part.piece for part in parts]), strict=True):
                assert isinstance(part.result, list) and isinstance(alone, list)
                for a, b in zip(part.result, alone, strict=True):
                    assert np.array_equal(a.input_ids, b.input_ids)
                    assert np.array_equal(a.supervised, b.supervised)
                    assert (a.placeholder is None) == (b.placeholder is None)
                    assert (
                        a.placeholder is None or b.placeholder is None or np.array_equal(a.placeholder, b.placeholder)
                    )
    assert len(cuts) > 10
