"""What an assistant says of itself: refusals, that it is a program, and how old its knowledge is.

A rule looks at the opening of a reply and at its shape, never inside code or quotations: a jailer in a story may
refuse, and a program may search for refusals.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache, cached_property

from vicuna_lit.config.prepare import ReplyRule
from vicuna_lit.prepare.tidy import protected
from vicuna_lit.records.conversation import Conversation, Turn

QUOTED = re.compile(
    r'"[^"\n]{1,400}"|“[^”\n]{1,400}”|«[^»\n]{1,400}»|„[^“”\n]{1,400}[“”]|「[^」\n]{1,400}」|『[^』\n]{1,400}』'
    r"|^[ \t]*>[^\n]*"
    r"|^[ \t*_(]{0,6}[A-Z][\w'-]{0,20}(?: [A-Z][\w'-]{0,20}){0,2}[*_)]{0,4}: [^\n]*",  # a speaker's line in a dialogue
    re.M,
)
STRUCTURED = re.compile(r"```|^[ \t]*(?:[-*+•]|\d{1,3}[.)]) |^[ \t]*\|.*\|", re.M)
"""Code, a list or a table: a reply that holds one gives something."""
THOUGHT = re.compile(r"\s*<(think|thinking)>.*?</\1>\s*", re.S)
"""What a model thought before its reply, where a dump has it in the text."""
OTHER_VOICE = re.compile(
    r"\A(?:(?:sure|certainly|of course|okay|absolutely|great)\W{1,3})?here(?:'s| is)[^:\n]{0,160}:\s*\n"
    r"|\bfade in:|^\W{0,4}(?:int|ext)\. |\bonce upon a time\b"
    r"|\A\W{0,6}(?:title|chapter|scene|act|prologue)\b[^\n]{0,80}\n"
    r"|\A\W{0,4}(?:(?:dear|subject|querid|estimad|prezad|ch(?:er|ère)\b|liebe|sehr geehrte|geachte|beste |car[oa] "
    r"|gentile|дорог|уважаем|亲爱|親愛|尊敬|件名|존경하는|사랑하는)(?:[^\n]{0,60}\n|(?!\W?(?:user|nutzer|usu[aá]ri|utilis|utente|的?用户|的?用戶))"
    r"[^\n,:!，：]{1,40}[,:!，：])|[^\n]{1,12}(?:様|さん|님께|에게|께),?\n)"
    r"|\A[^\n.!?。！？:]{1,60}\n[^\n]{1,60}\n[^\n]{1,60}(?:\n|\Z)",
    re.M,
)
"""In small letters, of an opening that is not the assistant's own: a text that is announced, a screenplay, a chapter, a
letter behind its salutation, or verse."""
TRANSLATE = re.compile(
    r"\b(?:translat|traduc|tradui|traduz|übersetz|vertaal|przetłumacz|terjemah|çevir)|перевед|перевод|翻[译譯訳]|译成|번역"
    r"|訳して|ترجم|अनुवाद|dịch sang|แปล"
)
WRITTEN = re.compile(
    r"\b(?:letters?|e-?mails?|messages?|note to|excuses?|apolog\w*|invit\w+|declin\w+|say no|resign\w*"
    r"|sick leave|poems?|songs?|lyrics|lullaby|a text to|haiku|sonnet|monologue|dialog\w*|screenplay|speech"
    r"|story|stories|scene|lines?|sentence|phrase|rephrase|rewrite|paraphrase|proofread|role-?play|pretend|tweet|caption|quotes?"
    r"|briefe?s?|absage\w*|nachricht|entschuldigung\w*|gedicht|geschichte|satz|lettre|mot d'|poème|histoire"
    r"|refus\w*|excus\w*|carta|correo|mensaje|poema|cuento|historia|frase|rechaz\w*|mensagem|recusar|convi\w+"
    r"|lettera|messaggio|poesia|storia|racconto|rifiut\w*|brief|verhaal|wiadomość|opowiadanie|wiersz|mektup"
    r"|hikaye|surat|cerita|puisi|bức thư|câu chuyện|bài thơ)\b|письм|отказ|приглаш|стих|рассказ|истори|写信|写一?封"
    r"|道歉信|邮件|郵件|假条|请假|故事|诗|詩|台词|メール|手紙|物語|台詞|断り|편지|메일|이야기|거절|문장|رسالة|قصة|قصيدة|पत्र|कहानी|कविता|จดหมาย|เรื่อง|กลอน"
)
"""In small letters, of a question that asks for a text in which somebody else may speak."""
SERVICE = re.compile(
    r"\b(?:help|assist|provid|fulfil|comply|generat|creat|writ|produc|complet|continu|request|content|access"
    r"|brows|open|see|view|discuss|engage|perform|task|chat|topic|support|answer|respond|shar|translat"
    r"|recommend|endors|promot|ai\b|as an?\b|guideline|polic|program|capab|abilit|appropriate|ethic|harm"
    r"|illegal|explicit|opinion|feeling|real-time|ayud|asist|ajud|aid|aiut|helf|beantwort|hilf|help|respond"
    r"|répond|rispond|fourni|proporcion|forne|genera|crea|escrib|escrev|écri|scriv|schreib|erstell|zugriff"
    r"|acces|pomóc|pomag|odpowie|podać|yardım|cevap|yanıt|giúp|trả lời|cung cấp|bantu|menjawab|memberikan)|помо"
    r"|ответ|предостав|созда|доступ|帮|幫|回答|提供|协助|生成|写|寫|访问|满足|讨论|获取|执行|浏览|查看|识别|手伝|お?応え|お?答え|提供|作成|回答|도움|도와|답변|제공|작성|मदद"
    r"|सहायता|उत्तर|مساعد|تقديم|الإجابة|ช่วย|ตอบ|ให้|(?:model|modell|模型|모델|モデル|модел|인공지능|人工智)"
)
"""In small letters, of what an assistant declines to do: somebody who cannot come has none of these words."""
ASKED = 4000
"""Characters of a question in which a sentence to be translated is looked for."""
PIECE = re.compile(r"[^:：\n\"“”«»„「」『』]+")
ESCAPED, LETTER = re.compile(r"\\."), re.compile("[a-z]")
SENTENCE_END = re.compile(r"[.!?…]+[\"')*_]*(?=\s|\Z)\s*|[。！？]+\s*|\n\s*")


class Reply:
    """A reply as the rules look at it, behind its thoughts: its opening in small letters, what is in code or quoted as
    blanks."""

    def __init__(self, content: str, longest: int, asked: str = ""):
        self.asked = asked
        """What the user said before it."""
        thought = THOUGHT.match(content)
        self.start = thought.end() if thought else 0
        """Where the thoughts end."""
        self.content = content[self.start :]
        self.opening = _small(self.content[:longest])
        self.is_ascii = self.opening.isascii()

    @cached_property
    def unquoted(self) -> str:
        """The opening without code and quotations, each character at its place."""
        out = self.opening
        if code := protected(out, formulas=False):
            out = _blank(code, _small(self.content[: 2 * len(out)]))[: len(out)]
        return _small(_blank(QUOTED, self.content[: len(out)], out))

    @cached_property
    def structured(self) -> bool:
        """Whether it holds code, a list or a table."""
        return STRUCTURED.search(self.content) is not None


def find_in_reply(rule: ReplyRule, reply: Reply) -> tuple[int, int] | None:
    """Where a reply breaks a rule: the place of the words in its text."""
    if rule.max_characters is not None and len(reply.content) > rule.max_characters:
        return None
    hints = _in_ascii(rule.hints) if reply.is_ascii else rule.hints
    if not any(map(reply.opening.__contains__, hints)):  # several times as fast as one pattern of all
        return None
    if rule.plain and reply.structured:
        return None
    opening = reply.unquoted[: rule.opening]
    texts = _patterns_in_ascii(rule.texts) if reply.is_ascii else rule.texts
    found = next((f for text in texts if (f := _compiled(text).search(opening))), None)
    if (
        found is None
        or OTHER_VOICE.search(opening)
        or (rule.unless and any(_compiled(text).search(opening) for text in rule.unless))
        or (rule.plain and not SERVICE.search(opening) and _is_a_text_asked_for(reply.asked))
        or _is_translated(rule, reply.asked)
    ):
        return None
    return found.start() + reply.start, found.end() + reply.start


def _is_a_text_asked_for(asked: str) -> bool:
    asked = _small(asked[:ASKED])
    return WRITTEN.search(asked) is not None or TRANSLATE.search(asked) is not None


def _is_translated(rule: ReplyRule, asked: str) -> bool:
    """Whether a user asked to translate a sentence that breaks the rule."""
    asked = _small(asked[:ASKED])
    return TRANSLATE.search(asked) is not None and any(
        _compiled(text).search(piece[0].strip()) for piece in PIECE.finditer(asked) for text in rule.texts
    )


def _small(text: str) -> str:
    """In small letters, each at its place, with one kind of apostrophe."""
    lowered = text.lower()
    if len(lowered) != len(text):
        lowered = "".join(c.lower() if c.isascii() else c for c in text)
    return lowered.replace("’", "'")


def _blank(pattern: re.Pattern[str], text: str, out: str | None = None) -> str:
    """The text, or another of the same length, with blanks in the places that a pattern finds."""
    out = text if out is None else out
    for found in pattern.finditer(text):
        out = f"{out[: found.start()]}{' ' * len(found[0])}{out[found.end() :]}"
    return out


def cut_sentences(conversation: Conversation, rules: dict[str, ReplyRule], tally: Counter[str]) -> Conversation:
    """Replies without the sentences that break a rule with `scope: sentence`; one of which nothing is left stays."""
    chosen = {name: rule for name, rule in rules.items() if rule.scope == "sentence"}
    if not chosen:
        return conversation
    turns = conversation.turns
    cut = tuple(
        _without(turn, asked_before(turns, i), chosen, tally) if turn.role == "assistant" else turn
        for i, turn in enumerate(turns)
    )
    return replace(conversation, turns=cut)


def asked_before(turns: Sequence[Turn], i: int) -> str:
    """What a user says right before a turn."""
    return turns[i - 1].content if i and turns[i - 1].role == "user" else ""


def _without(turn: Turn, asked: str, rules: dict[str, ReplyRule], tally: Counter[str]) -> Turn:
    content, cut = turn.content, Counter[str]()
    for name, rule in rules.items():
        while span := find_in_reply(rule, reply := Reply(content, rule.opening, asked)):
            start, end = _sentence(content, span, reply.start)
            if content[start:end].count("```") % 2:  # without its other half what follows would be code, or no longer
                break
            content = content[:start] + content[end:]
            cut[f"sentences cut: {name.replace('_', ' ')}"] += 1
    if not cut or not any(c.isalnum() for c in Reply(content, 0).content):
        return turn
    tally.update(cut)
    return replace(turn, content=content.strip())


def _sentence(content: str, span: tuple[int, int], thought: int) -> tuple[int, int]:
    """The sentences that hold a place of the text; none begins in the thoughts before the reply."""
    ends = [found.end() for found in SENTENCE_END.finditer(content)]
    start = max((end for end in ends if thought <= end <= span[0]), default=thought)
    return start, min((end for end in ends if end >= span[1]), default=len(content))


class ReplyRules:
    """The rules of a config that are on, with the longest opening that one looks at."""

    def __init__(self, rules: dict[str, ReplyRule]):
        self._rules = [(name.replace("_", " "), rule) for name, rule in rules.items() if rule.scope != "off"]
        self._longest = max((rule.opening for _, rule in self._rules), default=0)

    def broken_by(self, content: str, asked: str) -> Iterator[tuple[str, ReplyRule, str]]:
        """The rules that a reply breaks: name, rule, the words."""
        reply = Reply(content, self._longest, asked)
        for name, rule in self._rules:
            if span := find_in_reply(rule, reply):
                yield name, rule, content[slice(*span)]


@cache
def _in_ascii(hints: tuple[str, ...]) -> tuple[str, ...]:
    """Those that a text of ASCII can hold."""
    return tuple(filter(str.isascii, hints))


@cache
def _patterns_in_ascii(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Those that a text of ASCII can hold: a pattern in another script alone has no letter but in escapes."""
    return tuple(text for text in texts if text.isascii() or LETTER.search(ESCAPED.sub("", text)))


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.M)
