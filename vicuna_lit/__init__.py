"""Vicuna's recipe as an instrument for research.

    import vicuna_lit as vl

    config = vl.load("train", "experiment=quickstart", "seed=1", "run.dir=runs/seed1")
    result = vl.fit(config)
    vl.Chat.load(f"{result.run_dir}/hf").say("Who are you?")
    vl.evaluate_models(vl.load("evaluate", f"models=[base,{result.run_dir}/hf]", "judge=rule")).totals

Names are imported on first use, so `import vicuna_lit` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vicuna_lit.chat.engine import Chat
    from vicuna_lit.compose import ConfigError, load
    from vicuna_lit.conversation import Conversation, Rejection, Turn, write_jsonl
    from vicuna_lit.data.build import build
    from vicuna_lit.data.schedule import schedule
    from vicuna_lit.data.show import show_mask
    from vicuna_lit.data.tokenize import Encoder
    from vicuna_lit.evaluate.answers import read_answers
    from vicuna_lit.evaluate.questions import read_questions
    from vicuna_lit.evaluate.recorded import read_reviews
    from vicuna_lit.evaluate.report import Evaluation
    from vicuna_lit.evaluate.run import evaluate_models
    from vicuna_lit.formats import read
    from vicuna_lit.prepare.html import to_markdown
    from vicuna_lit.prepare.run import Prepared, prepare_data
    from vicuna_lit.tokenizer import make_encoder
    from vicuna_lit.train.folder import Result
    from vicuna_lit.train.run import fit

_HOMES = {
    "Chat": "chat.engine",
    "ConfigError": "compose",
    "Conversation": "conversation",
    "Encoder": "data.tokenize",
    "Evaluation": "evaluate.report",
    "Prepared": "prepare.run",
    "Rejection": "conversation",
    "Result": "train.folder",
    "Turn": "conversation",
    "build": "data.build",
    "evaluate_models": "evaluate.run",
    "load": "compose",
    "make_encoder": "tokenizer",
    "prepare_data": "prepare.run",
    "read": "formats",
    "read_answers": "evaluate.answers",
    "read_questions": "evaluate.questions",
    "read_reviews": "evaluate.recorded",
    "schedule": "data.schedule",
    "show_mask": "data.show",
    "fit": "train.run",
    "to_markdown": "prepare.html",
    "write_jsonl": "conversation",
}

__all__ = [
    "Chat",
    "ConfigError",
    "Conversation",
    "Encoder",
    "Evaluation",
    "Prepared",
    "Rejection",
    "Result",
    "Turn",
    "build",
    "evaluate_models",
    "fit",
    "load",
    "make_encoder",
    "prepare_data",
    "read",
    "read_answers",
    "read_questions",
    "read_reviews",
    "schedule",
    "show_mask",
    "to_markdown",
    "write_jsonl",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vicuna_lit' has no attribute {name!r}")
    return getattr(import_module(f"vicuna_lit.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
