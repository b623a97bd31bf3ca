"""Secrets: keys and tokens known by their form, passwords in addresses, and random values behind a secret's name.

Forms after what the issuers publish; the idea of names with values of high entropy after detect-secrets and gitleaks.
"""

import math
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence

from vicuna_lit.prepare import passwords
from vicuna_lit.prepare.passwords import at_name, beside_user, given, in_calls, is_word, prose, seed_phrases, words

# Possessive, and begun only where a word begins: no text, however long, takes more than linear time.
_LETTERS = {
    "sk-": r"(?!ssh-|ecdsa-)(?:proj-|ant-|svcacct-|or-v1-)?[A-Za-z0-9_-]{20,}+",  # none is the name of a cipher of SSH
    "AKIA": r"[0-9A-Z]{16}", "ASIA": r"[0-9A-Z]{16}",
    "ABIA": r"[0-9A-Z]{16}", "ACCA": r"[0-9A-Z]{16}", "A3T": r"[0-9A-Z]{17}",
    "AC": r"(?=[a-z]*\d)[0-9a-z]{32}", "SK": r"(?=[a-z]*\d)[0-9a-z]{32}",
    "AIza": r"[\w-]{35}", "GOCSPX-": r"[\w-]{20,}+",
    "ghp_": r"[A-Za-z0-9]{36,}+", "gho_": r"[A-Za-z0-9]{36,}+", "ghu_": r"[A-Za-z0-9]{36,}+",
    "ghs_": r"[A-Za-z0-9]{36,}+", "ghr_": r"[A-Za-z0-9]{36,}+", "github_pat_": r"\w{22,}+",
    "gl": r"(?:pat|dt|ptt|rt|cbt|imt|agent|soat|oas|ft|ffct)-[\w-]{20,}+", "GR1348941": r"[\w-]{20,}+",
    "hf_": r"[A-Za-z0-9]{30,}+", "npm_": r"[A-Za-z0-9]{36,}+", "pypi-": r"[\w-]{50,}+",
    "xapp-": r"\d-[A-Za-z0-9-]{20,}+", "pscale_": r"[a-z]{2,5}_[\w-]{30,}+",
    "sk_live_": r"[A-Za-z0-9]{16,}+", "sk_test_": r"[A-Za-z0-9]{16,}+", "rk_live_": r"[A-Za-z0-9]{16,}+",
    "rk_test_": r"[A-Za-z0-9]{16,}+", "key-": r"[0-9a-f]{32}", "AKCp": r"[A-Za-z0-9]{69}",
    "shpat_": r"[A-Fa-f0-9]{32}", "shpss_": r"[A-Fa-f0-9]{32}", "shpca_": r"[A-Fa-f0-9]{32}",
    "shppa_": r"[A-Fa-f0-9]{32}", "sq0": r"[a-z]{3}-[\w-]{22,}+", "dop_v1_": r"[a-f0-9]{64}", "dapi": r"[a-f0-9]{32}",
    "lin_api_": r"[A-Za-z0-9]{32,}+", "secret_": r"(?=\w*\d)[A-Za-z0-9]{40,}+", "ntn_": r"[A-Za-z0-9]{40,}+",
    "figd_": r"[\w-]{20,}+", "PMAK-": r"[\w-]{40,}+", "NRAK-": r"[A-Z0-9]{20,}+", "glsa_": r"\w{32,}+",
    "r8_": r"[A-Za-z0-9]{30,}+", "gsk_": r"[A-Za-z0-9]{40,}+", "xai-": r"[A-Za-z0-9]{40,}+",
    "pplx-": r"[A-Za-z0-9]{32,}+", "pcsk_": r"\w{40,}+", "lsv2_": r"\w{32,}+", "sbp_": r"[a-f0-9]{40}",
    "EAACEdEose0cBA": r"[A-Za-z0-9]{20,}+", "AGE-SECRET-KEY-1": r"[A-Z0-9]{40,}+",
    "cmVmd": r"[A-Za-z0-9]{59}", "nvapi-": r"[\w-]{40,}+", "dckr_": r"(?:pat|oat)_[\w-]{20,}+",
    "sb_secret_": r"[\w-]{20,}+", "nfp_": r"[A-Za-z0-9]{36,}+", "napi_": r"[a-z0-9]{40,}+", "glc_": r"[\w-]{40,}+",
    "phx_": r"[A-Za-z0-9]{40,}+", "tskey-": r"[a-z]{3,9}-[\w-]{20,}+", "ATBB": r"[A-Za-z0-9]{32}",
    "HRKU-": r"[\w-]{36,}+", "pul-": r"[a-f0-9]{40}", "rubygems_": r"[a-f0-9]{48}", "sq": r"[apu]_[a-f0-9]{40}",
    "CCIPAT_": r"\w{40,}+", "tgp_v1_": r"[\w-]{40,}+", "re_": r"[A-Za-z0-9]{8}_[A-Za-z0-9]{20,}+", "vcp_": r"\w{40,}+",
    "LTAI": r"(?=[A-Za-z]*\d)[A-Za-z0-9]{20}", "tvly-": r"(?:dev-|prod-)?[A-Za-z0-9]{20,}+", "fc-": r"[a-f0-9]{32}",
    "csk-": r"[a-z0-9]{40,}+", "fw_": r"(?=\w*\d)[A-Za-z0-9]{22,}+", "sk_": r"[a-f0-9]{48}", "jina_": r"\w{50,}+",
    "e2b_": r"[a-f0-9]{40}", "rnd_": r"(?=\w*\d)[A-Za-z0-9]{30,}+", "apify_api_": r"\w{30,}+", "sgp_": r"\w{40,}+",
    "vercel_blob_rw_": r"\w{30,}+", "doo_v1_": r"[a-f0-9]{64}", "dor_v1_": r"[a-f0-9]{64}", "lin_oauth_": r"\w{32,}+",
    "CFPAT-": r"[\w-]{40,}+", "EAA": r"(?=[a-zA-Z]*\d)[A-Za-z0-9]{80,}+", "oy2": r"(?=[a-z]*\d)[a-z0-9]{43}",
}  # fmt: skip
"""Tokens of letters, digits, `_` and `-` alone: a long row of those begins with the hint."""
_OTHERS = {
    "ya29.": r"[\w-]{20,}+", "xox": r"[abceoprs]-[A-Za-z0-9-]{10,}+", "whsec_": r"[A-Za-z0-9+/=]{20,}+",
    "SG.": r"[\w-]{16,}+\.[\w-]{16,}+", "hvs.": r"[\w-]{24,}+", "ATATT3": r"[\w=-]{40,}+",
    "django-insecure-": r"[^\s'\"]{30,}+", "sntry": r"[su]_[\w+/=-]{40,}+", "fm2_": r"[\w+/=-]{40,}+",
    "pat": r"[A-Za-z0-9]{14}\.[0-9a-f]{64}",
}  # fmt: skip
_LINE = r"[\w-]{10,}+(?:\r?\n[\w-]{30,}+)*+"  # of a JWT that was broken into lines
_FORMS = {
    "eyJ": rf"(?<![\w-])eyJ{_LINE}\.\s?eyJ{_LINE}(?:\.\s?{_LINE})?",
    "hook": r"https://(?:hooks\.slack\.com/(?:services|workflows|triggers)/[\w/-]{20,}+"
    r"|(?:\w{2,8}\.)?discord(?:app)?\.com/api/webhooks/\d{5,}/[\w-]{20,}+|[\w-]{1,60}\.webhook\.office\.com/[^\s\"')]{30,}+"
    r"|discord\.gg/api/webhooks/[^\s\"')]{20,}+)",
    # No `*+` around a group in it: Python 3.11.2 finds nothing then.
    "PRIVATE KEY": r"-----BEGIN (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
    r"(?!(?:\W|(?i:insert|your|key|here|client|server|private|contents?|paste|the|of|goes|data|redacted|x+|n)\b)*-----END)"
    r"(?:(?:[^-]++|-(?!----))*-----END (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
    r"|(?:[\s\\rn]{0,4}[A-Za-z0-9+/=]{16,}+)++)",
    "Private-Lines": r"Private-Lines: \d{1,3}\r?\n(?:[A-Za-z0-9+/=]{16,80}(?:\r?\n|(?![^\n])))+",
    ":AA": r"(?<![\w-])\d{8,10}:AA[\w-]{32,34}(?![\w-])",
    "-us": r"[0-9a-f]{32}(?<![\w-].{32})-us\d{1,2}(?![\w-])",
    "softlayer.com/soap": r"softlayer\.com/soap/v3(?:\.1)?/[0-9a-z]{64}(?![\w-])",
    "$": r"(?<!\w)\$(?:[156y]|apr1|2[abxy])\$[A-Za-z0-9./$=,]{20,}+",  # a password's hash, as crypt(5) writes it
    "msh": r"(?<![\w-])[0-9a-f]{10}msh[0-9a-f]{15}p1[0-9a-f]{6}jsn[0-9a-f]{12}(?![\w-])",
}
PATTERNS = {
    hint: re.compile(rf"{re.escape(hint)}(?<![\w-].{{{len(hint)}}}){rest}(?![\w-])")
    for hint, rest in (_LETTERS | _OTHERS).items()
} | {hint: re.compile(pattern) for hint, pattern in _FORMS.items()}
"""By a text that every match holds. Its letters come before what precedes them: so Python seeks them fast."""
_BEGINNINGS = {hint[:2]: [other for other in _LETTERS if other.startswith(hint[:2])] for hint in _LETTERS}
_ANYWHERE = (*_OTHERS, *(hint for hint in _FORMS if hint != "PRIVATE KEY"))
MASK = re.compile(
    r"(?<![\w-])(?:AP[0-9A-F]|AKC|AC|SK|AKIA|ASIA|AIza|npm_|sk-(?:proj-|ant-(?:api03-)?)?|sk_(?:live|test)_|gh[opsur]_"
    r"|github_pat_|glpat-|hf_|xox[abp]-|SG\.|shpat_|dop_v1_|whsec_|https://hooks\.slack\.com/services/[TBxX/]{1,12})"
    r"[xX]{6,}+(?:[-./][BxX]{1,64}+)*+(?![\w-])"
)
"""A token that its owner masked: an issuer's prefix, and a row of x."""
QUERY = re.compile(r"[?&](?:appid|sig|signature|key|auth)=([\w%+/=.~-]{20,200}+)")
URL_PASSWORD = re.compile(r"://[^\s:/@\"'<>\[\]]{0,64}:([^\s/@\"'<>\[\]{}$]{3,128})@(?=[\w\[])")
DISCORD = re.compile(r"[MNO](?<![\w.-].)[\w-]{23,27}\.[\w-]{6}\.[\w-]{27,40}(?![\w.-])")
DISCORD_END = re.compile(r"\.[\w-]{6}\.[\w-]{27}")
NAMES = ("secret", "pass", "pw")
FOREIGN_NAMES = ("密码", "密碼", "パスワード", "비밀번호", "пароль", "contraseña", "senha", "hasło", "şifre")
NAMES_OF_TOKENS = (
    "key", "token", "passphrase", "credential", "bearer", "authorization", "_auth", '"auth"', "sess", "sid", "li_at",
    "키", "密钥",
)  # fmt: skip
"""Names with a value that is a long row of characters, or else no secret."""
NAMES_OF_PASSWORDS = ("pass", "pw", "passphrase", *FOREIGN_NAMES)
NAMES_OF_KEYS = ("api_key", "apikey", "api-key", "private_key", "privatekey", "private-key")
"""Names whose value may hold signs between its letters, as a password's does."""
KEY_OF = re.compile(
    r"(?:api|access|secret|private|encrypt\w{0,5}|sign\w{0,4}|auth\w{0,12}|client|consumer|account|shared|master|license"
    r"|iam|ibm|cloud\w{0,3}|softlayer|\bsl|subscription|service|app|bot|admin|storage|session|deploy\w{0,5}|publish\w{0,5}|rapid\w{0,4})"
    r"[ _.-]{0,2}$"
)
SESSION = re.compile(r"(?:ion)?[_-]?id|ion[_\"':=]")
"""Behind `sess`, in the name of a session's cookie."""
VALUE = re.compile(
    r"[\w-]{0,24}+(?![\w-])(?:(?:\[\w{0,8}\])?[\"'`\])>]{0,3}\s{0,4}(?:=>|:=|!?={1,3}|[:,>(]|\bis\b)|[\"'`]?)"
    r"[ \t]*(?:(?i:bearer|basic|token) |s%3A|base64:)?"
    r"(?:(?<!\w)@?(?P<quote>[\"'`])(?P<quoted>[^\s\"'`]{8,200})(?P=quote)|(?P<bare>[A-Za-z0-9+/_=.~!-]{16,400})"
    r"|(?P<signs>[^\s\"'`]{10,200}))"
)
CHOSEN = re.compile(
    r"[\w-]{0,24}+(?![\w-])"
    r"(?:[\"'`\])]{0,2}\s{0,2}(?:=>|:=|[:=：]|(?P<is>\bis\b))(?P<gap>[ \t]+)?|(?P<blank>[ \t]++)"
    r"|[\"']?\s{1,16}value[\"']?[=:] ?[\"']?|(?P<tag>>))(?![=:~>./@#-])"
    r"(?P<chosen>[^\s\"'`<>(){}\[\],;&|$%*\\\x80-\U0010ffff]{6,64}+)(?=(?P<code>[,;])|[\s\"'`&<\x80-\U0010ffff]|\Z)"
)
"""A password of few characters without quotes, behind its name."""
OPTION = re.compile(r"(?:--[\w-]{0,20}|\blogin \S{1,64}\s{1,4}|\bnmcli\b[^\n|;]{0,80} )\Z")
"""Before a name whose value stands behind a blank: an option, a line of .netrc, a network to join."""
CODE = re.compile(r"[A-Za-z_\d)]\.[A-Za-z_]|->|::|\A[a-z\d]+_\w+\Z|\A[a-z]+[A-Z][A-Za-z]*\d?\Z")
"""Of a value that is an expression or a variable of a program."""
COMPARED = re.compile(r"([\"'`])(?P<quoted>[^\s\"'`]{8,200})\1 ?[!=]==? ?[\w.]{0,24}\Z")
"""A value that is compared with what bears the name."""
MARKUP = re.compile(r"[(\[]\?|\\|\.\*|\]\(|://|=>|\(\)|</|/>|\{\d*,?\d*\}|\$\{[\w.]{3,}\}|\{\{[\w.]{3,}")
"""Of a value with brackets that is a pattern, a template or code."""
FEWEST_SIGNS = 6
"""Different signs in a secret that holds brackets, or hardly a letter."""
PAIRS = {")": "(", "]": "[", "}": "{"}
PLACEHOLDER = re.compile(
    r"(?i)your|example|placeholder|change.?me|insert|xxxx|\*\*\*|\.\.\.|process\.env|environ|getenv"
    r"|^https?:|^\w+\(|password|passwd|secret.?key|api.?key|access.?token|dummy|sample|redacted|^\$|^%|test_?key"
)
SEQUENCE = re.compile(r"(?i)1234567|abcdef(?:gh|12)")
"""Of a value that somebody typed as an example; a long one hides a key all the same."""
LONG = 40
HEX = re.compile(r"[0-9a-fA-F]+")
MADE_UP = re.compile(r"(?i)[-_/]your|insert |x{6}")
RUN = 16
"""Characters of a token that stand in a row in nearly every secret; texts without are searched for passwords alone."""
BEFORE_RUN = 64
"""Characters before such a row in which the form's sign is looked for."""
_ROW = b"a" * RUN
_CLASSES = bytes(97 if chr(i).isalnum() or chr(i) in "_-" else 32 for i in range(128)) + b" " * 128


def find_secrets(text: str, lowered: str) -> list[tuple[int, int]]:
    """Where the secrets of a text are, in order and apart; `\\_` counts as the `_` that a converter escaped.

    `lowered` is the text in small letters, as `small_letters` makes it.
    """
    escaped = "\\" in text and "\\_" in text  # one sign is sought ten times as fast as two
    if escaped:
        spans = sorted(_spans(text.replace("\\_", "_"), lowered.replace("\\_", "_")))
    else:
        spans = sorted(_spans(text, lowered))
    if not spans:
        return []
    merged = [spans[0]]
    for start, end in spans[1:]:
        if start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    if escaped:
        at = [found.start() - i for i, found in enumerate(re.finditer(r"\\_", text))]
        merged = [(start + bisect_left(at, start), end + bisect_left(at, end)) for start, end in merged]
    return merged


def small_letters(text: str) -> str:
    """The text in small letters, each at its place."""
    lowered = text.lower()
    if len(lowered) == len(text):
        return lowered
    return "".join(c.lower() if c.isascii() else c for c in text)  # a letter whose small form is longer


def _spans(text: str, lowered: str) -> Iterator[tuple[int, int]]:
    links = "/" in text and "://" in text
    if links:
        for found in URL_PASSWORD.finditer(text):
            if not (PLACEHOLDER.search(found[1]) or SEQUENCE.search(found[1])) and found[1].lower() not in (
                "pass",
                "pwd",
                "user",
                "pw",
                found[0][3:7],
            ):
                yield found.span(1)
    if "PRIVATE KEY" in text:
        yield from (found.span() for found in PATTERNS["PRIVATE KEY"].finditer(text))
    rows, hints = _rows(text)
    if rows:
        hints |= {hint for hint in _ANYWHERE if hint in rows or (links and hint == "hook" and "hook" in text)}
        for hint in hints:
            yield from (f.span() for f in PATTERNS[hint].finditer(text) if not MADE_UP.search(f[0]))
        if links and ("?" in text or "&" in text):
            yield from (f.span(1) for f in QUERY.finditer(text) if is_random(f[1]) and not PLACEHOLDER.search(f[1]))
        if DISCORD_END.search(rows):
            yield from (f.span() for f in DISCORD.finditer(text) if is_random(f[0]))
        small = rows.lower()
        if names := [name for name in NAMES_OF_TOKENS if name in small]:
            yield from _named(text, lowered, names)
        for pattern in (pattern for call, pattern in passwords.LOG_INS_IN_ROWS.items() if call in small):
            yield from _taken(pattern, text)
    if names := [name for name in (NAMES if text.isascii() else NAMES + FOREIGN_NAMES) if name in lowered]:
        yield from _named(text, lowered, names)
    yield from _chosen(text, lowered)
    if "key" in lowered and ("api" in lowered or "private" in lowered):
        yield from _named(text, lowered, NAMES_OF_KEYS)


def _rows(text: str) -> tuple[str, set[str]]:
    """The parts of a text in which a long row of a token's characters stands, each with what precedes it; and the hints
    with which such rows begin."""
    classes = text.encode("ascii", "replace").translate(_CLASSES)
    at = classes.find(_ROW)
    if at < 0:
        return "", set()  # as in most texts
    parts, hints = [], set[str]()
    while at >= 0:
        if near := _BEGINNINGS.get(text[at : at + 2]):
            hints.update(hint for hint in near if text.startswith(hint, at))
        end = classes.find(b" ", at)
        end = len(text) if end < 0 else end
        parts.append(text[max(0, at - BEFORE_RUN) : end])
        at = classes.find(_ROW, end)
    return "\n".join(parts), hints


def _named(text: str, lowered: str, names: Sequence[str]) -> Iterator[tuple[int, int]]:
    for name in names:
        at = lowered.find(name)
        while at >= 0:
            end = at + len(name)
            if _is_name(lowered, name, at, end):
                found = VALUE.match(text, end)
                if found and (span := _value(found, name)):
                    yield span
                elif name in NAMES_OF_PASSWORDS:
                    yield from _behind(text, at, end)
                    yield from words(text, at, end)
                    yield from given(text, at, end)
                    yield from (span for span in prose(text, end) if _is_chosen(text[slice(*span)]))
                if "=" in text[max(0, at - 28) : at]:
                    before = max(0, at - 240)
                    compared = COMPARED.search(text[before:at])
                    if compared and (span := _value(compared, name)):
                        yield span[0] + before, span[1] + before
            if name == "pass" and not text[at - 1 : at].isspace():
                yield from (span for span in at_name(text, at, end) if _is_taken(text[slice(*span)]))
            elif name in ("pass", "pw") and text[end : end + 1] in (":", "=", " "):
                yield from (span for span in beside_user(text, at, end) if _is_taken(text[slice(*span)]))
            at = lowered.find(name, end)


def _chosen(text: str, lowered: str) -> Iterator[tuple[int, int]]:
    """Masked tokens, phrases of wallets, and passwords of commands and calls."""
    if "xxxxxx" in lowered:
        yield from (found.span() for found in MASK.finditer(text))
    if " -" in text and passwords.OPTIONS.search(text):
        for pattern in (
            p
            for option in passwords.COMMANDS
            if option in text
            for h, p in passwords.COMMANDS[option].items()
            if h in text
        ):
            yield from (f.span(1) for f in pattern.finditer(text) if _is_taken(f[1]))
    signed = "@" in text
    if ("=" in text and ("auth" in lowered or "psk=" in text)) or (signed and "login(" in text):
        yield from (span for span in in_calls(text, lowered) if _is_taken(text[slice(*span)]))
    if signed and "identified by" in lowered:
        yield from _taken(passwords.IDENTIFIED, text)
    if "$" in text and ("mysqli" in text or "PDO(" in text):
        yield from _taken(passwords.PHP_LOG_IN, text)
    if "\\" in text and "\\\\" in text and "net use" in lowered:
        yield from _taken(passwords.NET_USE, text)
    if "phrase" in lowered or ("=" in text and "mnemonic" in lowered):
        yield from seed_phrases(lowered)


def _is_name(lowered: str, name: str, at: int, end: int) -> bool:
    """Whether what was found is a secret's name: no word that only begins so, no name of a signed assembly of .NET."""
    alone = not lowered[end : end + 1].isalnum()
    match name:
        case "key":
            return KEY_OF.search(lowered, max(0, at - 24), at) is not None
        case "sess":
            return SESSION.match(lowered, end) is not None
        case "sid":
            return alone and (not lowered[at - 1 : at].isalpha() or lowered.endswith("ps", 0, at))
        case "token":
            return not lowered.endswith("publickey", 0, at)
        case "pass" | "pw":
            longer = ("w", "phrase") if name == "pass" else "d"
            french = lowered.startswith("e ", end) and lowered.endswith("mot de ", 0, at)
            return french or lowered.startswith(longer, end) or (alone and lowered.endswith("_", 0, at))
        case _:
            return True


def _behind(text: str, at: int, end: int) -> Iterator[tuple[int, int]]:
    found = CHOSEN.match(text, end)
    if found is None or (found["code"] and not found["is"] and (found["code"] == "," or found["gap"])):
        return  # `pwd = hash256;`, `f(password=input1, x)`
    if found["tag"] and not text.startswith("</", found.end("chosen")):
        return
    if found["blank"] and not OPTION.search(text[max(0, at - 90) : at]):
        return
    value = found["chosen"].rstrip(".!?:") if found["is"] else found["chosen"]
    listed = found["code"] == ";" and text.endswith(";", 0, at)  # of a connection string, no expression
    if _is_chosen(value) and (listed or not CODE.search(value)):
        yield found.start("chosen"), found.start("chosen") + len(value)


def _is_chosen(value: str) -> bool:
    return _is_password(value) and not (PLACEHOLDER.search(value) or SEQUENCE.search(value))


def _taken(pattern: re.Pattern[str], text: str) -> Iterator[tuple[int, int]]:
    return (found.span("value") for found in pattern.finditer(text) if _is_taken(found["value"]))


def _is_taken(value: str) -> bool:
    """Whether what stands in a password's place is one: there a word counts, too."""
    return _is_chosen(value) or is_word(value)


def _value(found: re.Match[str], name: str) -> tuple[int, int] | None:
    group = found.lastgroup or ""
    value = found[group].rstrip(".!" if group == "bare" else ",;" if group == "signs" else "")
    start = found.start(group)
    if PLACEHOLDER.search(value) or (len(value) < LONG and SEQUENCE.search(value)):
        return None
    if group == "signs":
        right = _is_mostly_signs(value) or (_is_mixed(value) and _is_crossed(value))
    elif any(c in value for c in "<>{}"):
        right = _is_mixed(value)
    else:
        right = (len(value) >= RUN and is_random(value)) or (
            group == "quoted" and ((name in NAMES_OF_PASSWORDS and _is_password(value)) or _is_mostly_signs(value))
        )
    return (start, start + len(value)) if right else None


def _is_password(value: str) -> bool:
    return any(c.isdigit() for c in value) and any(c.isalpha() for c in value) and len(set(value)) > 5


def _is_mixed(value: str) -> bool:
    """Whether a value with brackets is one that nobody would write but as a secret."""
    signs = {c for c in value if not c.isalnum()}
    return len(signs) >= FEWEST_SIGNS and entropy(value) >= 3.3 and not MARKUP.search(value)


def _is_mostly_signs(value: str) -> bool:
    """Whether a value without brackets has more signs than letters, and many of them."""
    signs = [c for c in value if not c.isalnum()]
    return (
        len(value) > len(signs) > len(value) / 2
        and len(set(signs)) >= FEWEST_SIGNS
        and not set(value) & set("()[]{}<>")
    )


def _is_crossed(value: str) -> bool:
    """Whether one bracket is closed by another's: no code and no template does so."""
    opened: list[str] = []
    for c in value:
        if c in "([{":
            opened.append(c)
        elif c in PAIRS and opened and opened.pop() != PAIRS[c]:
            return True
    return False


def is_random(value: str) -> bool:
    """Whether a value looks drawn by a machine: high entropy, and not words with a number behind."""
    least = 2.9 if len(value) >= LONG and HEX.fullmatch(value) else 3.0 if len(value) < 20 else 3.3
    if entropy(value) < least:
        return False
    digits = sum(c.isdigit() for c in value)
    runs = len(re.findall(r"\d+", value))
    turns = len(re.findall(r"[a-z][A-Z]|[A-Z]{2}[a-z]|\d[A-Za-z]|[A-Za-z]\d|[a-zA-Z\d][!@#%^&*+=]", value))
    words = sum(map(len, re.findall(r"(?<![a-zA-Z])[a-z]{4,}(?![a-zA-Z\d])", value)))
    if words > len(value) / 3:
        return False
    letters = digits < len(value) - sum(not c.isalnum() for c in value)
    return letters and ((runs >= 3 and digits >= len(value) / 10) or turns >= max(5, len(value) / 4))


def entropy(value: str) -> float:
    """Bits a character, by the value's own frequencies."""
    return -sum(n / len(value) * math.log2(n / len(value)) for n in Counter(value).values())
