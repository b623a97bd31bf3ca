"""Conversations: their order, and the held-out split."""

from vicuna_lit.records.conversation import Conversation, Rejection, Turn, is_validation, trim


def turns(*roles: str) -> Conversation:
    return Conversation("x", tuple(Turn(role, "t") for role in roles))  # pyright: ignore[reportArgumentType]


def test_trim():
    trimmed, cut = trim(turns("system", "assistant", "user", "assistant", "tool", "assistant", "user"))
    assert isinstance(trimmed, Conversation)
    assert [t.role for t in trimmed.turns] == ["system", "user", "assistant", "tool", "assistant"]
    assert cut == 2
    stopped = turns("user", "assistant", "tool", "user", "assistant")  # as who cuts in behind a tool's result
    assert trim(stopped) == (stopped, 0)
    late, cut = trim(turns("assistant", "tool", "assistant", "tool", "user", "assistant"))
    assert isinstance(late, Conversation) and [t.role for t in late.turns] == ["user", "assistant"] and cut == 4
    for bad, reason in (
        (turns(), "no answered turn"),
        (turns("system", "user"), "no answered turn"),
        (turns("user", "user", "assistant"), "roles do not alternate"),
        (turns("user", "assistant", "system", "assistant"), "roles do not alternate"),
    ):
        rejection, cut = trim(bad)
        assert isinstance(rejection, Rejection)
        assert rejection.reason == reason


def test_pieces_of_one_conversation_stay_on_one_side():
    ids = [f"sg{i:05d}" for i in range(2000)]
    sides = [is_validation(i, 0.1) for i in ids]
    assert 150 < sum(sides) < 250
    assert all(is_validation(f"{i}_{n}", 0.1) == side for i, side in zip(ids, sides, strict=True) for n in (0, 12))
    assert not any(is_validation(i, 0.0) for i in ids)
    assert len({is_validation(f"identity_{i}", 0.5) for i in range(50)}) == 2
