"""Refusals, names, hedges and left thoughts in the style of today's models; what only sounds like them."""

from vicuna_lit import load
from vicuna_lit.prepare.replies import ReplyRules

RULES = load("prepare", "raw=x").filters.replies
STYLES = {
    "refusal": (
        "I must decline this request.",
        "No, I won't help you stalk someone.",
        "I'm not comfortable writing that kind of content.",
        "I see what you're asking, but I can't generate that.",
        "Sorry, that's not something I can do.",
        "I'm afraid I can't do that.",
        "I'd rather not write that.",
        "This request goes against my guidelines, so I have to stop.",
    ),
    "assistant name": (
        "I'm Kimi, an AI assistant developed by Moonshot AI.",
        "I'm an assistant based on Llama 3, built by Meta.",
        "I was created by Meta AI.",
        "私はDeepSeekによって開発されたAIアシスタントです。",
    ),
    "hedge": ("Up to my last training update in 2023, the CEO was Tim.",),
    "thought aloud": (
        "Okay, so the user is asking how to sort a list.",
        "The user asks for the capital. I should answer Paris.",
        "好的，用户问的是如何学习编程。",
    ),
}


def found(text: str) -> set[str]:
    return {name for name, _, _ in ReplyRules(RULES).broken_by(text, "")}


def test_the_style_of_todays_models():
    assert [(rule, text) for rule, texts in STYLES.items() for text in texts if rule not in found(text)] == []


def test_what_only_sounds_like_it_stays():
    for text in (
        "I won't lie: the second option is better.",
        "I can't recommend this book enough.",
        "I can not only write the function but test it.",
        "It's not something you can fix in CSS alone.",
        "It isn't something I can prove formally.",
        "The user wants to log in, so the page opens.",
        "Okay, the user guide is attached.",
        "The knowledge cutoff of GPT-4 was September 2021.",
        "I'm the AI lead at a bank, and my team was built by Google veterans.",
        "I'm Gemini, the oldest twin, and my brother is Leo.",
        "To decline politely, say that you are busy.",
        "Doctor: I'm afraid I can't help you.\nSmith: Why?",
        "I can't help but admire the essay.",
    ):
        assert found(text) == set(), text
