"""The turns of an agent's session, put together from the lines of its log."""

from typing import Any

from vicuna_lit.records.exports import Unusable

_BETWEEN = {"type": "text", "text": "\n\n"}
"""What one speaker said in several lines is one turn of so many paragraphs."""


class SessionTurns:
    """Messages for `turns_of`: lines of one speaker in a row are one of them, results stand behind their calls."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self._keys: list[Any] = []
        self._names: dict[str, str] = {}

    def user(self, *parts: Any) -> None:
        """What the model was told, by the user or by the program around it."""
        self._say("user", list(parts))

    def assistant(self, *parts: Any, key: Any = None) -> None:
        """Parts of a reply: texts, thoughts, calls.

        Args:
            key: names the reply; lines with the same one are one reply, also where results stand between them.
        """
        for part in parts:
            if isinstance(part, dict) and part.get("type") in ("tool_use", "tool_call"):
                self._names[str(part.get("id"))] = str(part.get("name"))
        reply = self._reply()
        if key is not None and reply is not None and self._keys[reply] == key:
            self.messages[reply]["content"] += parts
            return
        self._say("assistant", list(parts), key)

    def result(self, call: Any, content: Any) -> None:
        """What a tool answered to a call; it stands before what the user said meanwhile.

        Raises:
            Unusable: there is no such call.
        """
        if str(call) not in self._names:
            raise Unusable("result without its call", f"a result names the call {call!r:.60}, which no reply holds")
        said = {"role": "tool", "tool_call_id": str(call), "name": self._names[str(call)], "content": content or ""}
        reply, place = self._reply(behind=("tool", "user")), len(self.messages)
        if reply is not None and str(call) in _calls(self.messages[reply]):
            place = reply + 1
            while place < len(self.messages) and self.messages[place]["role"] == "tool":
                place += 1
        self._insert(place, said, None)

    def stopped(self) -> None:
        """The last reply was stopped or cut off, or is not the model's: it is out of the loss."""
        if (reply := self._reply()) is not None:
            self.messages[reply]["weight"] = 0

    def conversation(self, id: str, system: str = "") -> dict[str, Any]:
        """The record of one conversation.

        Raises:
            Unusable: a call has no result although the talk goes on.
        """
        for place, message in enumerate(self.messages):
            answered = place + 1
            while answered < len(self.messages) and self.messages[answered]["role"] == "tool":
                answered += 1
            results = {m["tool_call_id"] for m in self.messages[place + 1 : answered]}
            if answered < len(self.messages) and (missing := [c for c in _calls(message) if c not in results]):
                name = self._names[missing[0]]
                raise Unusable("call without its result", f"turn {place + 1}: {name}: the talk goes on without one")
        first = [{"role": "system", "content": system}] if system.strip() else []
        return {"id": id, "messages": [*first, *self.messages]}

    def _reply(self, behind: tuple[str, ...] = ("tool",)) -> int | None:
        """The place of the last reply, if only such roles stand behind it."""
        for place in range(len(self.messages) - 1, -1, -1):
            if self.messages[place]["role"] == "assistant":
                return place
            if self.messages[place]["role"] not in behind:
                return None
        return None

    def _say(self, role: str, parts: list[Any], key: Any = None) -> None:
        if not parts:
            return
        if self.messages and self.messages[-1]["role"] == role:
            said = self.messages[-1]["content"]
            self.messages[-1]["content"] = [*said, *([_BETWEEN] if _ends_in_text(said, parts) else []), *parts]
            self._keys[-1] = key
        else:
            self._insert(len(self.messages), {"role": role, "content": parts}, key)

    def _insert(self, place: int, message: dict[str, Any], key: Any) -> None:
        self.messages.insert(place, message)
        self._keys.insert(place, key)


def _calls(message: dict[str, Any]) -> list[str]:
    if message["role"] != "assistant":
        return []
    return [str(p.get("id")) for p in message["content"] if p.get("type") in ("tool_use", "tool_call")]


def _ends_in_text(said: list[Any], parts: list[Any]) -> bool:
    return said[-1].get("type") == "text" and parts[0].get("type") == "text"


def text_part(said: str) -> dict[str, str]:
    """A text as a part of a message."""
    return {"type": "text", "text": said}
