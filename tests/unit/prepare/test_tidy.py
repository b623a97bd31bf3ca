"""Tidy: what pages, extensions and converters add is gone; what people wrote, and all code, is as it was."""

import json
from collections import Counter
from functools import cache

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vicuna_lit import load
from vicuna_lit.config.base import Role
from vicuna_lit.prepare.tidy import Tidy
from vicuna_lit.records.conversation import Conversation, Turn


@cache
def config(*overrides: str):
    return load("prepare", "raw=x", *overrides).tidy


def tidied(text: str, role: Role = "user", tally: Counter[str] | None = None, *overrides: str) -> str:
    whole = Conversation("x", (Turn(role, text),))
    return Tidy(config(*overrides))(whole, tally if tally is not None else Counter()).turns[0].content


@pytest.mark.parametrize(
    ("before", "after", "rule"),
    [
        ("How do I export a report?Share Prompt", "How do I export a report?", "share button"),
        ("continue Share Prompt\n", "continue", "share button"),
        ("Make it funny,Save & SubmitCancel", "Make it funny,", "edit buttons"),
        ("What is the velocity? \n 1 / 2", "What is the velocity?", "page counter"),
        (
            "More detail.\n \n \n \n 지금 번역하기\n CopyCopy HTMLRead Aloud7 chars | 2 words",
            "More detail.",
            "reader buttons",
        ),
        ("Answer in English.Share Prompt지금 번역하기", "Answer in English.", "translation buttons"),
        ("변수란?\n 번역결과\n What is a variable?", "변수란?\n What is a variable?", "translation label"),
        ("Code:\n\npython\nCopy code\nprint(1)", "Code:\n\npython\nprint(1)", "copy code"),
        ("Code:\n\npython\nCopy\nEdit\nprint(1)", "Code:\n\npython\nprint(1)", "copy code"),
        ("pythonCopy code\nprint(1)", "python\n\nprint(1)", "copy code on the line"),
        (
            'Web search results:\n\n[1] "A page"\nURL: https://a.example\nCurrent date: 1/27/2023\n\nInstructions: Use '
            "the provided web search results, write a reply.\nQuery: Why is the sky blue?\nBriefly.",
            "Why is the sky blue?\nBriefly.",
            "web search",
        ),
        ("train\\_test\\_split and \\_\\_init\\_\\_", "train_test_split and __init__", "markdown escapes"),
        ("d = c \\* t; BX\\*2; f(\\*\\*args)", "d = c * t; BX*2; f(**args)", "markdown escapes"),
    ],
)
def test_what_was_added_is_gone_and_counted(before: str, after: str, rule: str):
    tally: Counter[str] = Counter()
    assert tidied(before, "user", tally) == after
    assert tally[f"turns tidied: {rule}"] == 1
    assert tidied(before.replace("\n", "\r\n"), "user", tally) == after.replace("\n", "\r\n")
    assert tally[f"turns tidied: {rule}"] == 2
    off = config().model_copy(update={"unescape": False, "rules": {}})
    talk = Conversation("x", (Turn("user", before),))
    assert Tidy(off)(talk, Counter()) == talk


def test_what_todays_chats_add_to_a_reply_is_gone_and_counted():
    for rule, before, after in (
        ("said by", "ChatGPT said:\nParis.", "Paris."),
        ("said by heading", "##### ChatGPT said:\n\nParis.", "Paris."),
        ("thought for", "ChatGPT said:\nThought for 1m 12s\n\nParis.", "Paris."),
        ("thought for", " \nThought for a few seconds >\nParis.", "Paris."),
        ("show thinking", "Show thinking \n\nParis.", "Paris."),
        ("searched", "Searched 5 sites\nParis.", "Paris."),
        ("searched", "Searching the web…\n\nParis.", "Paris."),
        ("analyzing", "Analyzing...\nThe mean is 3.", "The mean is 3."),
        ("memory updated", "Updated saved memory\nGot it.", "Got it."),
        ("source marks", "Blue 【12:3†report.pdf】 indeed【4†source】.", "Blue indeed."),
        ("citation marks", "It rose citeturn0search1turn0news2.", "It rose."),
        ("citation marks", "It rose. \ue200cite\ue202turn0search1\ue202turn0view4\ue201", "It rose."),
        ("citation marks", "It rose. :contentReference[oaicite:2]{index=2}", "It rose."),
        ("page buttons", "Paris is it.\nCopy\nRetry", "Paris is it."),
        ("page buttons", "Paris.\nCopy\nGood response\nBad response\nRead aloud\nEdit", "Paris."),
        ("page buttons", "Paris.\n\nShare\n\nExport\n\nRewrite\n", "Paris."),
        ("sources button", "Paris is the capital.\n\nSources", "Paris is the capital."),
        ("thought for", "Thought about capital cities for 4 seconds\n\nParis.", "Paris."),
        ("reasoned for", "Reasoned about maps for 1m 5s\n\nParis.", "Paris."),
        ("thought for chinese", "已深度思考（用时 5 秒）\n\n巴黎。", "巴黎。"),
        ("thinking of claude", "<antThinking>easy\nnow</antThinking>\nParis.", "Paris."),
        ("gemini said", "Gemini said\nParis.", "Paris."),
        ("copilot said", "Copilot said\nParis.", "Paris."),
        ("analyzing", "Analyzed\n\nThe mean is 3.", "The mean is 3."),
        ("browsed", "Browsed the web\nParis.", "Paris."),
        ("finished", "Finished browsing\nParis.", "Paris."),
        ("memory was updated", "Memory updated\nGot it.", "Got it."),
        ("citation marks", "It rose.[oaicite:3]", "It rose."),
        ("copy code", "Code:\n\npython\n\nCopy\n\nEdit\nprint(1)", "Code:\n\npython\nprint(1)"),
        ("helpful so far", "Paris.\n\nIs this conversation helpful so far?", "Paris."),
        ("show more", "Paris.\n\nShow more", "Paris."),
        ("code with caution", "Call it:\nf()\nUse code with caution.", "Call it:\nf()"),
        ("mistakes notice", "Paris.\n\nChatGPT can make mistakes. Check important info.", "Paris."),
    ):
        tally: Counter[str] = Counter()
        assert (tidied(before, "assistant", tally), tally[f"turns tidied: {rule}"]) == (after, 1), before
        assert tidied(f"```\n{before}\n```", "assistant") == f"```\n{before}\n```"
    assert tidied("#### You said:\n\nWhere is Paris?", "user") == "Where is Paris?"


def test_what_a_user_asks_about_is_no_furniture():
    for text in (
        "### ChatGPT said:\nThe earth is flat.\n\nIs this right?",
        "Translate my buttons into German\nCopy\nEdit\nRegenerate",
        "Thought for 12 seconds\n\nWhat does this line mean?",
    ):
        assert tidied(text, "user") == text


def test_what_only_sounds_like_furniture_stays():
    for text in (
        "You said:\nParis is large. Is it?",
        "I thought for 12 seconds\nand answered.",
        "Thought for 12 seconds about it, then she left.\nThe end.",
        "Show thinking skills\nby examples.",
        "Searched the web for you and found:\n- a",
        "The menu has:\nCopy\nRetry\nEdit",
        "Then press\nRetry",
        "Lists:\n\nSources",
        "Sources\n- a\n- b",
        "Use `【4†source】`; the † marks the dead 【note】; please cite turnover figures.",
        "ChatGPT can make mistakes, so check.",
        "# Claude said: a play\nAct 1",
        "Analyzing...\n is what the bar prints.",
        "Analyzed by hand, the mean is 3.",
        "Thought about it for 4 seconds, then left.",
        "Reasoned debate for 5 seconds\nis rare.",
        "Gemini said that it is Leo.",
        "Finished browsing? Then close the tabs.",
        "Memory updated the view:\nit is smaller.",
        "The link below says:\nShow more",
        "Use code with caution when it is old.",
    ):
        assert (tidied(text, "assistant"), tidied(text, "user")) == (text, text)


@pytest.mark.parametrize(
    "text",
    [
        "Where is the Share Prompt button?",
        "How do I get rid of the words Share Prompt",
        "Why does every page say\nplease click Share Prompt",
        "Translate now into French, please.",
        "Web search results: why are they bad?",
        "What is this?\nx =\n 1 / 2",
        "Compute:\n1 / 2",
        "solve: 10 / 2\n4 / 2",
        "Which are whole?\n1 / 2, 3 / 2\n2 / 2",
        "Press Copy code to copy.",
        "```\ntrain\\_test\\_split\nShare Prompt",
        "```python\nCopy code\n```",
        "Use `a\\_b` and $x\\_1 + y\\_2$ and \\(a\\_b\\) and $$a\\_b$$.",
        "\\section{train\\_test} of my thesis",
        "C:\\_cache and a \\\\_ b",
    ],
)
def test_what_was_written_stays(text: str):
    assert tidied(text) == text


def test_a_reply_keeps_the_escape_that_keeps_it_from_being_emphasis():
    assert tidied("\\*not emphasis\\* but 2 \\* 3", "assistant") == "\\*not emphasis\\* but 2 * 3"


@pytest.mark.parametrize("end", ["3 / 4", "10 / 10", "1 / 2"])
def test_a_score_at_the_end_of_a_reply_is_no_page_counter(end: str):
    assert tidied(f"The jury's vote on the play\n{end}", "assistant").endswith(end)


def test_the_cases_of_page_furniture(shared):
    for name in ("11_share_prompt_furniture", "12_escaped_markdown"):
        for line in (shared.parent / "cases" / "prepare" / f"{name}.jsonl").read_text().splitlines():
            for turn in json.loads(line)["conversations"]:
                text = tidied(turn["value"], "user" if turn["from"] == "human" else "assistant")
                for left in ("Share Prompt", "1 / 2", "Copy code", "번역결과", "\\"):
                    assert left not in text


PIECES = st.sampled_from(
    [
        "Share Prompt",
        "지금 번역하기",
        "\n1 / 2",
        "a\\_b",
        "\\*",
        " ",
        "\n",
        "word",
        "python\nCopy code\n",
        "$",
        "`",
        ":",
        "\\",
        "_",
    ]
)


@given(st.lists(PIECES, max_size=12).map("".join), st.sampled_from(["user", "assistant"]))
@example("a\\_\\*\\_b\\_", "user")
@settings(max_examples=400, deadline=None)
def test_tidying_twice_is_tidying_once(text: str, role):
    once = tidied(text, role)
    assert tidied(once, role) == once


@given(st.lists(PIECES.filter(lambda p: "`" not in p), max_size=8).map("".join), st.sampled_from(["user", "assistant"]))
@settings(max_examples=300, deadline=None)
def test_code_inside_fences_is_never_touched(inside: str, role):
    block = f"```\n{inside}\n```"
    assert block in tidied(f"Look, a\\_b:\n{block}\nWhy?Share Prompt", role)


@pytest.mark.parametrize("unit", ["\\_", "`", "$", "\\(", "a\n", " / ", "Copy code\n", "\\*\\_x ", "번역 ", "python\n"])
def test_a_long_hostile_text_takes_no_more_than_linear_time(unit: str):
    import time

    clock = time.process_time()
    tidied(unit * (200_000 // len(unit)))
    assert time.process_time() - clock < 5
