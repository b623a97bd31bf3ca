"""Personal data: patterns of e-mail addresses, telephone numbers, secret keys and card numbers.

Patterns find what has the form of such data; names and addresses of streets they do not find.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from vicuna_lit.data.conversation import Conversation, Turn
from vicuna_lit.prepare.secrets import find_secrets, small_letters

EMAIL = re.compile(  # ASCII alone: in scripts without blanks words stand right beside an address
    r"(?<![A-Za-z0-9._%+/-])[A-Za-z0-9._%+-]{1,64}+(?:\\_[A-Za-z0-9._%+-]{1,64}+){0,4}+@(?<!\bgit@)(?!example\.|\dx\.|v\d)"
    r"(?:[A-Za-z0-9-]{1,63}\.){1,8}(?!(?:png|jpe?g|gif|svg|webp|pdf|js|ts|css|json|py|md|html|yaml)\b)[A-Za-z]{2,24}"
    r"(?![A-Za-z0-9-]|:[~/\w]|/)"  # not an ssh target, a remote, a package with its version, the name of an image
)
PHONE = re.compile(
    r"(?<![\w.+/=-])(?:"
    r"\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){2,5}"  # +49 30 1234 5678, +33 6 39 98 00 00
    r"|(?:1[ .-])?(?:\(\d{3}\)[ -]?\d{3}[ .-]\d{4}|\d{3}([.-])\d{3}\1\d{4})"  # (555) 123-4567, 555-123-4567
    r")(?![\w/=-]|\.\d)"
)
CARD = re.compile(
    r"(?<![\w.+-])(?:\d{13,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{4}|3\d{3}([ -])\d{6}\2\d{5})(?![\w-]|\.\d| \d)"
)
ANNOUNCED = re.compile(
    r"(?: ?(?:number|no|nr|is)\b)?[ ]?[.:]{0,2}\s?(\(?0?\d{1,5}\)?(?:[ ./-]{0,2}\d{2,5}){2,5})(?![\w/=-]|\.\d)"
)
"""A national number, behind a word that announces it."""
ANNOUNCING = (
    "phone", "telephone", "tel", "telefon", "tél", "mobile", "cell", "fax", "whatsapp", "handy",
    "☎", "📞", "전화", "전화번호", "휴대폰", "電話", "電話番号", "电话", "手机",
)  # fmt: skip


def _is_card(digits: str) -> bool:
    """Known first digits and the Luhn checksum (ISO/IEC 7812-1)."""
    numbers = [int(c) for c in digits if c.isdigit()]
    if numbers[0] not in (3, 4, 5, 6) or len(set(numbers)) == 1:
        return False
    doubled = [d if i % 2 == 0 else d * 2 - 9 * (d > 4) for i, d in enumerate(reversed(numbers))]
    return sum(doubled) % 10 == 0


PATTERNS: dict[str, tuple[re.Pattern[str], str, Callable[[str], bool] | None]] = {
    "email": (EMAIL, "@", None),
    "card": (CARD, "", _is_card),
    "phone": (PHONE, "", None),
}
"""By kind, in the order of their search: the pattern, a text that must be there (else digits), a check."""
DIGITS = re.compile(r"\d[ .()-]{0,2}\d{2,4}[ .)-]{0,2}\d{2}")
_BETWEEN_DIGITS = b" .()-"
_IS_DIGIT = bytes(48 if chr(i).isdigit() else 120 for i in range(128)) + b"x" * 128
MOST_PASSES = 8


def redact(text: str, kinds: Sequence[str], tally: Counter[str]) -> str:
    """The text with personal data replaced by `[KIND]`; counts what it replaced.

    What was hidden by its neighbour, as the first of two keys without a blank between them, is found once that is gone.
    """
    for _ in range(MOST_PASSES):
        before, text = text, _redacted(text, kinds, tally)
        if text == before:
            break
    return text


def _redacted(text: str, kinds: Sequence[str], tally: Counter[str]) -> str:
    lowered = small_letters(text)
    if "key" in kinds and (spans := find_secrets(text, lowered)):
        tally["key"] += len(spans)
        text = _replaced(text, spans, "[KEY]")
        lowered = small_letters(text)
    has_digits = _has_digits(text)
    if "phone" in kinds and has_digits and (spans := _announced(text, lowered)):
        tally["phone"] += len(spans)
        text = _replaced(text, spans, "[PHONE]")
    for kind, (pattern, hint, check) in PATTERNS.items():
        if kind not in kinds or not (hint in text if hint else has_digits):
            continue

        def put(found: re.Match[str], kind: str = kind, check: Callable[[str], bool] | None = check) -> str:
            if check is not None and not check(found[0]):
                return found[0]
            tally[kind] += 1
            return f"[{kind.upper()}]"

        text = pattern.sub(put, text)
    return text


def _has_digits(text: str) -> bool:
    """Whether digits stand together as in a number of a telephone or a card."""
    if text.isascii() and b"00000" not in text.encode().translate(_IS_DIGIT, _BETWEEN_DIGITS):
        return False  # says so several times faster than the pattern
    return DIGITS.search(text) is not None


def _announced(text: str, lowered: str) -> list[tuple[int, int]]:
    spans = set()
    for word in ANNOUNCING:
        at = lowered.find(word)
        while at >= 0:
            end = at + len(word)
            alone = not word[0].isascii() or not (lowered[at - 1 : at].isalnum() or lowered[end : end + 1].isalpha())
            found = ANNOUNCED.match(lowered, end) if alone else None
            if found and 7 <= sum(c.isdigit() for c in found[1]) <= 15:
                spans.add(found.span(1))
            at = lowered.find(word, end)
    return sorted(spans)


def _replaced(text: str, spans: Sequence[tuple[int, int]], mark: str) -> str:
    parts, start = [], 0
    for first, end in spans:
        parts += [text[start:first], mark]
        start = end
    return "".join([*parts, text[start:]])


def redact_conversation(conversation: Conversation, kinds: Sequence[str], tally: Counter[str]) -> Conversation:
    """All turns scrubbed: contents, reasoning and the arguments of calls."""

    def scrubbed(turn: Turn) -> Turn:
        calls = tuple(c._replace(arguments=redact(c.arguments, kinds, tally)) for c in turn.tool_calls)
        content, reasoning = (redact(text, kinds, tally) for text in (turn.content, turn.reasoning))
        return replace(turn, content=content, reasoning=reasoning, tool_calls=calls)

    return replace(conversation, turns=tuple(map(scrubbed, conversation.turns)))
