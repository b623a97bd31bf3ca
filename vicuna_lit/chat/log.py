"""The files of a chat: lines of JSON, appended whole by any number of threads."""

import threading
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from vicuna_lit.chat.moderation import Decision
from vicuna_lit.config.chat import ChatConfig
from vicuna_lit.evaluate.answers import complete
from vicuna_lit.evaluate.reviews import Vote
from vicuna_lit.records.conversation import Conversation, to_record
from vicuna_lit.run_folder import write_hydra_files
from vicuna_lit.whole_files import naming, write_json

VOTES, CONVERSATIONS, MODERATION = "votes.jsonl", "conversations.jsonl", "moderation.jsonl"


class ChatLog:
    """Appends to the files of a run folder; lines that a kill has left half are cut off first."""

    def __init__(self, config: ChatConfig):
        self.folder, self._record = Path(config.run.dir), config.record
        self._log_text = getattr(config.moderation, "log_text", False)
        self._moderated = config.moderation.kind != "none"
        self._lock = threading.Lock()
        self.folder.mkdir(parents=True, exist_ok=True)
        write_hydra_files(self.folder)
        write_json(self.folder / "config.json", config.model_dump(mode="json"))
        for name in (VOTES, CONVERSATIONS, MODERATION):
            complete(self.folder / name)

    @property
    def kept(self) -> str:
        """That something of what people say is written down, as the beginning of a sentence; empty: nothing is."""
        if self._record:
            return "Conversations are recorded"
        return "What is moderated is recorded" if self._moderated and self._log_text else ""

    @property
    def files(self) -> list[str]:
        """The names of the files that it writes."""
        return [VOTES, CONVERSATIONS] * self._record + [MODERATION] * self._moderated

    def conversation(self, conversation: Conversation, model: str) -> None:
        """A conversation so far; it replaces the shorter ones of its id, and `vicuna-prepare` keeps the longest."""
        if self._record:
            self._append(CONVERSATIONS, to_record(conversation) | {"model": model, "time": now()})

    def vote(self, vote: Vote) -> None:
        """A vote, with all that it is about."""
        if self._record:
            self._append(VOTES, asdict(vote))

    def moderation(self, decision: Decision, id: str, what: str, text: str) -> None:
        """A decision; the text only where the config says so.

        Args:
            id: of the conversation.
            what: `prompt`, or the model whose reply it was.
        """
        if self._moderated:
            line: dict[str, Any] = {"time": now(), "id": id, "what": what, "passed": decision.passed}
            line |= {"categories": decision.categories, "failed": decision.failed, "characters": len(text)}
            self._append(MODERATION, line | ({"text": text} if self._log_text else {}))

    def _append(self, name: str, record: dict[str, Any]) -> None:
        line = orjson.dumps(record) + b"\n"
        file = self.folder / name
        with self._lock, naming(file), file.open("ab") as stream:
            stream.write(line)


def now() -> str:
    """The time as it is written."""
    return datetime.now(UTC).isoformat(timespec="seconds")
