"""Vicuna's recipe as an instrument for research.

    import vicuna_lit as vl

    config = vl.load("train", "experiment=quickstart", "seed=1", "run.dir=runs/seed1")
    result = vl.fit(config)
    vl.Chat.load(f"{result.run_dir}/hf").say("Who are you?")

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
    "Prepared": "prepare.run",
    "Rejection": "conversation",
    "Result": "train.folder",
    "Turn": "conversation",
    "build": "data.build",
    "load": "compose",
    "make_encoder": "tokenizer",
    "prepare_data": "prepare.run",
    "read": "formats",
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
    "Prepared",
    "Rejection",
    "Result",
    "Turn",
    "build",
    "fit",
    "load",
    "make_encoder",
    "prepare_data",
    "read",
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
