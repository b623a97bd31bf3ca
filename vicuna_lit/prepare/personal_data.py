"""Personal data: patterns of e-mail addresses, telephone numbers, secret keys and card numbers.

Patterns find what has the form of such data; names and addresses of streets they do not find.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from vicuna_lit.conversation import Conversation

EMAIL = re.compile(  # ASCII alone: in scripts without blanks words stand right beside an address
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,64}@(?!example\.)(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9-])"
)
PHONE = re.compile(
    r"(?<![\w.+/=-])(?:"
    r"\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{2,4}(?:[ .-]?\d{2,4}){2,4}"  # +49 30 1234 5678
    r"|(?:1[ .-])?(?:\(\d{3}\)[ -]?\d{3}[ .-]\d{4}|\d{3}([.-])\d{3}\1\d{4})"  # (555) 123-4567, 555-123-4567
    r")(?![\w/=-]|\.\d)"
)
# Possessive, and begun only where a word begins: no text, however long, takes more than linear time.
KEY = re.compile(
    r"-----BEGIN (?:[A-Z]{1,20} ){0,3}PRIVATE KEY-----(?:[^-]++|-(?!----))*+"
    r"-----END (?:[A-Z]{1,20} ){0,3}PRIVATE KEY-----"
    r"|(?<![\w-])(?:sk-(?:proj-|ant-)?[A-Za-z0-9_-]{20,}+|AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36,}+"
    r"|github_pat_\w{22,}+|glpat-[\w-]{20,}+|hf_[A-Za-z0-9]{30,}+|xox[abprs]-[A-Za-z0-9-]{10,}+"
    r"|AIza[\w-]{35}|[sr]k_(?:live|test)_[A-Za-z0-9]{16,}+"
    r"|eyJ[\w-]{10,}+\.eyJ[\w-]{10,}+\.[\w-]{10,}+)(?![\w-])"
)
KEY_SIGNS = (
    "sk-", "AKIA", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "hf_", "xox", "AIza", "k_live_",
    "k_test_", "eyJ", "PRIVATE KEY",
)  # fmt: skip
CARD = re.compile(
    r"(?<![\w.+-])(?:\d{13,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{4}|3\d{3}([ -])\d{6}\2\d{5})(?![\w-]|\.\d| \d)"
)


def _is_card(digits: str) -> bool:
    """Known first digits and the Luhn checksum (ISO/IEC 7812-1)."""
    numbers = [int(c) for c in digits if c.isdigit()]
    if numbers[0] not in (3, 4, 5, 6) or len(set(numbers)) == 1:
        return False
    doubled = [d if i % 2 == 0 else d * 2 - 9 * (d > 4) for i, d in enumerate(reversed(numbers))]
    return sum(doubled) % 10 == 0


PATTERNS: dict[str, tuple[re.Pattern[str], Sequence[str], Callable[[str], bool] | None]] = {
    "key": (KEY, KEY_SIGNS, None),
    "email": (EMAIL, ("@",), None),
    "card": (CARD, (), _is_card),
    "phone": (PHONE, (), None),
}
"""By kind, in the order of their search: the pattern, texts of which one must be there (else digits), a check."""
DIGITS = re.compile(r"\d[ .()-]{0,2}\d{2,4}[ .)-]{0,2}\d{2}")


def scrub(text: str, kinds: Sequence[str], tally: Counter[str]) -> str:
    """The text with personal data replaced by `[KIND]`; counts what it replaced."""
    has_digits = DIGITS.search(text) is not None
    for kind, (pattern, hints, check) in PATTERNS.items():
        if kind not in kinds or not (any(hint in text for hint in hints) if hints else has_digits):
            continue

        def put(found: re.Match[str], kind: str = kind, check: Callable[[str], bool] | None = check) -> str:
            if check is not None and not check(found[0]):
                return found[0]
            tally[kind] += 1
            return f"[{kind.upper()}]"

        text = pattern.sub(put, text)
    return text


def scrub_conversation(conversation: Conversation, kinds: Sequence[str], tally: Counter[str]) -> Conversation:
    """All turns scrubbed."""
    turns = tuple(replace(t, content=scrub(t.content, kinds, tally)) for t in conversation.turns)
    return replace(conversation, turns=turns)
