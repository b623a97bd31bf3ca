"""What chat applications export besides ChatGPT: Claude, Open WebUI, DeepSeek, Grok, LM Studio, … → messages.

The messages are OpenAI's, for `turns_of`. What cannot be read is refused by its name: an answer to a question about a
file that nobody shows the model would teach it to invent.
"""

import html
import re
from collections.abc import Iterator
from typing import Any

from vicuna_lit.records.copilot_chat import copilot_messages
from vicuna_lit.records.exports import Unusable, branch, typed
from vicuna_lit.records.fields import filled
from vicuna_lit.records.message_forms import NO_PARENT, refuse_cut_off
from vicuna_lit.records.span_attributes import spans_in

SENDERS = {"human": "user", "user": "user", "assistant": "assistant"}
UNSAID = ("token_budget", "flag")
"""Claude's parts that no one wrote or read."""
_DETAILS = re.compile(r'<details type="(\w+)"[^>]*>\s*(?:<summary>.*?</summary>)?\s*(.*?)\s*</details>\s*', re.S)


def app_messages(record: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The messages of a record, told by its shape; None: it is of no such export.

    Raises:
        Unusable: it cannot be read.
    """
    if is_claude(record):
        return claude_messages(record)
    if isinstance(chunked := record.get("chunkedPrompt"), dict):
        return studio_messages(chunked)
    if "requests" in record and (messages := copilot_messages(record)) is not None:
        return messages
    if isinstance(nodes := record.get("mapping"), dict) and any(_is_deepseek(node) for node in nodes.values()):
        return deepseek_messages(record)
    for key, reader in (("responses", grok_messages), ("messages", lm_studio_messages)):
        held = record.get(key)
        if isinstance(held, list) and held and (messages := reader(held)) is not None:
            return messages
    chat = webui_chat(record)
    return None if chat is None else webui_messages(chat)


TALKS = ("messages", "conversations", "conversation", "chat_messages", "responses", "messagesTree")
"""Keys of a conversation that hold its turns as a list."""
_HOLDERS = {
    "data", "chats", "conversations", "chat-sessions", "chat_sessions", "sessions", "threads", "dialogs", "dialogues",
    "records", "rows", "examples",
}  # fmt: skip
"""Keys of an object that hold conversations; under others there may be samples of one, the worse ones too."""


def conversations_in(record: Any) -> list[Any]:
    """The conversations that one object holds, as exports of a whole account do; of any other record itself.

    They are a list under a key (`{"data": [{"messages": …}, …]}`), one level deeper, or the values of the object.
    """
    if not isinstance(record, dict):
        return record if _are_talks(record) else [record]
    if "resourceSpans" in record and (spans := spans_in(record)) is not None:
        return spans
    inner = [value for value in record.values() if isinstance(value, dict)]
    lists = [held[key] for held in (record, *inner) for key in held.keys() & _HOLDERS if _are_talks(held[key])]
    if len(lists) == 1 and not any(_is_own(record, key, lists[0]) for key in TALKS):
        return lists[0]
    if len(record) == len(inner) and _are_talks(inner) and all(_is_name(key, record[key]) for key in record):
        return inner
    return [record]


def _is_name(key: str, talk: dict[str, Any]) -> bool:
    """Whether a key names a conversation, and does not say what it is for (`rejected`)."""
    return talk.get("id") == key or re.fullmatch(r"\d+|[0-9a-fA-F-]{8,}", key) is not None


def _is_own(record: dict[str, Any], key: str, talks: list[Any]) -> bool:
    return isinstance(record.get(key), list) and record[key] is not talks


def _are_talks(values: Any) -> bool:
    """Whether a list holds conversations, each with its turns, and no turns."""
    return isinstance(values, list) and bool(values) and all(_is_talk(value) for value in values)


def _is_talk(value: Any) -> bool:
    if not isinstance(value, dict) or filled(value, "role", "from", "sender") or value.get("type") == "multi":
        return False
    if isinstance(value.get("mapping"), dict) or webui_chat(value) is not None:
        return True
    return any(isinstance(value.get(key), list) and all(isinstance(m, dict) for m in value[key]) for key in TALKS)


def is_claude(record: dict[str, Any]) -> bool:
    """Whether a record is a conversation of Claude's export."""
    return isinstance(record.get("chat_messages"), list)


def claude_messages(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The branch that the user ended on; what Claude wrote around its tools' results are turns of their own.

    Raises:
        Unusable: a message is not what it should be, or shows a file of which the export has no text.
    """
    messages = [typed(m, dict, f"message {n}") for n, m in enumerate(record["chat_messages"], 1)]
    found: list[dict[str, Any]] = []
    for number, message in enumerate(_last_branch(messages, record.get("current_leaf_message_uuid")), 1):
        where, sender = f"message {number}", message.get("sender")
        if sender not in SENDERS:
            raise Unusable("unknown role", f"{where} has sender {sender!r:.40}")
        if message.get("truncated") is True:
            raise Unusable("bad answer", f"{where} is truncated")
        refuse_cut_off(message, where)
        parts = message.get("content") or [{"type": "text", "text": message.get("text") or ""}]
        texts = _attached(message, where)
        turns = list(_claude_turns(typed(parts, list, f"{where}: content"), SENDERS[sender], where))
        if texts and turns:
            documents = {"type": "text", "text": "\n\n".join(texts) + "\n\n"}
            turns[0] = turns[0] | {"content": [documents, *turns[0]["content"]]}
        found += turns
    return found


def _last_branch(messages: list[dict[str, Any]], leaf: Any) -> list[dict[str, Any]]:
    """From the first message to the leaf, or to the last message; all of them where the export names no parents."""
    if not messages or any("parent_message_uuid" not in m or "uuid" not in m for m in messages):
        return messages
    nodes = {
        m["uuid"]: {"message": m, "parent": None if m["parent_message_uuid"] in NO_PARENT else m["parent_message_uuid"]}
        for m in messages
    }
    return [node["message"] for node in branch(nodes, leaf if leaf in nodes else messages[-1]["uuid"]).values()]


def _attached(message: dict[str, Any], where: str) -> list[str]:
    """The texts of a message's documents, each under its name."""
    texts, known = [], set[Any]()
    for document in typed(message.get("attachments") or [], list, f"{where}: attachments"):
        name, text = (typed(document, dict, f"{where}: attachment").get(k) for k in ("file_name", "extracted_content"))
        if not isinstance(text, str) or not text.strip():
            raise Unusable("images and other media", f"{where}: attachment {name!r:.60} without its text")
        texts.append(f"{name}:\n{text}" if name else text)
        known.add(name)
    for key in ("files", "files_v2"):
        for file in typed(message.get(key) or [], list, f"{where}: {key}"):
            if (name := typed(file, dict, f"{where}: {key}").get("file_name")) not in known:
                raise Unusable("images and other media", f"{where}: file {name!r:.60} without its text")
    return texts


def _claude_turns(parts: list[Any], role: str, where: str) -> Iterator[dict[str, Any]]:
    """The parts of one message in their order; a tool's result ends a turn and is one."""
    said: list[Any] = []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in UNSAID:
            continue
        if kind != "tool_result":
            said.append(part)
            continue
        if said:
            yield {"role": role, "content": said}
            said = []
        results = part.get("content") or ""
        texts = results if isinstance(results, str) else [_result(p, where) for p in typed(results, list, where)]
        yield {"role": "tool", "content": texts, "tool_call_id": part.get("tool_use_id"), "name": part.get("name")}
    if said or not parts:
        yield {"role": role, "content": said}


def _result(part: Any, where: str) -> dict[str, Any]:
    """A part of a tool's result; what a search found is its text under its title."""
    part = typed(part, dict, f"{where}: tool_result")
    if part.get("type") == "knowledge" and isinstance(part.get("text"), str):
        return {"type": "text", "text": "\n".join(filter(None, (part.get("title"), part["text"])))}
    return part


def webui_chat(record: dict[str, Any]) -> dict[str, Any] | None:
    """The chat of a record of Open WebUI's export, which keeps its messages as a tree; None: it is none."""
    chat = record["chat"] if isinstance(record.get("chat"), dict) else record
    history = chat.get("history")
    return chat if isinstance(history, dict) and isinstance(history.get("messages"), dict) else None


def webui_messages(chat: dict[str, Any]) -> list[dict[str, Any]]:
    """The branch that the user ended on, with the chat's system prompt.

    Raises:
        Unusable: the tree is broken, a reply failed, or was drawn from what is not in the export.
    """
    nodes: dict[str, Any] = {}
    for id, value in chat["history"]["messages"].items():
        message = typed(value, dict, f"message {id!r:.40}")
        nodes[id] = {"message": message, "parent": message.get("parentId"), "children": message.get("childrenIds")}
    shown = branch(nodes, chat["history"].get("currentId"))
    found = [_webui_message(node["message"], id) for id, node in shown.items()]
    params = chat.get("params") if isinstance(chat.get("params"), dict) else {}
    system = (params or {}).get("system") or chat.get("system")
    if system and (not found or found[0]["role"] != "system"):
        found.insert(0, {"role": "system", "content": system})
    return found


def _webui_message(message: dict[str, Any], id: str) -> dict[str, Any]:
    where = f"message {id!r:.40}"
    if message.get("error"):
        raise Unusable("bad answer", f"{where}: the reply failed")
    if message.get("done") is False:
        raise Unusable("bad answer", f"{where}: the reply was not finished")
    for key in ("files", "sources", "citations", "code_executions", "embeds"):
        if message.get(key):
            raise Unusable("images and other media", f"{where}: {key}: what they hold is not in the export")
    content = message.get("content")
    if message.get("role") != "assistant" or not isinstance(content, str):
        return {"role": message.get("role"), "content": content}
    thoughts: list[str] = []

    def taken(found: re.Match[str]) -> str:
        if found[1] != "reasoning":
            raise Unusable("unknown content type", f"{where}: details of type {found[1]}")
        thoughts.append("\n".join(re.sub(r"^> ?", "", line) for line in html.unescape(found[2]).split("\n")))
        return ""

    return {"role": "assistant", "content": _DETAILS.sub(taken, content), "reasoning_content": "\n\n".join(thoughts)}


def studio_messages(chunked: dict[str, Any]) -> list[dict[str, Any]]:
    """Of a prompt saved by AI Studio; the chunks of one speaker in a row are one message, thoughts its reasoning.

    Raises:
        Unusable: a chunk is no text, such as a file of Drive, or a reply failed.
    """
    messages: list[dict[str, Any]] = []
    for number, value in enumerate(typed(chunked.get("chunks"), list, "chunkedPrompt.chunks"), 1):
        where = f"chunk {number}"
        chunk = typed(value, dict, where)
        if chunk.get("errorMessage"):
            raise Unusable("bad answer", f"{where}: the reply failed")
        if not isinstance(chunk.get("text"), str):
            raise Unusable("images and other media", f"{where}: no text, but {', '.join(map(repr, chunk)):.80}")
        if not messages or messages[-1]["role"] != chunk.get("role"):
            messages.append({"role": chunk.get("role"), "content": "", "reasoning_content": ""})
        messages[-1]["reasoning_content" if chunk.get("isThought") is True else "content"] += chunk["text"]
    return messages


def grok_messages(responses: list[Any]) -> list[dict[str, Any]] | None:
    """Of Grok's export, whose messages are each in an object of their own; None: it is none."""
    inside = all(isinstance(one, dict) and isinstance(one.get("response"), dict) for one in responses)
    return responses if inside and all("sender" in one["response"] for one in responses) else None


def lm_studio_messages(messages: list[Any]) -> list[dict[str, Any]] | None:
    """Of a chat of LM Studio: of each message the version that is shown; None: it is none.

    Raises:
        Unusable: a version is not what it should be, was cut off, or has what is no text.
    """
    if not all(isinstance(m, dict) and isinstance(m.get("versions"), list) and m["versions"] for m in messages):
        return None
    found = []
    for number, message in enumerate(messages, 1):
        where, shown = f"message {number}", message.get("currentlySelected", -1)
        if not isinstance(shown, int) or not -1 <= shown < len(message["versions"]):
            raise Unusable("wrong type", f"{where}: currentlySelected names no version")
        version = typed(message["versions"][shown], dict, f"{where}: version")
        steps = version.get("steps") if version.get("type") == "multiStep" else [version]
        parts = [part for step in typed(steps, list, f"{where}: steps") for part in _lm_studio_parts(step, where)]
        found.append({"role": version.get("role"), "content": parts})
    return found


def _lm_studio_parts(step: Any, where: str) -> list[Any]:
    step = typed(step, dict, f"{where}: step")
    if step.get("type") == "debugInfoBlock":
        return []
    info = step.get("genInfo") if isinstance(step.get("genInfo"), dict) else {}
    stats = (info or {}).get("stats")
    stop = stats.get("stopReason") if isinstance(stats, dict) else None
    if stop in ("maxPredictedTokensReached", "contextLengthReached", "userStopped", "failed", "modelUnloaded"):
        raise Unusable("bad answer", f"{where}: stopReason is {stop}: the answer was cut off")
    style = step.get("style")
    parts = typed(step.get("content"), list, f"{where}: content")
    if not isinstance(style, dict) or style.get("type") != "thinking":
        return parts
    said = [p for p in parts if not (isinstance(p, dict) and p.get("isStructural"))]  # without the tags of the thought
    return [{"type": "thinking", "thinking": said}]


_OLDER = ("USER", "ASSISTANT")
"""Roles in DeepSeek's exports until 2025, whose messages have their text as `content`."""


def _is_deepseek(node: Any) -> bool:
    message = node.get("message") if isinstance(node, dict) else None
    return isinstance(message, dict) and (isinstance(message.get("fragments"), list) or message.get("role") in _OLDER)


def deepseek_messages(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The branch of DeepSeek's export that was written last.

    Raises:
        Unusable: the tree is broken, or a message has what is no text: files, or results of a search.
    """
    shown = branch(record["mapping"], record.get("current_node"))
    return [_deepseek_message(typed(node["message"], dict, f"node {id!r:.40}"), id) for id, node in shown.items()]


def _deepseek_message(message: dict[str, Any], id: str) -> dict[str, Any]:
    where, texts = f"node {id!r:.40}", {"REQUEST": "", "RESPONSE": "", "THINK": ""}
    if message.get("files"):
        raise Unusable("images and other media", f"{where}: files: what they hold is not in the export")
    if message.get("search_results"):
        raise Unusable(
            "context beside the turns", f"{where}: search_results: the answer is drawn from what is in no turn"
        )
    if message.get("role") in _OLDER and "fragments" not in message:
        names = ("content", "reasoning_content")
        return {"role": message["role"].lower()} | {k: message[k] for k in names if message.get(k) is not None}
    for fragment in typed(message.get("fragments"), list, f"{where}: fragments"):
        kind = typed(fragment, dict, f"{where}: fragment").get("type")
        if kind not in texts:
            raise Unusable("unknown content type", f"{where}: a fragment of type {kind!r:.40}")
        texts[kind] += typed(fragment.get("content"), str, f"{where}: {kind}")
    if texts["REQUEST"]:
        return {"role": "user", "content": texts["REQUEST"]}
    return {"role": "assistant", "content": texts["RESPONSE"], "reasoning_content": texts["THINK"]}
