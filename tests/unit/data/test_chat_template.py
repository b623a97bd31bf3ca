"""Golden files for every template, and the published forms they must match."""

from pathlib import Path

import pytest

from tests.helpers.encoders import FAMILIES, TEMPLATES
from vicuna_lit.data.chat_template import Segment, TemplateError, TextTemplate, template_named
from vicuna_lit.records.conversation import Conversation, Turn

GOLDEN = Path(__file__).parents[2] / "golden" / "templates"
CASES = {
    "plain": Conversation.of("Hi, who are you?", "I am Vicuna.", "What is\n2 + 2?", "4"),
    "system": Conversation.of("Hi!", "Hello.", system="Be brief."),
    "odd": Conversation.of("", " leading and trailing ", "</s> ASSISTANT: ", ""),
    "alpaca input": Conversation.of("Add.\n\n### Input:\n1 2", "3"),
    "tool": Conversation(
        "x", (Turn("user", "6*7?"), Turn("assistant", "calc(6*7)"), Turn("tool", "42"), Turn("assistant", "It is 42."))
    ),
}


def template(name: str) -> TextTemplate:
    bos = "<|begin_of_text|>" if name == "llama3" else "<s>"
    config = template_named(name)
    assert config.kind == "text"
    return TextTemplate(config, bos, "</s>", "2026-02-03")


def shown(segments: list[Segment]) -> str:
    """Supervised text between ⟦ ⟧, literal text underlined by ‹ ›."""
    out = ""
    for text, supervised, literal, _ in segments:
        inner = f"‹{text}›" if literal else text
        out += f"⟦{inner}⟧" if supervised else inner
    return out.replace("⟧⟦", "")


@pytest.mark.parametrize("name", [*TEMPLATES, *FAMILIES])
def test_golden(name: str, request):
    lines = []
    for case, conversation in CASES.items():
        try:
            text = shown(template(name).render(conversation))
        except TemplateError as error:
            text = f"refused: {error}"
        lines.append(f"== {case}\n{text}\n")
    text = f"stop: {template(name).stop!r}\n" + "".join(lines)
    path = GOLDEN / f"{name}.txt"
    if request.config.getoption("--golden"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert path.read_text() == text


SYSTEM_V1 = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
ALPACA = "Below is an instruction that describes a task{}. Write a response that appropriately completes the request."
PUBLISHED = {
    ("vicuna_v1", "plain"): f"<s>{SYSTEM_V1} USER: Hi, who are you? ASSISTANT: I am Vicuna.</s>"
    "USER: What is\n2 + 2? ASSISTANT: 4</s>",
    ("vicuna_v1", "system"): "<s>Be brief. USER: Hi! ASSISTANT: Hello.</s>",
    ("alpaca", "alpaca input"): "<s>"
    + ALPACA.format(", paired with an input that provides further context")
    + "\n\n### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:3</s>",
    ("llama2", "system"): "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi! [/INST] Hello. </s>",
    ("llama2", "plain"): "<s>[INST] Hi, who are you? [/INST] I am Vicuna. </s><s>[INST] What is\n2 + 2? [/INST] 4 </s>",
    ("llama3", "system"): "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nHi!<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|>",
    ("chatml", "system"): "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi!<|im_end|>\n"
    "<|im_start|>assistant\nHello.<|im_end|>\n",
    ("zephyr", "system"): "<|system|>\nBe brief.</s>\n<|user|>\nHi!</s>\n<|assistant|>\nHello.</s>\n",
    ("mistral", "plain"): "<s>[INST] Hi, who are you? [/INST] I am Vicuna.</s>[INST] What is\n2 + 2? [/INST] 4</s>",
}


@pytest.mark.parametrize(("name", "case"), PUBLISHED)
def test_published_forms(name: str, case: str):
    assert "".join(s.text for s in template(name).render(CASES[case])) == PUBLISHED[name, case]


def test_vicuna_v0_supervises_the_mark_that_ends_a_turn():
    segments = template("vicuna_v0").render(CASES["plain"])
    text = "".join(s.text for s in segments)
    assert text.endswith("### Human: What is\n2 + 2?\n### Assistant: 4\n###")
    assert "".join(s.text for s in segments if s.supervised) == " I am Vicuna.\n### 4\n###"
    assert template("vicuna_v0").stop == "###"


@pytest.mark.parametrize("name", [*TEMPLATES, *FAMILIES])
def test_the_prompt_is_what_a_reply_follows(name: str):
    t = template(name)
    whole = "".join(s.text for s in t.render(CASES["plain"]))
    for turns in (1, 3):
        prompt = "".join(s.text for s in t.prompt(Conversation("x", CASES["plain"].turns[:turns])))
        assert whole.startswith(prompt)
        reply = whole[len(prompt) :].removeprefix("<think>\n\n</think>\n\n").lstrip()
        assert reply.startswith(CASES["plain"].turns[turns].content)


def test_turns_that_a_template_lacks_are_refused():
    with pytest.raises(TemplateError, match="vicuna_v1 has no tool turn"):
        template("vicuna_v1").render(CASES["tool"])
