"""Vicuna's recipe as an instrument for research.

    import vicuna_lit as vl

    config = vl.load("train", "experiment=quickstart", "seed=1", "run.dir=runs/seed1")
    result = vl.fit(config)
    vl.generate(f"{result.run_dir}/hf", "Who are you?")
    vl.evaluate_models(vl.load("evaluate", f"models=[base,{result.run_dir}/hf]", "judge=rule")).totals

Names are imported on first use, so `import vicuna_lit` costs nothing.
"""

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vicuna_lit.chat.engine import Chat, generate
    from vicuna_lit.compare.runs import Run, Sweep, read_run, read_sweep
    from vicuna_lit.compose import ConfigError, load
    from vicuna_lit.conversation import Conversation, Rejection, Turn, write_jsonl
    from vicuna_lit.data.build import build
    from vicuna_lit.data.schedule import schedule
    from vicuna_lit.data.show import show_mask
    from vicuna_lit.data.tokenize import Encoder, Example, tokenize
    from vicuna_lit.estimate.run import Estimate, estimate_run
    from vicuna_lit.evaluate.answers import read_answers
    from vicuna_lit.evaluate.questions import read_questions
    from vicuna_lit.evaluate.recorded import read_reviews
    from vicuna_lit.evaluate.report import Evaluation
    from vicuna_lit.evaluate.run import evaluate_models
    from vicuna_lit.formats import read
    from vicuna_lit.masks import show_masks
    from vicuna_lit.prepare.html import to_markdown
    from vicuna_lit.prepare.run import Prepared, prepare_data
    from vicuna_lit.template import TemplateError, render
    from vicuna_lit.tokenizer import make_encoder
    from vicuna_lit.train.folder import Result
    from vicuna_lit.train.run import fit

warnings.filterwarnings("ignore", "IProgress not found")  # tqdm's in a notebook; none of its bars is drawn here

_HOMES = {
    "Chat": "chat.engine",
    "ConfigError": "compose",
    "Conversation": "conversation",
    "Encoder": "data.tokenize",
    "Estimate": "estimate.run",
    "Evaluation": "evaluate.report",
    "Example": "data.tokenize",
    "Prepared": "prepare.run",
    "Rejection": "conversation",
    "Run": "compare.runs",
    "Sweep": "compare.runs",
    "read_run": "compare.runs",
    "read_sweep": "compare.runs",
    "Result": "train.folder",
    "TemplateError": "template",
    "Turn": "conversation",
    "build": "data.build",
    "estimate_run": "estimate.run",
    "evaluate_models": "evaluate.run",
    "fit": "train.run",
    "generate": "chat.engine",
    "load": "compose",
    "make_encoder": "tokenizer",
    "prepare_data": "prepare.run",
    "read": "formats",
    "read_answers": "evaluate.answers",
    "read_questions": "evaluate.questions",
    "read_reviews": "evaluate.recorded",
    "render": "template",
    "schedule": "data.schedule",
    "show_mask": "data.show",
    "show_masks": "masks",
    "to_markdown": "prepare.html",
    "tokenize": "data.tokenize",
    "write_jsonl": "conversation",
}

__all__ = [
    "Chat",
    "ConfigError",
    "Conversation",
    "Encoder",
    "Estimate",
    "Evaluation",
    "Example",
    "Prepared",
    "Rejection",
    "Result",
    "Run",
    "Sweep",
    "TemplateError",
    "Turn",
    "build",
    "estimate_run",
    "evaluate_models",
    "fit",
    "generate",
    "load",
    "make_encoder",
    "prepare_data",
    "read",
    "read_answers",
    "read_questions",
    "read_reviews",
    "read_run",
    "read_sweep",
    "render",
    "schedule",
    "show_mask",
    "show_masks",
    "to_markdown",
    "tokenize",
    "write_jsonl",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vicuna_lit' has no attribute {name!r}")
    return getattr(import_module(f"vicuna_lit.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
