"""What answers: a model on this machine or on a server. Page and terminal see both as a stream of texts."""

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from vicuna_lit.config.chat import ChatConfig
from vicuna_lit.config.evaluate import EndpointSource, FolderSource, ModelRef
from vicuna_lit.paths import MissingPath, locate_model, model_name
from vicuna_lit.records.conversation import Conversation
from vicuna_lit.run_folder import RunError

Stream = Generator[str, None, bool]
"""The pieces of a reply, and in the end whether it was cut off at the most tokens. Closing it ends the work."""


class BackendError(RunError):
    """A model cannot answer; the message is for the person who asks."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How one reply is made."""

    temperature: float
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class Sent:
    """Exactly what a model is sent."""

    tokens: tuple[tuple[int, str], ...] = ()
    """Ids and the text of each, of a model on this machine."""
    messages: tuple[dict[str, str], ...] = ()
    """Of a server, which makes the tokens itself."""


@runtime_checkable
class Backend(Protocol):
    """One model. Several conversations may be under way at once, from several threads."""

    name: str

    def reply(self, conversation: Conversation, settings: Settings) -> Stream:
        """The model's next turn. `conversation.id` stays the same from turn to turn.

        Raises:
            BackendError: while the stream is read.
        """
        ...

    def sent(self, conversation: Conversation) -> Sent:
        """What the model would be sent.

        Raises:
            BackendError: the conversation has no prompt.
        """
        ...

    def check(self) -> None:
        """
        Raises:
            BackendError: it cannot answer now.
        """
        ...


def open_backends(config: ChatConfig) -> tuple[Backend, ...]:
    """The model, and the one it is put against.

    Raises:
        BackendError: a server does not answer, or both models have one name.
        ModelError, MissingPath: a folder holds no model.
    """
    sources = [config.model] if config.against is None else [config.model, config.against]
    names = [name_of(source) for source in sources]
    if len(set(names)) < len(names):
        raise BackendError(
            f"model and against are both called {names[0]}; name one of them, against={{name: base, path: <folder>}}"
        )
    found = tuple(_open(source, name, config) for source, name in zip(sources, names, strict=True))
    for backend in found:
        backend.check()
    return found


def name_of(source: ModelRef) -> str:
    """What a model is called: as its entry says, else as its server or its folder does."""
    if isinstance(source, EndpointSource):
        return source.name or source.model
    return source.name or model_name(place_of_model(source))


def place_of_model(source: FolderSource) -> Path:
    """As `locate_model`; a name without a folder may be meant for a server's model, and is told how to say so.

    Raises:
        ModelError, MissingPath: there is no model.
    """
    try:
        return locate_model(source.path)
    except MissingPath as error:
        if "/" in source.path or source.path.startswith("."):
            raise
        raise MissingPath(f"{error}; a model of a server is {source.path}@<url>") from None


def _open(source: ModelRef, name: str, config: ChatConfig) -> Backend:
    if isinstance(source, EndpointSource):
        from vicuna_lit.inference.openai_client import EndpointBackend

        return EndpointBackend(source, name, config.limits.timeout_seconds)
    from transformers.utils.logging import disable_progress_bar

    from vicuna_lit.inference.generate import load_noted
    from vicuna_lit.inference.local import LocalBackend

    disable_progress_bar()
    chat = load_noted(source.path, name, config.template, config.template_date)
    return LocalBackend(chat, name, config.limits.kept_conversations)
