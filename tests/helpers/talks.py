"""Conversations of every form: several turns, tools, parallel calls, thoughts, empty contents."""

import json

from vicuna_lit.records.conversation import Conversation, ToolCall, Turn

TOOLS = json.dumps(
    [
        {
            "type": "function",
            "function": {
                "name": "get_weather",
                "description": "The weather.",
                "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "Where."}}},
            },
        }
    ]
)


def user(text: str) -> Turn:
    """What a user says."""
    return Turn("user", text)


def says(text: str, reasoning: str = "", calls: tuple[ToolCall, ...] = ()) -> Turn:
    """What an assistant says."""
    return Turn("assistant", text, reasoning=reasoning, tool_calls=calls)


def call(city: str, number: int = 0) -> ToolCall:
    """A call of the tool."""
    return ToolCall("get_weather", json.dumps({"city": city}), f"abcdefgh{number}")


def result(text: str, number: int = 0) -> Turn:
    """What the tool says."""
    return Turn("tool", text, name="get_weather", call_id=f"abcdefgh{number}")


TALKS = {
    "text": Conversation("x", (user("Hi there"), says("Hello."))),
    "turns": Conversation("x", (user("Hi"), says("Hello."), user("Why?"), says("a\n\n- b"), user("ok"), says("Bye"))),
    "system": Conversation("x", (Turn("system", "Be kind."), user("Hi"), says("Hello."), user("Why?"), says("So."))),
    "tools": Conversation(
        "x",
        (user("Oslo?"), says("", calls=(call("Oslo"),)), result('{"t": 7}'), says("7."), user("And?"), says("Rain.")),
        TOOLS,
    ),
    "text beside a call": Conversation(
        "x", (user("Oslo?"), says("Let me see.", calls=(call("Oslo"),)), result("7"), says("7.")), TOOLS
    ),
    "parallel calls": Conversation(
        "x",
        (user("?"), says("", calls=(call("Oslo"), call("Rome", 1))), result("7"), result("20", 1), says("7 and 20.")),
        TOOLS,
    ),
    "reasoning": Conversation(
        "x",
        (
            user("Hi"),
            says("Hello.", "They greet."),
            user("2+2?"),
            says("4", "Easy.\n\nYes."),
            user("!"),
            says("?", "Hm"),
        ),
    ),
    "reasoning in the text": Conversation(
        "x",
        (user("Hi"), says("<think>\nThey greet.\n</think>\n\nHello."), user("?"), says("<think>\nHm.\n</think>\n4")),
    ),
    "reasoning and calls": Conversation(
        "x",
        (
            user("Oslo?"),
            says("", "I need the tool.", (call("Oslo"),)),
            result('{"t": 7}'),
            says("7 degrees.", "Now I know."),
            user("Thanks"),
            says("Welcome", "Polite."),
        ),
        TOOLS,
    ),
    "empty contents": Conversation("x", (user(""), says(""), user("x"), says("y"))),
    "blanks": Conversation("x", (user("  Hi\n"), says("Hello."), user("\tx  y"), says("    def f():\n        pass\n"))),
    "Unicode": Conversation(
        "x", (user("e\u0301 \u212b"), says("cafe\u0301 ▁ 👩‍👩‍👧 你好"), user("ﬁ"), says("\u1e9b\u0323"))
    ),
}
"""By what they hold."""
