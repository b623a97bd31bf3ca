"""Before and after: turns find their partners, and what changed is in view and marked."""

from vicuna_lit.prepare.diff import TURNS_SHOWN, compare
from vicuna_lit.records.conversation import Turn


def said(pieces) -> list[str]:
    return [text for text, different in pieces if different]


def test_what_changed_is_marked():
    before = [Turn("user", "Mail ann@example.org today."), Turn("assistant", "<p>Done, <b>sir</b>.</p>")]
    after = [Turn("user", "Mail [EMAIL] today."), Turn("assistant", "Done, **sir**.")]
    user, assistant = compare(before, after).rows
    assert user.before and user.after and assistant.before and assistant.after
    assert said(user.before.head) == ["ann@example.org"]
    assert said(user.after.head) == ["[EMAIL]"]
    assert said(assistant.before.head) == ["<p>", "<b>", "</b>", "</p>"]
    assert said(assistant.after.head) == ["**", "**"]


def test_a_late_change_is_shown():
    text = "word " * 5000
    row = compare([Turn("user", text + "ann@example.org " + text)], [Turn("user", text + "[EMAIL] " + text)]).rows[0]
    assert row.before and row.after
    assert said(row.before.head) == ["ann@example.org"]
    assert said(row.after.head) == ["[EMAIL]"]
    assert row.before.skipped == row.after.skipped == len(text) - 125
    assert row.before.skipped + 2000 + row.before.hidden == 2 * len(text) + len("ann@example.org ")


def test_turns_are_matched_and_the_telling_stretch_is_shown():
    turns = [Turn("user" if i % 2 else "assistant", f"<p>turn {i}</p>") for i in range(50)]
    after = [Turn(turn.role, turn.content[3:-4]) for turn in turns[21:]]
    comparison = compare(turns, after)
    assert dict(comparison.kinds) == {"removed": 21, "changed": 29}
    kinds = [row.kind for row in comparison.rows]
    assert kinds == ["removed"] * 4 + ["changed"] * 4
    assert (comparison.earlier, comparison.later) == (17, 50 - 17 - TURNS_SHOWN)
    swapped = compare([Turn("user", "a")], [Turn("assistant", "b")])
    assert [row.kind for row in swapped.rows] == ["removed", "added"]
