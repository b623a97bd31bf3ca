"""Personal data: e-mail addresses, telephone numbers, secret keys, cards; on request IBAN, SSN and public IPs.

Patterns and checksums find what has the form of such data; names and addresses of streets they do not find.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from ipaddress import ip_address
from typing import Any

from vicuna_lit.prepare.secrets import find_secrets, small_letters
from vicuna_lit.records.conversation import PLACEHOLDER, Conversation, ToolCall, Turn

Span = tuple[int, int]
EMAIL = re.compile(  # ASCII alone: in scripts without blanks words stand right beside an address
    r"(?<![A-Za-z0-9._%+/-])(?=[._%+-]*[A-Za-z0-9])[A-Za-z0-9._%+-]{1,64}+(?:\\_[A-Za-z0-9._%+-]{1,64}+){0,4}+"
    r"@(?<!\bgit@)(?!example\.|\dx\.|v\d)(?:[A-Za-z0-9À-ɏ-]{1,63}\.){1,8}"
    r"(?!(?:png|jpe?g|gif|svg|webp|pdf|js|ts|css|json|py|md|html|yaml|service|socket|host)\b)[A-Za-z]{2,24}"
    r"(?![A-Za-z0-9-]|\.[A-Za-z]|:[~/]|:[\w.-]{1,64}/|:[\w-]{1,64}\.git\b|/)"  # no target of ssh, package, image
)
SPELLED = re.compile(
    r"(?<![\w.%+-])[a-z0-9._%+-]{2,64} ?[\[(]at[\])] ?"
    r"(?:[a-z0-9-]{2,63} ?(?:\.|[\[(](?:dot|punkt|point|punto)[\])]) ?){1,4}"
    r"(?!(?:png|jpe?g|gif|svg|pdf|js|ts|css|json|py|md|html|yaml)\b)[a-z]{2,12}\b"
)
"""An address as people write it against robots: `ada [at] mail [dot] com`."""
BEFORE_SIGN, BEHIND_SIGN = 340, 600
"""Characters before and behind the `@` in which the longest address has room."""
COPYING = re.compile(r"\b(?:scp|rsync|sftp|ssh)\b[^\n]{0,256}\Z")
"""Before the host of a file: `scp a joe@host.com:b`."""
USER_OF_LINK = re.compile(r"://[\w.~%+:$*{}-]{0,256}@", re.ASCII)
"""Up to the host. Behind `?`, a comma or a letter of another script an address is one again."""
PHONE = re.compile(  # its first sign comes before what precedes it: so Python seeks it, five times as fast
    r"[+(\d](?<![\w.+/=-].)(?:"
    r"(?<=\+)\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){2,5}"  # +49 30 1234 5678, +33 6 39 98 00 00
    r"|(?<=1)[ .-](?:\(\d{3}\)[ -]?\d{3}[ .-]\d{4}|\d{3}([.-])\d{3}\1\d{4})"  # 1 (555) 123-4567, 1-555-123-4567
    r"|(?<=\()\d{3}\)[ -]?\d{3}[ .-]\d{4}|(?<=\d)\d{2}([.-])\d{3}\2\d{4}"  # (555) 123-4567, 555-123-4567
    r"|(?<=\()(?:0\d\) \d{4} \d{4}|\d{2}\) 9?\d{4}-\d{4})"  # (02) 9374 4000, (11) 98765-4321
    r"|(?<=0)(?:(?:1[016-9]|[2-9]\d?)-\d{3,4}-\d{4}|8\d\d-\d{4}-\d{3,4}"  # Korea, Japan, Indonesia
    r"|6-\d{8}|7\d{3} (?:\d{6}|\d{3} \d{3})|20 \d{4} \d{4}|7\d-\d{3} \d{2} \d{2})"  # the Netherlands, Britain, Sweden
    r")(?![\w/=-]|\.\d)"
)
CARD = re.compile(
    r"\d(?<![\w.+-].)(?:\d{12,18}|\d{3}([ -])\d{4}\1\d{4}\1\d{4}|(?<=3)\d{3}([ -])\d{6}\2\d{5})(?![\w-]|\.\d| \d)"
)
ANNOUNCED = re.compile(
    r"[^\W\d_]{0,12}+(?P<link>(?:[ .]{1,2}(?:n(?:umber|o|r|um|úmero|uméro|umero|umer|ummer|umaras[ıi]|umaram|º|°)"
    r"|номер\w?|नंबर|saya|kom|mobile?|phone|is|est|es|ist|lautet|le|è|é"
    r"|to|at|on|au|op|på|auf|unter|di|al|em|שלי)\b){0,3}[. ]{0,2}[:：]{0,2})\s?"
    r"(\(?\d{1,5}\)?(?:[ ./-]{0,3}\(?\d{1,5}\)?){2,5})(?![A-Za-z\d_/=-]|\.\d)"
)
"""A national number, behind a word that announces it: the rest of that word, and what may stand between."""
WEAK = re.compile(r"[1-79][\d.]{0,4}[ ./-].*")
"""A number that without a sign or a word between may be a row of any numbers."""
NO_NUMBER = re.compile(r"(?:(?:19|20)\d\d\b[ ./-]*)+(?:[01]?\d\b.*)?|\d+(?:[.,]\d+)?0{5,}|(?:\d{1,3}[ .])?(\d)\1{5,}")
"""Years, dates, and round numbers."""
ANNOUNCING = (
    "tel", "phone", "mob", "cel", "fax", "whatsapp", "handy", "natel", "portable", "no. hp", "tlf", "fone",
    "call me", "text me", "reach me", "my number", "contact n",
    "tél", "móvil", "☎", "📞", "전화", "휴대", "핸드폰", "연락처", "電話", "携帯", "电话", "手机", "手機", "тел", "моб",
    "điện thoại", "sđt", "טלפון", "נייד", "رقم", "جوال", "هاتف", "मोबाइल", "फ़ोन", "फोन",
    "موبايل", "মোবাইল", "τηλ", "ring på", "llámame",
)  # fmt: skip
"""Beginnings of such words."""
OTHER_WORD = re.compile(
    r"cel(?!l?ul|l?phon|ln[or]|l?(?![^\W\d_]))|tel(?![eéè]?[fp]|egram|n[oru]|e?m[oó]|e?s?(?![^\W\d_]))"
    r"|mob(?!i(?!li[tsz])|(?![^\W\d_]))|phone(?:m|ti)"
)
"""What begins like one of them and is none: cells, Celsius, telemetry, mobility, phonemes."""
ANNOUNCING_ASCII = tuple(word for word in ANNOUNCING if word.isascii())


def _is_card(digits: str) -> bool:
    """Known first digits and the Luhn checksum (ISO/IEC 7812-1)."""
    numbers = [int(c) for c in digits if c.isdigit()]
    if numbers[0] not in (3, 4, 5, 6) or len(set(numbers)) == 1:
        return False
    doubled = [d if i % 2 == 0 else d * 2 - 9 * (d > 4) for i, d in enumerate(reversed(numbers))]
    return sum(doubled) % 10 == 0


IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2} ?(?:[A-Z0-9] ?){10,29}[A-Z0-9]")
IBAN_LENGTHS = {
    15: "NO", 16: "BE", 18: "DK FO FI GL NL", 19: "MK SI", 20: "AT BA EE KZ LT LU XK", 21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM TL", 24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST", 26: "IS TR", 27: "BI DJ FR GR IT MC MR SM", 28: "AL AZ BY CY DO EG GT HU LB NI PL SV",
    29: "BR PS QA UA", 30: "JO KW MU", 31: "MT SC", 32: "LC", 33: "RU",
}  # fmt: skip
"""By the registry of ISO 13616: countries by the characters of their numbers."""
IBAN_LENGTH = {country: length for length, countries in IBAN_LENGTHS.items() for country in countries.split()}
SSN = re.compile(r"(?<![\w.+/-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w/-]|\.\d)")
"""In the ranges that the Social Security Administration gives out."""
IP = re.compile(
    r"(?<![\w.:/-])(?<!version )(?:(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\w)"
    r"|[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{4,35}(?![\w:]))|(?<=://)(?:\d{1,3}\.){3}\d{1,3}(?![\w.-])"
)


def _ibans(text: str, _: str) -> Iterator[Span]:
    """Of a country's length, and with the checksum (ISO 7064, mod 97-10)."""
    for found in IBAN.finditer(text):
        length, places = IBAN_LENGTH.get(found[0][:2]), [i for i, c in enumerate(found[0]) if c != " "]
        if length is None or len(places) < length:
            continue
        end = places[length - 1] + 1
        plain = found[0][:end].replace(" ", "")
        if found[0][end : end + 1].isalnum() or text[found.start() + end :][:1].isalnum():
            continue
        if int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1:
            yield found.start(), found.start() + end


def _is_public(address: str) -> bool:
    """Whether an address belongs to somebody on the internet: no private, reserved or documentation range."""
    try:
        return ip_address(address).is_global
    except ValueError:
        return False


def _matches(
    pattern: re.Pattern[str], check: Callable[[str], bool] | None = None
) -> Callable[[str, str], Iterator[Span]]:
    return lambda text, _: (f.span() for f in pattern.finditer(text) if check is None or check(f[0]))


DIGITS = re.compile(r"\d[ .()-]{0,2}\d{2,4}[ .)-]{0,2}\d{2}")
_BETWEEN_DIGITS = b" .()-"
_IS_DIGIT = bytes(48 if chr(i).isdigit() else 120 for i in range(128)) + b"x" * 128
_BARE = re.compile(rf"([:\[,]\s*)({PLACEHOLDER.pattern})(?=\s*[,}}\]])")
"""Where a number stood in JSON."""
MOST_PASSES = 8


def signs(text: str) -> set[str]:
    """Which of the signs a text has that FINDERS ask for. Counting digits is several times as fast as the patterns."""
    found = {""}
    if "@" in text:
        found.add("@")
    if "-" in text:
        found.add("-")
    if not text.isascii():
        return found | {"digits", "phone", "card"} if DIGITS.search(text) else found
    digits = text.encode().translate(_IS_DIGIT, _BETWEEN_DIGITS)
    if b"00000" in digits and DIGITS.search(text):
        found.add("digits")
        if b"0000000000" in digits or ("+" in text and b"000000" in digits):
            found.add("phone")
            if b"0000000000000" in digits:
                found.add("card")
    return found


def _announced(text: str, lowered: str) -> Iterator[Span]:
    for word in ANNOUNCING_ASCII if text.isascii() else ANNOUNCING:
        at = lowered.find(word)
        while at >= 0:
            end = at + len(word)
            alone = not (word[0].isalpha() and word[0] < "\u0590" and lowered[at - 1 : at].isalnum())
            found = ANNOUNCED.match(lowered, end) if alone and not OTHER_WORD.match(lowered, at) else None
            if found and _is_announced(found["link"], found[2]):
                yield found.span(2)
            at = lowered.find(word, end)


def _is_announced(link: str, number: str) -> bool:
    """Whether a number behind a word for telephones is one, by its digits and by what stands between."""
    if not 7 <= sum(c.isdigit() for c in number) <= 15 or NO_NUMBER.fullmatch(number) or _is_example(number):
        return False
    return bool(link.strip()) or not WEAK.fullmatch(number)


def _is_example(number: str) -> bool:
    """Whether a number counts up: people write such a one to show a form."""
    return "".join(filter(str.isdigit, number)) in ("1234567890", "11234567890")


def _spelled(text: str, lowered: str) -> Iterator[Span]:
    """Addresses whose `@` is spelled."""
    if ("[" in text and "[at]" in lowered) or ("(" in text and "(at)" in lowered):
        yield from (found.span() for found in SPELLED.finditer(lowered))


def _around(text: str, sign: str) -> list[Span]:
    """The parts of a text in which an address with such a sign may stand; each character is in one at most."""
    parts: list[Span] = []
    at = text.find(sign)
    while at >= 0:
        start, end = max(0, at - BEFORE_SIGN), min(len(text), at + BEHIND_SIGN)
        parts.append((parts.pop()[0], end) if parts and start <= parts[-1][1] else (start, end))
        at = text.find(sign, at + 1)
    return parts


def _emails(text: str, _: str) -> Iterator[Span]:
    """Addresses, but none that is the user and the host of a link: `postgres://me:...@db.host.com`."""
    users = [found.span() for found in USER_OF_LINK.finditer(text)] if "://" in text else []
    for start, end in [found.span() for part in _around(text, "@") for found in EMAIL.finditer(text, *part)]:
        target = text.startswith(":", end) and text[end + 1 : end + 2].isalnum()
        if target and COPYING.search(text, max(0, start - 300), start):
            continue
        if not any(first < start < last for first, last in users):
            escape = text[start - 1 : start] == "\\" and text[start] in "nrt" and text[start + 1] != "@"
            yield start + escape, end  # in JSON and in code a line break is a letter behind a backslash


Finder = tuple[str, str, Callable[[str, str], Iterable[Span]]]
FINDERS: tuple[Finder, ...] = (
    ("key", "", find_secrets),
    ("phone", "digits", _announced),
    ("iban", "digits", _ibans),
    ("email", "@", _emails),
    ("email", "", _spelled),
    ("card", "card", _matches(CARD, _is_card)),
    ("ssn", "-", _matches(SSN)),
    ("ip", "", _matches(IP, _is_public)),
    ("phone", "phone", _matches(PHONE, lambda number: not _is_example(number))),
)
"""In the order of the search: the kind, the sign that a text must have, and where it is in it and its small letters."""


@cache
def _finders(kinds: tuple[str, ...]) -> tuple[Finder, ...]:
    return tuple(finder for finder in FINDERS if finder[0] in kinds)


def redact(text: str, kinds: Sequence[str], tally: Counter[str]) -> str:
    """The text with personal data replaced by `[KIND]`; counts what it replaced.

    What was hidden by its neighbour, as the first of two keys without a blank between them, is found once that is gone.
    """
    for kind, before, spans in replacements(text, kinds):
        tally[kind] += len(spans)
        text = _replaced(before, spans, kind)
    return text


def replacements(text: str, kinds: Sequence[str]) -> Iterator[tuple[str, str, list[Span]]]:
    """What `redact` does, step by step: a kind, the text as it is by then, and the places in it that are replaced."""
    finders = _finders(tuple(kinds))
    for _ in range(MOST_PASSES):
        start, found, lowered = text, signs(text), small_letters(text)
        for kind, sign, finder in finders:
            if sign in found and (spans := sorted(set(finder(text, lowered)))):
                yield kind, text, spans
                text = _replaced(text, spans, kind)
                lowered = small_letters(text)
        if text == start:
            break


def _replaced(text: str, spans: Sequence[Span], kind: str) -> str:
    parts, start, mark = [], 0, f"[{kind.upper()}]"
    for first, end in spans:
        parts += [text[start:first], mark]
        start = end
    return "".join([*parts, text[start:]])


def redact_arguments(call: ToolCall, kinds: Sequence[str], tally: Counter[str]) -> str:
    """The arguments of a call scrubbed, JSON of an object still where they were: in a number's place stands a text.

    What only its neighbours give away, as a password its name, is found in the whole; what stands behind a line break
    or a quotation mark, in each text alone.
    """
    values = call.values
    if not isinstance(values, dict):
        return redact(call.arguments, kinds, tally)
    inner, outer = Counter[str](), Counter[str]()
    scrubbed = _leaves(values, kinds, inner)
    arguments = json.dumps(scrubbed, ensure_ascii=False) if inner else call.arguments
    whole = redact(arguments, kinds, outer)
    tally.update(inner)
    for said in (whole, _BARE.sub(r'\1"\2"', whole)) if outer else ():
        if isinstance(call._replace(arguments=said).values, dict):
            tally.update(outer)
            return said
    return arguments


def _leaves(value: Any, kinds: Sequence[str], tally: Counter[str]) -> Any:
    if isinstance(value, dict):
        return {key: _leaves(one, kinds, tally) for key, one in value.items()}
    if isinstance(value, list):
        return [_leaves(one, kinds, tally) for one in value]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return value
    text = str(value)
    scrubbed = redact(text, kinds, tally)
    return value if scrubbed == text else scrubbed


def redact_conversation(conversation: Conversation, kinds: Sequence[str], tally: Counter[str]) -> Conversation:
    """All turns scrubbed: contents, reasoning and the arguments of calls."""

    def scrubbed(turn: Turn) -> Turn:
        if not (turn.reasoning or turn.tool_calls):  # as most turns
            content = redact(turn.content, kinds, tally)
            return turn if content == turn.content else replace(turn, content=content)
        calls = tuple([c._replace(arguments=redact_arguments(c, kinds, tally)) for c in turn.tool_calls])
        content = redact(turn.content, kinds, tally) if turn.content else ""
        reasoning = redact(turn.reasoning, kinds, tally) if turn.reasoning else ""
        if (content, reasoning, calls) == (turn.content, turn.reasoning, turn.tool_calls):
            return turn
        return replace(turn, content=content, reasoning=reasoning, tool_calls=calls)

    turns = tuple([scrubbed(turn) for turn in conversation.turns])
    return conversation if turns == conversation.turns else replace(conversation, turns=turns)
