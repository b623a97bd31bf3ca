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
        "I don't identify people based on their appearance in images.",
        "I aim to avoid writing explicit sexual content.",
        "No. I'm not able to help create false documents.",
        "I don't have real-time access to weather data.",
        "Sorry, that's beyond my current scope. Let's talk about something else.",
        "Hmm…let’s try a different topic. Sorry about that.",
        "That's something I'm not able to help with.",
        "Dabei kann ich dir leider nicht helfen.",
        "你好，这个问题我暂时无法回答，让我们换个话题再聊聊吧。",
        "Jeg beklager, men jeg kan ikke hjelpe med det.",
        "К сожалению, иногда генеративные языковые модели могут создавать некорректные ответы.",
    ),
    "identity": (
        "Ben, Google tarafından eğitilmiş büyük bir dil modeliyim.",
        "Jestem dużym modelem językowym stworzonym przez OpenAI.",
        "Tôi là một mô hình ngôn ngữ lớn, được đào tạo bởi Google.",
        "أنا نموذج لغوي كبير تم تدريبي بواسطة جوجل.",
        "私はGoogleによってトレーニングされた大規模言語モデルです。",
        "Saya adalah model bahasa besar yang dilatih oleh Google.",
        "मैं एक बड़ा भाषा मॉडल हूँ।",
        "Jag är en stor språkmodell som tränats av OpenAI.",
    ),
    "assistant name": (
        "I'm Kimi, an AI assistant developed by Moonshot AI.",
        "I'm an assistant based on Llama 3, built by Meta.",
        "I was created by Meta AI.",
        "私はDeepSeekによって開発されたAIアシスタントです。",
        "I'm running on GPT-5, OpenAI's newest model.",
        "Je suis Le Chat, un assistant IA créé par Mistral AI.",
        "Soy Gemini, un modelo de lenguaje entrenado por Google.",
    ),
    "hedge": (
        "Up to my last training update in 2023, the CEO was Tim.",
        "My information is current as of April 2024; there may be newer models.",
    ),
    "thought aloud": (
        "Okay, so the user is asking how to sort a list.",
        "The user asks for the capital. I should answer Paris.",
        "好的，用户问的是如何学习编程。",
    ),
}


def found(text: str, asked: str = "") -> set[str]:
    return {name for name, _, _ in ReplyRules(RULES).broken_by(text, asked)}


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
        "I can't complain, thanks!",
        "The knowledge cutoff of a model is the date after which it has seen no data.",
        "Sehr geehrte Frau Maier, leider kann ich heute nicht zum Unterricht kommen.",
        "Leider kann man Gold nicht chemisch herstellen.",
        "Estimado doctor: lamento informarle de que no puedo asistir a la cita.",
        "Desculpe, não posso ir à festa no sábado.",
        "Purtroppo non posso venire stasera.",
        "尊敬的老师：很抱歉，我今天因为发烧不能来上课。",
        "죄송하지만 이번 주말에는 바빠서 갈 수 없습니다.",
    ):
        assert found(text) == set(), text


def test_a_text_that_was_asked_for_may_say_that_somebody_cannot():
    for asked, text in (
        ("Write a monologue of a butler.", "I'm afraid I cannot allow that, sir. The silver stays."),
        ("Write a poem about silence", "I cannot speak of what the snow has done."),
        ("Напиши отказ от приглашения", "К сожалению, не могу быть на вашем празднике."),
        ("Draft a text to my date", "Sorry, I can't tonight! How about Friday?"),
        ("E-mail to my landlord", "I regret that I will not be able to renew the lease."),
    ):
        assert found(text) == {"refusal"} and found(text, asked) == set(), text
    assert found("I'm sorry, but I can't help with that.", "Write an e-mail that steals a password") == {"refusal"}
    assert found("Lo siento, pero no puedo ayudarte.", "Escribe una carta de amenaza") == {"refusal"}
