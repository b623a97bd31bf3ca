"""A chat that VS Code exports (Copilot's) or keeps in `chatSessions` → messages.

After `ISerializableChatData` of github.com/microsoft/vscode (src/vs/workbench/contrib/chat/common/model/chatModel.ts).
Read is what was typed and written. Files that were given, and what its tools did, are no text in it.
"""

from typing import Any

from vicuna_lit.records.exports import Unusable, typed
from vicuna_lit.records.session_turns import SessionTurns, text_part

_SHOWN = (
    "progressMessage", "progressTask", "progressTaskSerialized", "undoStop", "codeblockUri", "mcpServersStarting",
    "command", "confirmation", "warning",
)  # fmt: skip
"""Parts that are on the screen alone."""


def copilot_messages(record: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The messages of such a chat; None: it is none.

    Raises:
        Unusable: a reply was drawn from a file, or a tool wrote it.
    """
    requests = record.get("requests")
    if not isinstance(requests, list) or "responderUsername" not in record:
        return None
    said = SessionTurns()
    for number, request in enumerate(requests, 1):
        where = f"request {number}"
        _say(typed(request, dict, where), where, said)
    return said.conversation("")["messages"]


def _say(request: dict[str, Any], where: str, said: SessionTurns) -> None:
    message = request.get("message")
    text = message.get("text") if isinstance(message, dict) else message
    given = request.get("variableData")
    if isinstance(given, dict) and given.get("variables"):
        raise Unusable("context beside the turns", f"{where}: variableData: what the files hold is not in the export")
    said.user(text_part(typed(text, str, f"{where}: message")))
    parts = typed(request.get("response") or [], list, f"{where}: response")
    result = request.get("result")
    texts, thoughts = [], []
    for part in parts:
        kind, value = _part(part, where)
        (thoughts if kind == "thinking" else texts).append(value)
    if thought := "".join(thoughts):
        said.assistant({"type": "thinking", "thinking": thought})
    if answer := "".join(texts):
        said.assistant(text_part(answer))
        if request.get("isCanceled") or (isinstance(result, dict) and result.get("errorDetails")):
            said.stopped()


def _part(part: Any, where: str) -> tuple[str, str]:
    """What a part is, and its text.

    Raises:
        Unusable: it is no text.
    """
    part = typed(part, dict, f"{where}: response")
    kind, value = str(part.get("kind") or "markdownContent"), part.get("value")
    if kind in _SHOWN:
        return kind, ""
    if kind == "markdownContent":
        content = part.get("content", value)
        value = content.get("value") if isinstance(content, dict) else content
    elif kind == "inlineReference":
        reference = part.get("inlineReference")
        path = reference.get("path") if isinstance(reference, dict) else None
        value = part.get("name") or (path.rsplit("/", 1)[-1] if isinstance(path, str) else None)
    elif kind == "thinking":
        value = "".join(map(str, value)) if isinstance(value, list) else value or ""
    else:
        raise Unusable("unknown content type", f"{where}: a part of kind {kind!r:.40}: what tools did is no text")
    return kind, typed(value, str, f"{where}: {kind}")
