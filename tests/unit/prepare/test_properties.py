"""All steps on texts made of what their rules look for: cleaned twice is cleaned once, each time the same, and no
fence is touched."""

from collections import Counter
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vicuna_lit import load
from vicuna_lit.prepare.steps import steps
from vicuna_lit.records.conversation import Conversation, Rejection, Turn

SENTENCES = "filters.replies.refusal.scope=sentence", "filters.replies.identity.scope=sentence"
CODE = "x = train\\_test\\_split(a\\*b)\nShare Prompt\n1 / 2\nI'm sorry, but as an AI I cannot help."
PIECES = st.sampled_from(
    [
        "word", " ", "\n", "\n\n", ". ", ": ", "'", '"', "(", "*", "\\*", "\\_", "_", "$", "$x\\_1$", "\\(", "|", "> ",
        "~~~", "`a\\_b`", "`", f"```\n{CODE}\n```", "```python\n", "Share Prompt", "지금 번역하기", "번역결과\n",
        "python\nCopy code\n",
        "\n1 / 2", "Save & SubmitCancel", "Web search results:\n\nInstructions: Use it.\nQuery: ", "me@host.com",
        "+49 30 1234 5678", "tel 030 1234567", "4111 1111 1111 1111", "api_key = ", "sk-" + "a1B2c3D4e5" * 3,
        "://u:p4ssw0rd@h.com",
        "password: 'Sec9ret4x'", "I'm sorry, but I can't help with that.", "As an AI language model, I have no taste.",
        "My knowledge cutoff is 2021.", "<think>I am an AI.</think>", "I am ChatGPT.",
        "Too many requests in 1 hour", "continue",
        "很抱歉，我无法满足这个请求。", "ha " * 300, "\u200b", "İ", "é", "kill yourself", "<p>a</p>", "[EMAIL]",
    ]
)  # fmt: skip
TEXTS = st.lists(PIECES, min_size=1, max_size=9).map("".join)


@cache
def pipeline(*overrides: str):
    return steps(load("prepare", "raw=x", "filters.min_characters=1", *overrides))


def cleaned(conversation: Conversation, *overrides: str) -> Conversation | Rejection:
    result: Conversation | Rejection = conversation
    for step in pipeline(*overrides).values():
        if isinstance(result, Rejection):
            break
        result = step(result, Counter())
        if isinstance(result, Conversation):
            assert step(result, Counter()) == result
    return result


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [(), SENTENCES], ids=["turns", "sentences"])
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3))
@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_what_was_cleaned_is_clean_and_no_fence_was_touched(overrides, exchanges):
    turns = [Turn(role, text) for pair in exchanges for role, text in zip(("user", "assistant"), pair, strict=True)]
    fenced = f"Look:\n\n```\n{CODE}\n```"
    talk = Conversation("x", (Turn("user", f"{fenced}\n\nWhy?Share Prompt"), Turn("assistant", fenced), *turns))
    once = cleaned(talk, *overrides)
    assert once == cleaned(talk, *overrides)
    if isinstance(once, Rejection):
        return
    assert all(fenced in turn.content for turn in once.turns[:2])
    assert cleaned(once, *overrides) == once
