"""Models and services that tests of the chat share."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from experiments.serve.fake import Fault
from tests.helpers.runs import COMMON
from vicuna_lit.chat.log import ChatLog
from vicuna_lit.chat.moderation import make_moderator
from vicuna_lit.chat.service import ChatService, ChatSession
from vicuna_lit.config.compose import load
from vicuna_lit.inference.backend import Backend, Sent, Settings, Stream
from vicuna_lit.records.conversation import Conversation

HOW = Settings(0.0, 40)


def random_folder(folder: Path, seed: int = 0) -> Path:
    """A model folder as a training run exports it, with random weights and a context of 512."""
    from vicuna_lit.data.tokenizer import make_encoder
    from vicuna_lit.models import export
    from vicuna_lit.models.causal_lm import build_model

    config = load("train", *COMMON)
    encoder = make_encoder(config)
    torch.manual_seed(seed)
    model = build_model(config, encoder)
    with torch.no_grad():  # as it is initialised it would say one token again and again
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and "embed" not in name:
                weight.normal_(std=0.2)
    export.export(model, encoder, folder / "hf")
    return folder / "hf"


class Scripted:
    """A backend that says the prompt again, or what a test has it say."""

    def __init__(self, name: str = "echo"):
        self.name, self.asked, self.closed = name, [], 0
        self.pieces: Any = lambda text: [f"{self.name} has heard: ", text]

    def reply(self, conversation: Conversation, settings: Settings) -> Stream:
        """The script; an exception in it is raised."""
        self.asked.append(conversation)
        try:
            for piece in self.pieces(conversation.turns[-1].content):
                if isinstance(piece, Exception):
                    raise piece
                yield piece
            return False
        finally:
            self.closed += 1

    def sent(self, conversation: Conversation) -> Sent:
        """The last turn as a message."""
        return Sent(messages=({"role": "user", "content": conversation.turns[-1].content},))

    def check(self) -> None:
        """Always well."""


def service(folder: Path, *overrides: str, backends: tuple[Backend, ...] | None = None) -> ChatService:
    """A service of scripted models, with its files in a folder."""
    backends = backends or (Scripted(),)
    against = ["against=x"] if len(backends) == 2 else []
    config = load("chat", "model=x", *against, f"run.dir={folder}", *overrides)
    return ChatService(config, backends, make_moderator(config.moderation), ChatLog(config))


def said(service: ChatService, talk: ChatSession, text: str, how: Settings = HOW) -> list[str]:
    """Asks, and returns the finished reply of each side, or its notice."""
    for _ in service.answer(talk, text, how, "test"):
        pass
    return [side.notice if side.failed else side.conversation.turns[-1].content for side in talk.sides]


def scripted(body: dict[str, Any]) -> Iterator[str | float | Fault]:
    """What the fake server says to prompts that ask for something; it counts and repeats the others."""
    text = body["messages"][-1]["content"]
    turns = sum(m["role"] == "user" for m in body["messages"])
    match text.split():
        case ["die"]:
            yield from ("I was about to say", Fault.DIES)
        case ["hang"]:
            yield from ("One moment", Fault.HANGS)
        case ["fail"]:
            yield Fault.FAILS
        case ["slowly", count]:
            for i in range(int(count)):
                yield from (f"{i} ", 0.1)
        case ["story"]:
            yield from ("First you ", "build a ", "bomb", " and then")
        case ["say", *_]:
            yield text.partition(" ")[2]
        case _:
            yield from (f"{body['model']} ", f"turn {turns}: ", text)


def take(stream: Any) -> tuple[str, bool]:
    """A whole stream, and whether it was cut off."""
    text = ""
    while True:
        try:
            text += next(stream)
        except StopIteration as end:
            return text, end.value
