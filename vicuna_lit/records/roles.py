"""What the speakers of a conversation are called in the files of other tools."""

from typing import Any

from vicuna_lit.config.base import Role

_NAMES: dict[Role, str] = {
    "system": "system developer system_prompt",
    "user": "human user prompter human_input question instruction input",
    "assistant": "gpt assistant chatgpt bing bard claude gemini model bot chatbot ai answer output gpt4 gpt-4 "
    "gpt-3.5 llm",
    "tool": "tool function observation ipython environment tool_result tool_output tool_response function_response "
    "function_result function_output",
}
ROLES: dict[str, Role] = {name: role for role, names in _NAMES.items() for name in names.split()}
"""By name in small letters."""


def role_of(name: str) -> str:
    """The role that a name stands for; a name that stands for none, itself."""
    return ROLES.get(name.strip().lower(), name)


def speaker(message: dict[str, Any]) -> str:
    """The role of a message that names one; "" where it does not."""
    role = message.get("role") or message.get("from")
    return role_of(role) if isinstance(role, str) else ""
