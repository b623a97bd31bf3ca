"""The names of `import vicuna_lit`: cheap, documented, typed; and those that a notebook uses on one conversation."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

import vicuna_lit as vl
from tests.helpers.encoders import TEMPLATES, encoder_for, tokenizer_named
from tests.helpers.runs import COMMON, QUICKSTART, run_here
from vicuna_lit.data.mask_view import MaskView

TALK = vl.Conversation.of("My name is Ada.", "Nice to meet you.", "What is </s> my name?", "Ada.")
TOKENIZER = str(QUICKSTART / "tokenizer")


def test_the_import_is_cheap():
    code = "import sys, vicuna_lit; assert not {'torch', 'transformers', 'hydra', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_lists_of_names_agree():
    tree = ast.parse(Path(vl.__file__).read_text())
    block = next(n for n in tree.body if isinstance(n, ast.If))
    typed = {
        alias.name: (node.module or "").removeprefix("vicuna_lit.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == vl._HOMES
    assert vl.__all__ == sorted(vl._HOMES)
    assert dir(vl) == vl.__all__
    with pytest.raises(AttributeError, match="no attribute 'Chatt'"):
        _ = vl.Chatt


def methods(thing: type) -> dict[str, Any]:
    """The methods and properties that a user of a class calls."""
    members = {name: member for name, member in vars(thing).items() if not name.startswith("_")}
    functions = {k: m.fget if isinstance(m, property) else getattr(m, "__func__", m) for k, m in members.items()}
    return {name: function for name, function in functions.items() if inspect.isfunction(function)}


@pytest.mark.parametrize("name", vl.__all__)
def test_every_name_is_documented_and_typed(name: str):
    thing = getattr(vl, name)
    # A dataclass or named tuple without a docstring gets one that lists its fields.
    assert thing.__doc__ and not thing.__doc__.startswith(f"{name}(")
    functions = methods(thing) if inspect.isclass(thing) else {name: thing}
    for where, function in functions.items():
        assert function.__doc__, where
        assert inspect.signature(function).return_annotation is not inspect.Signature.empty, where
    called = [] if inspect.isclass(thing) and issubclass(thing, Exception) else [thing]
    for function in [*called, *functions.values()]:
        for parameter in inspect.signature(function).parameters.values():
            known = parameter.annotation is not inspect.Parameter.empty
            assert known or parameter.name in ("self", "cls"), (function, parameter.name)


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_rendered_text_is_what_the_ids_decode_to(name: str):
    encoder = encoder_for(tokenizer_named("byte_level"), name)
    example = vl.tokenize(TALK, encoder)
    assert vl.render(TALK, encoder.template) == encoder.decode(example.input_ids)
    asked = vl.Conversation.of("My name is Ada.")
    prompt = vl.render(asked, encoder.template, generation_prompt=True)
    assert prompt == encoder.decode(encoder.prompt_ids(asked))
    assert vl.render(TALK, encoder.template).startswith(prompt)


def test_a_template_by_name_or_config():
    asked = vl.Conversation.of("Hi!", system="Be brief.")
    assert vl.render(asked, generation_prompt=True) == "<s>Be brief. USER: Hi! ASSISTANT:"
    assert vl.render(asked, "chatml") == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi!<|im_end|>\n"
    assert vl.render(asked, vl.load("train", "template=chatml").template) == vl.render(asked, "chatml")
    with pytest.raises(vl.TemplateError, match=r"chatlm: no such choice \(did you mean chatml\?\); choices: alpaca"):
        vl.render(asked, "chatlm")
    with pytest.raises(vl.TemplateError, match="needs the tokenizer"):
        vl.render(asked, "tokenizer")
    with pytest.raises(vl.TemplateError, match="template alpaca has no tool turn"):
        vl.render(vl.Conversation("", (vl.Turn("user", "?"), vl.Turn("tool", "42"))), "alpaca")


def test_an_encoder_of_a_folder_is_that_of_a_config():
    config = vl.load("train", "template=llama2", "system_prompt='Be brief.'")
    ours, theirs = vl.make_encoder(TOKENIZER, "llama2", "Be brief."), vl.make_encoder(config)
    assert vl.tokenize(TALK, ours).input_ids.tolist() == vl.tokenize(TALK, theirs).input_ids.tolist()
    other = vl.make_encoder(config, "vicuna_v1")
    assert "Be brief. USER: My" in other.decode(vl.tokenize(TALK, other).input_ids)
    with pytest.raises(vl.TemplateError, match="this tokenizer has no chat template"):
        vl.make_encoder(TOKENIZER)


def test_what_is_rejected_says_why():
    encoder = vl.make_encoder(TOKENIZER, "vicuna_v1")
    with pytest.raises(vl.TemplateError, match=r"^rejected: no supervised token$"):
        vl.tokenize(vl.Conversation.of("Hi!"), encoder)
    with pytest.raises(vl.TemplateError, match="private-use character: a turn holds"):
        vl.tokenize(vl.Conversation.of("Hi!", chr(0x10F000)), encoder)


def test_masks_side_by_side():
    grid = vl.show_masks(TALK, {"<ours>": TOKENIZER}, ["vicuna_v1", "chatml"], "Be brief.")
    view, refusal = grid.rows["vicuna_v1"]["<ours>"], grid.rows["chatml"]["<ours>"]
    assert isinstance(view, MaskView)
    assert str(view) == repr(view) == (
        "<s>Be brief. USER: My name is Ada. ASSISTANT:⟦ Nice to meet you.</s>⟧USER: What is </s> my name? "
        "ASSISTANT:⟦ Ada.</s>⟧"
    )  # fmt: skip
    assert refusal == (
        "template chatml needs <|im_start|>, <|im_end|> as single tokens, which this tokenizer lacks; choose "
        """another template, or add them: "model.add_tokens=['<|im_start|>','<|im_end|>']\""""
    )
    page = grid._repr_html_()
    assert page.count("<mark") == view.supervised == sum(s for _, s in view.tokens)
    assert "&lt;ours&gt;" in page and "needs &lt;|im_start|&gt;" in page and "<s>" not in page
    with pytest.raises(vl.TemplateError, match="no such choice"):
        vl.show_masks(TALK, {}, ["chatlm"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model that has seen one step."""
    run = tmp_path_factory.mktemp("models") / "one"
    run_here([*COMMON, "trainer.max_steps=1", f"run.dir={run}"])
    return run / "hf"


def test_generate(folder: Path):
    chat = vl.Chat.load(folder, system="Be brief.")
    prompts = ["Hi!", "Who are you, and who made you?", "What is two and two?"]
    alone = [vl.Chat.load(folder, system="Be brief.").say(text, 8) for text in prompts]
    assert vl.generate(chat, prompts, 8, batch_size=2) == alone
    assert vl.generate(chat, prompts[0], max_new_tokens=8) == alone[0]
    assert chat.conversation == vl.Conversation.of(system="Be brief.")
    assert vl.generate(folder, prompts[0], 8) == vl.Chat.load(folder).say(prompts[0], 8)
    assert vl.generate(chat, []) == []


def test_a_line_in_a_notebook_is_written_over():
    code = "from vicuna_lit.notebook import Line\nline = Line()\nfor i in range(3):\n    line.write(f'step {i}')"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(notebook, kernel_name="python3").execute()
    assert [output["data"] for output in notebook.cells[0].outputs] == [{"text/plain": "step 2"}]


def test_a_finished_run_is_found_with_steps_as_numbers(folder: Path):
    again = vl.fit(vl.load("train", *COMMON, "trainer.max_steps=1", f"run.dir={folder.parent}"))
    assert again.status == "finished" and list(again.val_by_step) == [0, 1]
