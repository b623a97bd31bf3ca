"""The steps of `prepare`, each a pure function: what it keeps, cuts and drops, and that it says so."""

import json
import zlib
from collections import Counter
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.examples import examples
from vicuna_lit import load
from vicuna_lit.config.prepare import FiltersConfig
from vicuna_lit.paths import locate
from vicuna_lit.prepare.decontaminate import decontaminate, read_questions
from vicuna_lit.prepare.dedup import find_duplicates, signatures
from vicuna_lit.prepare.filters import alternate, filter_turns, moderate, offences
from vicuna_lit.prepare.language import detect
from vicuna_lit.prepare.personal_data import redact
from vicuna_lit.prepare.shards import Item, dumps, read_items, to_json, write_items
from vicuna_lit.prepare.steps import choose_language, steps
from vicuna_lit.records.conversation import Conversation, DataError, Rejection, ToolCall, Turn

ROLE = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
ANSWER = "A perfectly good answer of some length."


@cache
def config(*overrides: str):
    return load("prepare", "raw=x", *overrides)


def turns(roles: str) -> Conversation:
    return Conversation("x", tuple(Turn(ROLE[r], f"{r}{i}") for i, r in enumerate(roles)))  # pyright: ignore[reportArgumentType]


def text(result) -> str:
    assert isinstance(result, Conversation), result
    return " ".join(t.content for t in result.turns)


SAID = st.lists(
    st.sampled_from(
        [
            "api\\_key: '",
            "q9Zk3LmX7vTb2RwYc8Hd5Nf4",
            "'",
            " a@b.org ",
            "+49 30 1234 5678",
            "\n",
            "I'm sorry, but I cannot. ",
            "As an AI, I think. ",
            "Share Prompt",
            "\n2 / 3",
            "```\na\\_b\n```\n",
            "Fine words. ",
            "[KEY] ",
            "continue",
            "\u200b",
        ]
    ),
    max_size=6,
).map("".join)


@given(st.lists(SAID, min_size=2, max_size=6))
@settings(max_examples=examples(200), deadline=None, derandomize=True)
def test_steps_taken_twice_give_what_they_gave_once_and_fences_stay(said: list[str]):
    """Whatever is left, nothing is left to do on it; so a prepared set can be prepared again, with any others."""
    pipeline = steps(config("language.enabled=false", "decontamination.enabled=false", "filters.min_characters=1"))

    def taken(result):
        for step in pipeline.values():
            result = result if isinstance(result, Rejection) else step(result, Counter())
        return result

    once = taken(Conversation.of(*said, id="x"))
    if isinstance(once, Conversation):
        assert taken(once) == once
        for turn, text in zip(once.turns, said, strict=False):
            assert turn.content.count("```\na\\_b\n```") == text.count("```\na\\_b\n```")


@pytest.mark.parametrize(
    ("roles", "trim", "merge"),
    [
        ("ua", "u0 a1", "u0 a1"),
        ("sua", "s0 u1 a2", "s0 u1 a2"),
        ("auau", "u1 a2", "u1 a2"),
        ("uaaua", "u0 a1", "u0 a1\n\na2 u3 a4"),
        ("uauu", "u0 a1", "u0 a1"),
        ("uata", "u0 a1 t2 a3", "u0 a1 t2 a3"),
        ("uasua", "u0 a1", None),
        ("uuaua", None, "u0\n\nu1 a2 u3 a4"),
        ("u", None, None),
        ("", None, None),
    ],
)
def test_roles_by_each_rule(roles: str, trim: str | None, merge: str | None):
    c = turns(roles)
    for rule, expected in (("trim", trim), ("merge", merge)):
        tally: Counter[str] = Counter()
        result = alternate(c, config(f"roles.disorder={rule}").roles, tally)
        if expected is None:
            assert isinstance(result, Rejection)
            assert result.detail
        else:
            assert text(result) == expected
            assert sum(tally.values()) == len(c.turns) - len(result.turns)  # pyright: ignore[reportAttributeAccessIssue]
    strict = alternate(c, config("roles.disorder=reject").roles, Counter())
    assert isinstance(strict, Rejection) == (roles not in ("ua", "sua", "auau", "uauu", "uata"))


def test_the_results_of_several_calls_stay_apart():
    """Neither rule takes them for a disorder; turns that are merged keep their calls and their reasoning."""
    for rule in ("trim", "merge", "reject"):
        found = alternate(turns("uattaua"), config(f"roles.disorder={rule}").roles, Counter())
        assert isinstance(found, Conversation)
        assert [t.role for t in found.turns] == ["user", "assistant", "tool", "tool", "assistant", "user", "assistant"]
    first, second = (
        Turn("assistant", text, reasoning=text, tool_calls=(ToolCall(text, "{}"),)) for text in ("one", "two")
    )
    twice = Conversation("c", (Turn("user", "q"), first, second))
    found = alternate(twice, config("roles.disorder=merge").roles, Counter())
    assert isinstance(found, Conversation)
    assert found.turns[1] == Turn(
        "assistant", "one\n\ntwo", reasoning="one\n\ntwo", tool_calls=(*first.tool_calls, *second.tool_calls)
    )


@given(st.text("suat", max_size=12), st.sampled_from(["trim", "merge", "reject"]))
@settings(max_examples=examples(300), deadline=None)
def test_whatever_the_roles_the_result_alternates(roles: str, rule: str):
    result = alternate(turns(roles), config(f"roles.disorder={rule}").roles, Counter())
    if isinstance(result, Conversation):
        spoken = [t.role for t in result.turns if t.role != "system"]
        # Several calls have several results, and a user may speak behind them: together they are one side's turn.
        spoken = [
            r for r, after in zip(spoken, [*spoken[1:], None], strict=True) if r != "tool" or after == "assistant"
        ]
        assert [r == "assistant" for r in spoken] == [False, True] * (len(spoken) // 2)
        assert spoken
        assert [i for i, t in enumerate(result.turns) if t.role == "system"] in ([], [0])


def four(bad: str, at: int) -> Conversation:
    contents = ["What is the first thing?", ANSWER, "And the second thing?", ANSWER]
    contents[at] = bad
    return Conversation.of(*contents, id="x")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (" \n\u200b\ufeff ", "empty turn"),
        ("!Too many requests in 1 hour. Try again later.", "error text"),
        ("I was made by OpenAI, you know.", "assistant name"),
        ("As an AI language model, I have no taste; but many like tea.", "identity"),
        ("[EMAIL], [EMAIL] and [PHONE]", "placeholders"),
        ("I’m sorry, but I can’t help.", "refusal"),
        ("the same line again\n" * 100, "repetition"),
    ],
)
def test_an_offence_costs_the_turn_or_the_conversation(bad: str, reason: str):
    key = {
        "empty turn": "empty",
        "repetition": "repetition.scope",
        "placeholders": "placeholders.scope",
        "refusal": "replies.refusal.scope",
        "identity": "replies.identity.scope",
        "assistant name": "replies.assistant_name.scope",
    }.get(reason, f"texts.{reason.replace(' ', '_')}.scope")
    tally: Counter[str] = Counter()
    assert text(filter_turns(four(bad, 3), config().filters, tally)) == f"What is the first thing? {ANSWER}"
    assert tally == {f"turns cut: {reason}": 2}
    first = filter_turns(four(bad, 1), config().filters, Counter())
    assert isinstance(first, Rejection)
    assert first.reason == reason
    whole = filter_turns(four(bad, 3), config(f"filters.{key}=conversation").filters, Counter())
    assert isinstance(whole, Rejection)
    assert whole.reason == reason
    assert filter_turns(four(bad, 3), config(f"filters.{key}='off'").filters, Counter()) == four(bad, 3)


@given(
    st.text(max_size=600),
    st.text(min_size=1, max_size=60),
    st.integers(1, 200),
    st.text(max_size=300),
    st.sampled_from([2.0, 4.0, 12.0]),
)
@settings(max_examples=300, deadline=None)
def test_repetition_is_that_of_the_whole_reply_however_little_of_it_is_compressed(head, unit, times, tail, most):
    reply = (head + unit * times + tail).strip() or "x"
    raw = reply.encode()
    repeats = len(reply) >= 512 and len(raw) / len(zlib.compress(raw, 1)) > most
    rules = FiltersConfig.model_validate(
        config().filters.model_dump() | {"replies": {}, "repetition": {"scope": "turn", "max_compression": most}}
    )
    found = [one for one in offences(four(reply, 1), rules) if one.reason == "repetition"]
    assert bool(found) == repeats


def test_an_explanation_of_an_error_is_no_error_text():
    for said in ("Network error correction adds bits.", "An error occurred means that it failed: read on."):
        assert filter_turns(four(said, 3), config().filters, Counter()) == four(said, 3)
    for said in ("Network error", "network error\n", "An error occurred. If this persists, write to us."):
        assert filter_turns(four(said, 3), config().filters, Counter()) != four(said, 3)


def test_a_turn_that_is_cut_off_cannot_offend():
    c = Conversation.of("What is the first thing?", ANSWER, "And then?", "", "And now?", "I am ChatGPT.", id="x")
    strict = config("filters.replies.assistant_name.scope=conversation").filters
    assert text(filter_turns(c, strict, Counter())) == f"What is the first thing? {ANSWER}"
    both = four("Too many requests in 1 hour. I am ChatGPT.", 3)
    assert isinstance(filter_turns(both, strict, Counter()), Rejection)


def test_users_may_say_what_assistants_may_not_and_rules_can_be_added():
    assert filter_turns(four("Is ChatGPT made by OpenAI?", 2), config().filters, Counter()) == four(
        "Is ChatGPT made by OpenAI?", 2
    )
    rule = "+filters.texts.my_rule={scope:conversation,roles:[user],match:regex,texts:['secret\\d']}"
    result = filter_turns(four("my secret7", 0), config(rule).filters, Counter())
    assert isinstance(result, Rejection)
    assert (result.reason, result.detail) == ("my rule", "turn 1: 'secret7'")


def test_a_rule_that_is_emptied_finds_nothing():
    assert filter_turns(four("Q", 0), config("filters.texts.error_text.texts=[]").filters, Counter()) == four("Q", 0)


def test_too_short():
    for c in (Conversation.of("hi", "hello", id="x"), Conversation("x", (Turn("user", "a question without answer"),))):
        result = filter_turns(c, config().filters, Counter())
        assert isinstance(result, Rejection)
        assert result.reason == "too short"


def test_a_score_above_the_limit_is_moderated_and_a_nan_too():
    c, limit = four("rude rude", 3), config("moderation.scope=turn").moderation
    tally: Counter[str] = Counter()
    moderated = moderate(c, limit, lambda texts: (0.9 if "rude" in t else 0.1 for t in texts), tally)
    assert text(moderated) == f"What is the first thing? {ANSWER}"
    assert tally == {"turns cut: moderation": 2}
    assert isinstance(
        moderate(c, config().moderation, lambda texts: [float("nan") for _ in texts], Counter()), Rejection
    )


@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        ("email", "Write to ada.b+c@mail.example-uni.ac.uk!", "Write to [EMAIL]!"),
        ("email", "user@example.com, @decorator, a@b", None),
        ("email", "我的邮箱是john@gmail.com,メールはtaro@yahoo.co.jpです", "我的邮箱是[EMAIL],メールは[EMAIL]です"),
        ("phone", "Call (555) 123-4567 or +49 30 1234 5678.", "Call [PHONE] or [PHONE]."),
        ("phone", "555-123-4567; 555.123.4567", "[PHONE]; [PHONE]"),
        ("phone", "2023-04-01, 857 979 793 1187, 192.168.100.200, v1.234.567.8901, 1e+10", None),
        ("key", "key=sk-abcdefghijklmnopqrstuvwxyz012345", "key=[KEY]"),
        ("key", "AKIAIOSFODNN7EXAMPLE and ghp_" + "a1B2" * 9, "[KEY] and [KEY]"),
        ("key", "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----.", "[KEY]."),
        ("key", "sk-learn, task-management-system-overview", None),
        ("card", "4111 1111 1111 1111 and 378282246310005", "[CARD] and [CARD]"),
        ("card", "4111 1111 1111 1112; 5 10 15 20 25 30 40 50 60", None),
    ],
)
def test_personal_data(kind: str, before: str, after: str | None):
    tally: Counter[str] = Counter()
    assert redact(before, [kind], tally) == (before if after is None else after)
    assert tally[kind] == (0 if after is None else after.count("["))
    assert redact(before, [], Counter()) == before


@pytest.mark.parametrize(
    ("language", "question", "answer"),
    [
        ("en", "How do I sort a list?", "You can call sorted on it, which gives you a new list in order."),
        ("de", "Wie sortiere ich eine Liste?", "Du kannst die Liste mit einer eingebauten Funktion sortieren."),
        ("ko", "점심 메뉴 추천해줘", "김치찌개, 불고기, 돈까스, 라면 등 다양한 선택지가 있습니다."),
        ("unknown", "1 + 1 = ?", "```python\nfor every_word in the_english_language: print('hello there')\n```"),
    ],
)
def test_language_is_that_of_the_words_not_of_the_code(language: str, question: str, answer: str):
    code = "\n```python\ndef the_function(of_the_word):\n    return 'this is an English sentence in the code'\n```" * 5
    assert detect(Conversation.of(question, answer + code), 0.5)[0] == language


def test_words_behind_names_and_code_are_looked_at_before_giving_up():
    names = "Xqzt Vrbl Plmk Wxcv Bnml Qwrt " * 12
    c = Conversation.of(names, f"{names}\n{'This is the answer that you have been waiting for all day. ' * 20}")
    assert detect(c, 0.7)[0] == "en"


def test_what_has_no_known_language_is_kept_or_dropped_by_a_key_of_its_own():
    code = Conversation.of("1 + 1 = ?", "```python\nprint(2)\n```", id="x")
    for overrides, kept in {
        ("language.keep=[en]",): True,
        ("language.keep=[en]", "language.unknown=drop"): False,
        ("language.unknown=drop",): False,
        ("language.drop=[en]",): True,
    }.items():
        result = choose_language(code, config(*overrides), Counter())
        assert isinstance(result, Conversation) == kept


def test_language_on_labelled_real_turns(shared):
    import orjson

    records = orjson.loads((shared / "conversations" / "sharegpt_v3_language_labelled_ab.json").read_bytes())
    agree = total = 0
    for record in records:
        labels = Counter(t["language"] for t in record["conversations"] if len(t["value"]) > 100)
        if labels and labels.most_common(1)[0][1] == sum(labels.values()):
            total += 1
            contents = Conversation("x", tuple(Turn("user", t["value"]) for t in record["conversations"]))
            agree += detect(contents, 0.0)[0] == labels.most_common(1)[0][0].split("-")[0]
    assert total > 50
    assert agree / total > 0.9


def test_a_question_in_other_words_is_listed_and_stays(tmp_path):
    limits = config().decontamination
    file = tmp_path / "questions.jsonl"
    texts = [f"How would you explain the {i}th rule of a {i}-legged game to a friend of mine?" for i in range(20)]
    texts += ["Can you explain the basics of quantum computing?", "How can I improve my time management skills?"]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    questions = read_questions([file], limits.ngram)
    asked = {
        "Explain quantum computing basics": True,
        "How do I improve my skills of time management?": True,
        "Write a function that sorts a list.": False,
        "Explain the basics of photosynthesis to a child.": False,
        " ".join(f"quantum computing basics explain word{i}" for i in range(300)): False,
    }
    for question, listed in asked.items():
        tally: Counter[str] = Counter()
        c = Conversation.of("Hello, who is there?", ANSWER, question, ANSWER, id="x")
        assert decontaminate(c, limits, questions, tally) == c
        assert bool(tally) == listed, (question, tally)
        assert all(key.startswith("paraphrase: turn 3 is like question ") for key in tally)
        silent = limits.model_copy(update={"report_similarity": None})
        assert decontaminate(c, silent, questions, tally := Counter()) == c
        assert not tally


def test_a_shard_gives_back_calls_thoughts_and_weights(tmp_path):
    call = Turn("assistant", "B", weight=0.5, reasoning="T", tool_calls=(ToolCall("f", '{"a": 1}', "c"), ToolCall("g")))
    turns = (
        Turn("user", "Q"),
        call,
        Turn("tool", "1", name="f", call_id="c"),
        Turn("assistant", "A", supervised=False),
    )
    items = [
        Item("a", Conversation("x", turns, "[{}]", said="s", source="a"), True),
        Item("", Rejection("y", "r", "d")),
    ]
    write_items(tmp_path / "0.jsonl", items)
    found = list(read_items(tmp_path / "0.jsonl"))
    assert found == items
    assert isinstance(found[0].conversation, Conversation) and found[0].conversation.turns[1].tool_calls[0].id == "c"


WORDS = np.array([f"word{i}" for i in range(5000)])


def long_text(seed: int, n: int = 400) -> list[str]:
    return np.random.default_rng(seed).choice(WORDS, n).tolist()


def duplicates_of(conversations: list[Conversation], tmp_path, *overrides: str, shard: int = 3):
    files, limits = [], config(*overrides).dedup
    for start in range(0, len(conversations), shard):
        part = conversations[start : start + shard]
        files.append(tmp_path / f"{start:05d}.npy")
        np.save(files[-1], signatures(part, limits))
        lines = [dumps([i, "source", to_json(c)]) for i, c in enumerate(part)]
        files[-1].with_suffix(".jsonl").write_bytes(b"".join(lines))
    found = find_duplicates(files, limits)
    return {f * shard + i: copy.reason for f, copies in found.items() for i, copy in copies.items()}


def test_each_kind_of_copy_and_the_best_one_stays(tmp_path):
    base = long_text(0)
    near = [*base[:390], *long_text(1, 10)]
    far = [*base[:200], *long_text(2, 200)]

    def talk(id: str, words: list[str], more: str = "") -> Conversation:
        return Conversation.of("Tell me a story.", " ".join(words) + more, id=id)

    conversations = [
        talk("a", base),
        talk("b", long_text(3)),
        talk("c", base),  # the same text
        talk("d", near, " and a longer end"),  # nearly the same, and the longest: it stays
        talk("e", far),  # half the same: stays
        talk("b", long_text(4, 500)),  # the same id, longer
    ]
    assert duplicates_of(conversations, tmp_path) == {0: "near-duplicate", 1: "duplicate id", 2: "near-duplicate"}
    first = duplicates_of(conversations, tmp_path, "dedup.keep=first")
    assert first == {2: "duplicate text", 3: "near-duplicate", 5: "duplicate id"}
    off = ["dedup.containment=null", "dedup.threshold=null"]
    off += ["dedup.text=false", "dedup.id=false", "dedup.first_exchange_characters=null"]
    assert duplicates_of(conversations, tmp_path, *off) == {}


def test_a_longer_copy_with_the_same_beginning(tmp_path):
    start = ["Tell me a story.", " ".join(long_text(0))]
    conversations = [Conversation.of(*start, id="a"), Conversation.of(*start, "More!", " ".join(long_text(1)), id="b")]
    assert duplicates_of(conversations, tmp_path) == {0: "duplicate first exchange"}
    contained = duplicates_of(conversations, tmp_path, "dedup.first_exchange_characters=null")
    assert contained == {0: "contained in another"}
    off = ["dedup.first_exchange_characters=null", "dedup.containment=null"]
    assert duplicates_of(conversations, tmp_path, *off) == {}
    short = [Conversation.of("hi", "hello", f"{i}", " ".join(long_text(i)), id=str(i)) for i in range(3)]
    assert duplicates_of(short, tmp_path) == {}
    assert len(duplicates_of(short, tmp_path, "dedup.first_exchange_characters=0")) == 2


def test_tiny_conversations_are_copies_only_where_they_are_equal(tmp_path):
    tiny = [("hi", "Hello! How can I help you today?"), ("hey", "Hello! How can I help you today?"), ("Test", "Hello!")]
    talks = [Conversation.of(*turns, id=str(i)) for i, turns in enumerate(tiny)]
    assert duplicates_of(talks, tmp_path) == {}
    again = [*talks, Conversation.of("Hi", "Hello!  How can I help you today?", id="9")]
    assert list(duplicates_of(again, tmp_path).values()) == ["near-duplicate"]


def test_what_another_conversation_with_the_same_question_holds_is_contained(tmp_path):
    """By its share of the shorter one, however long the other is; another first question is another conversation."""
    words = long_text(7, 300)
    whole = Conversation.of("Tell me  a Story.", " ".join(words), "More!", " ".join(long_text(8, 900)), id="whole")

    def part(share: float, question: str = "tell me a story.") -> Conversation:
        kept = int(100 * share)
        return Conversation.of(question, " ".join([*words[:kept], *long_text(9, 100 - kept)]), id=f"{question}{share}")

    talks = [part(0.5), part(0.95), whole, part(0.95, "Another one?"), part(1.0)]
    off = "dedup.threshold=null"
    assert duplicates_of(talks, tmp_path, off, shard=2) == {1: "contained in another", 4: "contained in another"}
    assert duplicates_of(talks, tmp_path, off, "dedup.containment=0.4") == dict.fromkeys(
        (0, 1, 4), "contained in another"
    )
    assert duplicates_of(talks, tmp_path, off, "dedup.containment=null") == {}


def test_one_pasted_text_that_is_asked_different_things_is_no_copy(tmp_path):
    """As its replies differ, however little they are beside it. A reply that goes on is the same."""
    pasted, (one, other) = " ".join(long_text(0)), (" ".join(long_text(n, 20)) for n in (1, 2))
    replies = (one, other, f"{one.upper()}\n and so on")
    asked = [Conversation.of(pasted, said, id=str(i)) for i, said in enumerate(replies)]
    assert duplicates_of(asked[:2], tmp_path) == {}
    assert duplicates_of(asked, tmp_path, "dedup.containment=null") == {0: "near-duplicate"}
    assert duplicates_of(asked, tmp_path, "dedup.threshold=null") == {0: "contained in another"}
    again = Conversation.of(f"{pasted} Why?", one, id="again")
    assert duplicates_of([*asked[:2], again], tmp_path) == {0: "near-duplicate"}


@pytest.mark.promise("Near-duplicates agree with the true Jaccard similarity")
def test_near_duplicates_agree_with_the_true_similarity(tmp_path):
    """Against the exact Jaccard similarity of all 32-byte shingles, over a range of overlaps."""
    wrong = 0
    for seed, share in enumerate(np.linspace(0.5, 1.0, 40)):
        base = long_text(seed, 600)
        kept = int(600 * share)
        other = [*base[:kept], *long_text(seed + 1000, 600 - kept)]
        a, b = (" ".join(("tell me a story.", *words)) for words in (base, other))
        sets = [{t[i : i + 32] for i in range(len(t) - 31)} for t in (a, b)]
        truth = len(sets[0] & sets[1]) / len(sets[0] | sets[1])
        talks = [Conversation.of("Tell me a story.", " ".join(w), id=w[-1]) for w in (base, other)]
        found = duplicates_of(talks, tmp_path, "dedup.id=false", "dedup.containment=null")
        if abs(truth - 0.8) > 0.12:
            wrong += bool(found) != (truth > 0.8)
    assert wrong == 0


QUESTION = "How many times does an average human blink in a lifetime? Try to explain your answer."


def test_the_bundled_questions():
    """80 in 8 categories, half with a second turn; math and coding with an answer for each turn; prepare reads them."""
    file = locate("package://vicuna_lit/evaluate/questions.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["question_id"] for row in rows] == list(range(1, 81))
    categories = {row["category"] for row in rows}
    assert len(categories) == 8
    for category in categories:
        turns = [row["turns"] for row in rows if row["category"] == category]
        assert [len(t) for t in turns] == [2] * 5 + [1] * 5
    for row in rows:
        assert len(row.get("reference", [])) == (len(row["turns"]) if row["category"] in ("math", "coding") else 0)
    assert len(read_questions([file], 8).names) == 120


def test_decontamination(tmp_path):
    file = tmp_path / "question.jsonl"
    file.write_bytes(
        dumps({"question_id": 41, "text": QUESTION})
        + dumps({"question_id": 81, "turns": ["What is π?", "为什么天空是蓝色的"]})
    )
    limits = config().decontamination
    questions = read_questions([file], limits.ngram)

    def asks(content: str) -> bool:
        result = decontaminate(Conversation.of(content, ANSWER, id="x"), limits, questions, Counter())
        if isinstance(result, Rejection):
            assert result.reason == "asks an evaluation question"
            assert "of question" in result.detail
        return isinstance(result, Rejection)

    assert asks(QUESTION)
    assert asks(f"Please be brief. {QUESTION.upper()}  Thanks!")
    assert asks("What is π?")
    assert asks("请问，为什么天空是蓝色的？")
    assert not asks("How many times does a cat sleep in a day? Try to explain.")
    assert not asks("What is π? " + " ".join(long_text(0)))
    c = Conversation.of("hi", QUESTION, id="x")
    assert decontaminate(c, limits, questions, Counter()) == c
    file.write_text("not json\n")
    with pytest.raises(DataError, match=r"question\.jsonl, line 1"):
        read_questions([file], 8)
