"""Templates of today's families: what their published Jinja writes, with tools and reasoning, and its exported form."""

import json
import re
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.encoders import FAMILIES, encoder_of, tokenizer_named
from tests.helpers.examples import examples
from tests.helpers.jinja_templates import TEMPLATES, encoder_with
from vicuna_lit.data.chat_template import TemplateError, TextTemplate, render, template_named
from vicuna_lit.data.encoder import Example
from vicuna_lit.data.tokenizer import bind
from vicuna_lit.records.conversation import Conversation, Rejection, ToolCall, Turn

PUBLISHED = json.loads((Path(__file__).parents[2] / "golden/published_templates.json").read_text())
"""By family and case: what the family's published Jinja writes on 3 February 2026, made by that Jinja."""
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Adds <b>né</b>.",
            "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]},
        },
    },
    {"type": "function", "function": {"name": "now", "description": "The time.", "parameters": {}}},
]
CALL = ToolCall("add", '{"x": 1, "why": "\\"né\\""}', "call00001")


def talk(*turns: Turn, tools: Any = None) -> Conversation:
    return Conversation("x", turns, json.dumps(tools) if tools else "")


CASES = {
    "plain": Conversation.of("Hi, who are you?", "I am.", "What is\n2 + 2?", "4"),
    "system": Conversation.of("Hi!", "Hello.", "And?", "So.", system="Be brief."),
    "blanks": Conversation.of(" Hi!\n", "\n Hello. \n", "", "  ", system=" Be brief. \n"),
    "blank system": Conversation.of("Hi!", "Hello.", system=""),
    "call": talk(
        Turn("user", "1+1?"), Turn("assistant", "", tool_calls=(CALL,)), Turn("tool", '{"a": 2}'),
        Turn("assistant", "2"), tools=TOOLS,
    ),
    "calls": talk(
        Turn("system", "Be brief."), Turn("user", "1+1?"), Turn("assistant", "Well:", tool_calls=(CALL, CALL)),
        Turn("tool", "2"), Turn("tool", "né 3"), Turn("assistant", "2"), Turn("user", "Sure?"),
        Turn("assistant", "Yes."), tools=TOOLS[:1],
    ),
    "reasoning": talk(
        Turn("user", "1+1?"), Turn("assistant", "2", reasoning="\nAdd.\n\nSo."), Turn("user", "Sure?"),
        Turn("assistant", "Yes."), Turn("user", "Why?"), Turn("assistant", "\n<think>\nHm.\n</think>\n\nSo."),
    ),
}  # fmt: skip
REFUSED = {
    "system": {
        "mistral_v3": "no system turn",
        "mistral_v3_tekken": "no system turn",
    },
    "call": {
        "gemma3": "no tool turn",
        "mistral_v3": "cannot write tools",
        "mistral_v3_tekken": "cannot write tools",
        "mistral_v7": "cannot write tools",
        "phi4": "no tool turn",
        "olmo2": "no tool turn",
        "smollm3": "cannot write tools",
        "smollm3_think": "cannot write tools",
    },
    "calls": {"llama3_1": "no place for text beside a call", "llama3_2": "no place for text beside a call"},
    "reasoning": {
        "qwen3_instruct": "cannot write reasoning",
        "qwen3_nothink": "cannot write reasoning",
        "smollm3": "cannot write reasoning",
    },
}


def template(name: str) -> TextTemplate:
    config = template_named(name)
    assert config.kind == "text"
    return TextTemplate(config, "<s>", "</s>", "2026-02-03")


def messages(conversation: Conversation) -> list[dict[str, Any]]:
    """As OpenAI's, for `apply_chat_template`."""
    found = []
    for t in conversation.turns:
        calls = [
            {"type": "function", "id": c.id, "function": {"name": c.name, "arguments": c.values}} for c in t.tool_calls
        ]
        others = {"reasoning_content": t.reasoning, "tool_calls": calls}
        found.append({"role": t.role, "content": t.content} | {k: v for k, v in others.items() if v})
    return found


@cache
def exported(name: str) -> Any:
    """A tokenizer with the family's exported template."""
    encoder = encoder_of("quickstart", name)
    encoder.tokenizer.chat_template = encoder.template.jinja()
    return encoder.tokenizer


@pytest.mark.parametrize(("name", "case"), [(name, case) for name, cases in PUBLISHED.items() for case in cases])
@pytest.mark.promise("Templates of today's families write what their published ones write")
def test_a_familys_template_writes_what_its_published_one_writes(name, case):
    assert "".join(s.text for s in template(name).render(CASES[case])) == PUBLISHED[name][case]


def test_every_family_is_compared_with_what_it_published():
    assert set(PUBLISHED) == set(FAMILIES)
    assert all("plain" in cases for cases in PUBLISHED.values())


@pytest.mark.parametrize(("case", "name"), [(case, name) for case, names in REFUSED.items() for name in names])
def test_what_a_template_cannot_say_is_refused_by_name(case, name):
    with pytest.raises(TemplateError, match=REFUSED[case][name]):
        template(name).render(CASES[case])


def test_the_loss_is_taken_on_reasoning_text_and_calls_and_on_no_frame():
    segments = template("qwen3").render(CASES["calls"])
    supervised = "".join(s.text for s in segments if s.supervised)
    call = '<tool_call>\n{"name": "add", "arguments": {"x": 1, "why": "\\"né\\""}}\n</tool_call>'
    empty = "<think>\n\n</think>\n\n"
    assert supervised == f"{empty}Well:\n{call}\n{call}<|im_end|>{empty}2<|im_end|>{empty}Yes.<|im_end|>"
    prompted = template("qwen3_nothink").render(CASES["plain"])
    assert "".join(s.text for s in prompted if s.supervised) == "I am.<|im_end|>4<|im_end|>"


def test_a_switch_in_a_system_prompt_is_refused_and_the_templates_own_prompt_is_not():
    with pytest.raises(TemplateError, match="smollm3 reads /no_think in a turn of system as a switch"):
        template("smollm3").render(Conversation.of("Hi!", "Hello.", system="Be brief. /no_think"))
    with pytest.raises(TemplateError, match="system_prompt: template smollm3 reads /think in it as a switch"):
        bind(tokenizer_named("quickstart"), template_named("smollm3"), "Be brief. /think")
    assert "Thought section </think>" in render(Conversation.of("Hi!", "Hello."), "smollm3_think")


def test_arguments_that_are_no_json_object_are_refused():
    call = Turn("assistant", "", tool_calls=(ToolCall("add", "x = 1"),))
    with pytest.raises(TemplateError, match="the arguments of a call of add are no JSON object"):
        template("qwen2_5").render(talk(Turn("user", "1+1?"), call, tools=TOOLS))
    with pytest.raises(TemplateError, match="the arguments of a call of add are no JSON object"):
        encoder_with(TEMPLATES["changes nothing"]).template.render(talk(Turn("user", "1+1?"), call, tools=TOOLS))


def test_calls_that_nobody_could_read_back_are_refused():
    """Results told by ids that are not there, and arguments in quotation marks that they end."""
    plain, tool = TEMPLATES["changes nothing"], [Turn("tool", "7"), Turn("tool", "8"), Turn("assistant", "ok")]
    calls = tuple(ToolCall("add", json.dumps({"x": x}), id="") for x in ("a", "b'c"))
    asked = [Turn("user", "?"), Turn("assistant", "", tool_calls=calls)]
    told = encoder_with(plain.replace("{{ m.role }}", "{{ m.role }}{{ m.tool_call_id }}")).template
    encoder_with(plain).template.render(talk(*asked, *tool))
    with pytest.raises(TemplateError, match="tells the results of calls made at once by their ids"):
        told.render(talk(*asked, *tool))
    quoted = re.sub(r"<call>.*?</call>", "<call>{{ c.function.name }}(x='{{ c.function.arguments.x }}')</call>", plain)
    for call, refused in zip(calls, (False, True), strict=True):
        one = talk(Turn("user", "?"), Turn("assistant", "", tool_calls=(call,)))
        with pytest.raises(TemplateError, match='does not escape it: add: "b\'c"') if refused else nullcontext():
            encoder_with(quoted).template.render(one)


def test_a_date_is_written_in_the_familys_form():
    assert "Today Date: 03 Feb 2026\n" in "".join(s.text for s in template("llama3_2").render(CASES["plain"]))
    assert "Today Date: 26 Jul 2024\n" in "".join(s.text for s in template("llama3_1").render(CASES["plain"]))
    assert "Today Date: 03 February 2026\n" in "".join(s.text for s in template("smollm3").render(CASES["plain"]))


@pytest.mark.parametrize("name", [n for n in FAMILIES if n not in ("llama3_2", "smollm3", "smollm3_think")])
@pytest.mark.parametrize("case", CASES)
def test_the_exported_template_gives_the_same_ids_and_the_same_mask(name, case):
    result = encoder_of("quickstart", name).encode([CASES[case]])[0]
    arguments = {"tools": TOOLS[: len(json.loads(CASES[case].tools))]} if CASES[case].tools else {}
    if isinstance(result, Rejection):
        assert result.reason == "template refuses it"
        return
    given = exported(name).apply_chat_template(
        messages(CASES[case]), return_dict=True, return_assistant_tokens_mask=True, **arguments
    )
    assert given["input_ids"] == result.input_ids.tolist()
    if case not in ("blanks", "reasoning"):  # the mask of transformers begins where white space was taken off
        assert [bool(m) for m in given["assistant_masks"]] == result.supervised.tolist()


pieces = st.sampled_from(
    ["", " ", "\n", "Hello", "</s>", "<|im_end|>", "x = 1\n", "é", "你好", "{content}", "</think>"]
)
texts = st.lists(pieces, max_size=4).map("".join)


@pytest.mark.parametrize("tokenizer", ["quickstart", "sentencepiece_like"])
@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=examples(8), deadline=None)
@given(said=st.lists(texts, min_size=2, max_size=6))
def test_the_mask_is_the_replies_and_each_prompt_is_a_prefix(tokenizer, name, said):
    encoder = encoder_of(tokenizer, name)
    conversation = Conversation.of(*said[: len(said) // 2 * 2], id="x")
    result = encoder.encode([conversation])[0]
    if isinstance(result, Rejection):
        assert result.reason
        return
    assert isinstance(result, Example)
    edges = [i for i, on in enumerate(result.supervised) if on and not result.supervised[i - 1]]
    assert len(edges) == len(conversation.turns) // 2
    for n, first in enumerate(edges):
        assert (
            encoder.prompt_ids(Conversation("x", conversation.turns[: 2 * n + 1])) == result.input_ids[:first].tolist()
        )


def test_the_date_is_part_of_what_names_the_tokens_where_it_is_written():
    for name, same in {"llama3_2": False, "llama3_1": True}.items():
        config = template_named(name)
        assert config.kind == "text"
        days = {TextTemplate(config, "<s>", "</s>", day).identity for day in ("2026-02-03", "2026-02-04")}
        assert (len(days) == 1) == same
