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
    from vicuna_lit.compare.run import Run, read_run
    from vicuna_lit.compare.runs import Sweep, read_sweep
    from vicuna_lit.config.compose import ConfigError, load
    from vicuna_lit.data.chat_template import TemplateError, render
    from vicuna_lit.data.datamodule import ConversationDataModule
    from vicuna_lit.data.dataset import build_dataset
    from vicuna_lit.data.encoder import Encoder, Example, tokenize
    from vicuna_lit.data.mask_view import show_mask, show_masks
    from vicuna_lit.data.plan import plan_steps
    from vicuna_lit.data.tokenizer import make_encoder
    from vicuna_lit.estimate.run import Estimate, estimate_run
    from vicuna_lit.evaluate.answers import read_answers
    from vicuna_lit.evaluate.published_reviews import read_reviews
    from vicuna_lit.evaluate.questions import read_questions
    from vicuna_lit.evaluate.report import Evaluation
    from vicuna_lit.evaluate.run import evaluate_models
    from vicuna_lit.inference.generate import Chat, generate
    from vicuna_lit.models.causal_lm import SupervisedLM
    from vicuna_lit.prepare.html import to_markdown
    from vicuna_lit.prepare.run import Prepared, prepare_data
    from vicuna_lit.records.conversation import Conversation, Rejection, Turn, write_jsonl
    from vicuna_lit.records.readers import read
    from vicuna_lit.train.module import SupervisedModule
    from vicuna_lit.train.result import Result
    from vicuna_lit.train.run import fit

warnings.filterwarnings("ignore", "IProgress not found")  # tqdm's in a notebook; none of its bars is drawn here

__version__ = "0.1.0"
"""The only place that holds it: `pyproject.toml` and `--version` read it here."""

_HOMES = {
    "Chat": "inference.generate",
    "ConfigError": "config.compose",
    "Conversation": "records.conversation",
    "ConversationDataModule": "data.datamodule",
    "Encoder": "data.encoder",
    "Estimate": "estimate.run",
    "Evaluation": "evaluate.report",
    "Example": "data.encoder",
    "Prepared": "prepare.run",
    "Rejection": "records.conversation",
    "Run": "compare.run",
    "SupervisedLM": "models.causal_lm",
    "SupervisedModule": "train.module",
    "Sweep": "compare.runs",
    "read_run": "compare.run",
    "read_sweep": "compare.runs",
    "Result": "train.result",
    "TemplateError": "data.chat_template",
    "Turn": "records.conversation",
    "build_dataset": "data.dataset",
    "estimate_run": "estimate.run",
    "evaluate_models": "evaluate.run",
    "fit": "train.run",
    "generate": "inference.generate",
    "load": "config.compose",
    "make_encoder": "data.tokenizer",
    "prepare_data": "prepare.run",
    "read": "records.readers",
    "read_answers": "evaluate.answers",
    "read_questions": "evaluate.questions",
    "read_reviews": "evaluate.published_reviews",
    "render": "data.chat_template",
    "plan_steps": "data.plan",
    "show_mask": "data.mask_view",
    "show_masks": "data.mask_view",
    "to_markdown": "prepare.html",
    "tokenize": "data.encoder",
    "write_jsonl": "records.conversation",
}

__all__ = [
    "Chat",
    "ConfigError",
    "Conversation",
    "ConversationDataModule",
    "Encoder",
    "Estimate",
    "Evaluation",
    "Example",
    "Prepared",
    "Rejection",
    "Result",
    "Run",
    "SupervisedLM",
    "SupervisedModule",
    "Sweep",
    "TemplateError",
    "Turn",
    "build_dataset",
    "estimate_run",
    "evaluate_models",
    "fit",
    "generate",
    "load",
    "make_encoder",
    "plan_steps",
    "prepare_data",
    "read",
    "read_answers",
    "read_questions",
    "read_reviews",
    "read_run",
    "read_sweep",
    "render",
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
