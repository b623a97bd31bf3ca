"""Passwords that are words, and those that no name announces: their place in a file, a command or a call tells them.

Whatever stands here is looked at where a sign of it was found already, or behind a text that is cheap to seek.
"""

import re
from collections.abc import Iterator

Span = tuple[int, int]
WORD = re.compile(r"(?=.*[a-zß-ÿ]{4})(?!.*[a-z][A-Z])[A-Za-zÀ-ž]{3,}(?:[-!@#+?*~ ]{1,2}[A-Za-zÀ-ž]*){0,6}")
NO_PASSWORD = re.compile(
    r"(?i)pass|pwd|secret|user|login|name|admin|guest|root|string|hidden|required|text|default|none|null|true|false|undef"
    r"|value|hash|plain|crypt|correct|valid|forgot|confirm|strong|missing|empty|option|current|reset|change|update|submit"
    r"|label|field|input|char|integer|numb|numeric|bool|object|unknown|demo|dummy|sample|example|your|xxx|holder|redact"
    r"|omit|mask|private|public|credential|param|config|environ|contrase|senha|wachtwoord|kennwort|parol|hasło|lozinka"
    r"|salasana|clave|geslo|şifre|vault|token|type|(?:api|access|auth|app).?key|account|special|invisible"
    r"|^(?:new|old|my|some|the|foo|bar|not|no|key|test|auth|enter|please|is|must|should|none|sign|log|get|set|this|self|and"
    r"|or|one|two|weak|short|long|mot de|a|an|in|minimum|at|check|with|for|from|to|mandatory|data|state|form)\b"
    r"|^(?:test|foo|bar|my|some|new|old|temp)[A-Za-z]*$"
)
"""Of a word that stands for a password, labels one or is a program's."""
BESIDE = 200
"""Characters before and after a name in which a user or a host is looked for."""
USER = re.compile(
    r"(?i)(?:\b|_)(?:user(?:name|[ _-]?id)?|uid|login|e-?mail|host(?:name)?|server|database|db(?:[_-]?\w{1,8})?|ssid"
    r"|dsn|smtp[\w-]{0,8}|benutzer\w{0,4}|usuario|utilisateur)"
    r"(?:[\"'`\])]{0,2}\s?(?:=>|:=|=|:)[ \t]{0,4}[\"']?[\w*.$/@-]|>)|connect\w{0,8}\("
)
OWNER = re.compile(
    r"(?i)(?:\b|_|\.)(?:db|database|mysql|mariadb|postgres(?:ql)?|pg|redis|mongo(?:db)?|rabbitmq|smtp|mail|ftp|sftp|ssh"
    r"|ldap|root|admin|ansible\w{0,20}|sudo|become|wifi|wlan|datasource|keystore|truststore)[ _.-]{0,2}\Z"
)
"""Before a password's name: whose it is."""
WORDED = re.compile(
    r"(?i:word|wd|phrase|d)?(?![\w-])(?:[\"'`\])]{0,2}\s?(?P<sign>=>|:=|=|:)(?P<gap>[ \t]{0,4})"
    r"(?:(?P<quote>[\"'])(?P<quoted>[^\s\"'`]{6,40})(?P=quote)"
    r"|(?P<bare>[^\s\"'`,;&(){}\[\]<>$%]{6,40})(?:[ \t]*(?=\r?\n|\Z)|(?P<inline>(?=[&; \"']))))"
    r"|>(?P<tag>[^\s<>]{6,40})</)"
)
ALONE = re.compile(r"\s?[:=]\s?(?P<value>[^\s\"'<>,;()]{6,64})(?=[ \t]*(?:\r?\n|\Z))")
NAMED_USER = re.compile(
    r"(?i)\b(?:login|log|user(?:name)?|e-?mail|mail|id|account)\s?[:=]\s?[^\s:=]{2,64}[\s,/|;]{1,4}\Z"
)
PROSE = re.compile(
    r"(?:[wW]ort|e)?(?:\s{1,2}(?:lautet|ist|est|es|é|è|jest|to|это|är|er)\s{1,2}|\s?(?:[是为為は：]|—)\s?)"
    r"[\"'«„“]?(?=[^\s\d]{0,64}\d[^\s\d]{0,64}\d)(?P<value>[^\s\"'<>«»“”„\x80-\U0010ffff,;()]{6,64})"
)
APP = re.compile(r"(?:word)?[\"']?\s?[:= ]\s?[\"']?(?P<value>[a-z]{4}(?: [a-z]{4}){3})(?=[\s\"')]|\Z)(?! [a-z])")
"""Google's passwords for programs: four groups of letters, of which hardly one row has a vowel in each."""
NETWORK = re.compile(r"word [\"']?(?P<value>[^\s\"'|;&$<>]{8,63})")
LINE = re.compile(r"(?:\A|\n)[ \t]*(?:export |- )?[\w.-]*\Z")
"""Up to a name with which the line begins: a configuration's, no program's."""
INLINE = re.compile(
    r"(?i)(?:\b(?:user\w{0,4}|uid|host|server)=[^\s&;,()]{1,64}(?:[&;]| (?=\w*\Z))| (?:-e|--env)[ =])\w*\Z"
)
"""Up to a name in a connection string or in a command's environment."""
TERRAFORM = re.compile(r"[\w-]{0,24}\"\s?\{[^}]{0,300}?\bdefault\s{0,9}=\s?\"(?P<value>[^\s\"$]{6,64})\"")
BY_NAME = {
    "ht": re.compile(
        r"wd [^\n|;]{0,40}?-\w{0,4}b\w{0,4} [^\s|;]{1,120} (?:[^\s|;]{1,64}) [\"']?(?P<value>[^\s\"'|;&$<>]{4,64})"
    ),
    "wpa_": re.compile(r"phrase (?:\"[^\"\n]{1,32}\"|[^\s|;<>]{1,32}) [\"']?(?P<value>[^\s\"'|;&$<>]{8,63})"),
}
"""Commands whose own name holds `pass`, by what stands before it."""
PGPASS = re.compile(
    r"(?:^|[\"'])[\w.*-]{1,80}:(?:\d{2,5}|\*):[\w*-]{1,64}:[\w*-]{1,64}:(?P<value>[^\s:\"']{4,64})(?=[\"'\s]|\Z)", re.M
)
AUTH = re.compile(
    r"auth\w{0,10} ?(?:= ?)?\(\s{0,8}(?P<q>[\"'])[^\"'\s]{1,64}(?P=q),\s{0,8}"
    r"(?P<p>[\"'])(?P<value>[^\"'\s]{4,64})(?P=p)\s{0,8}\)"
)
LOGIN = re.compile(
    r"\blogin\(\s{0,8}(?P<q>[\"'])[^\"'\s]{1,64}@[^\"'\s]{1,64}(?P=q),\s{0,8}(?P<p>[\"'])(?P<value>[^\"']{6,64})(?P=p)"
)
_ARGUMENT = r"[\"'][^\"'\n]{1,120}[\"'],\s{0,8}"
_SECRET = r"[\"'](?P<value>[^\"'\n]{4,64})[\"']"
PHP_LOG_IN = re.compile(rf"(?:mysqli(?:_connect)?|PDO)\(\s{{0,8}}{_ARGUMENT}{_ARGUMENT}{_SECRET}")
IDENTIFIED = re.compile(rf"(?i:identified by) {_SECRET}")
NET_USE = re.compile(
    r"(?i:net use) (?:[A-Za-z*]:? {1,4})?\\\\\S{1,120} {1,4}(?:/user:\S{1,64} {1,4})?(?P<value>[^\s/*<>%$]\S{3,63})"
)
LOG_INS_IN_ROWS = {
    "credential": re.compile(rf"Credential\(\s{{0,8}}{_ARGUMENT}{_SECRET}"),
    "securestring": re.compile(rf"(?i:-securestring) (?:-string )?{_SECRET}"),
}
"""Calls whose own names are a row that may hold a token, by a part of it in small letters."""
_TAKEN = r"[\"']?([^\s\"'`$%<>(){}\[\]|;&*\\]{6,64}+)(?=[\s\"'`|;&)]|\Z)"
COMMANDS = {
    option: {command: re.compile(before + _TAKEN) for command, before in commands.items()}
    for option, commands in {
        " -p": {
            "login": r"(?:docker|podman|az) login\b[^\n|;]{0,160}? -p[ =]?",
            "sshpass": r"sshpass -p ?",
            "mysql": r"mysql\w{0,8}\b[^\n|;]{0,160}? -p",  # with a blank behind it a database's name follows
            "mariadb": r"mariadb[\w-]{0,8}\b[^\n|;]{0,160}? -p",
            "mongo": r"mongo\w{0,8}\b[^\n|;]{0,160}? -p ?",
        },
        " -a ": {"redis-cli": r"redis-cli\b[^\n|;]{0,160}? -a "},
        " -w ": {"ldap": r"ldap\w{3,9}\b[^\n|;]{0,160}? -w "},
        " -U": {"smbclient": r"smbclient\b[^\n|;%]{0,160}? -U ?[\"']?[\w\\/.@-]{1,64}%"},
        " -S": {"sudo": r"\becho (?:-\w )?(?=[\"']?[^\s\"'|]{6,64}[\"']? ?\| ?sudo(?: -\w)* -S)"},
        " -u": {"curl": r"curl\b[^\n|;]{0,240}? -u[ =]?[\"']?[^\s:/\"']{1,64}:"},
        " --user": {"curl": r"curl\b[^\n|;]{0,240}? --user[ =]?[\"']?[^\s:/\"']{1,64}:"},
        " pass:": {"-pass": r"-pass(?:in|out)? pass:"},
    }.items()
}
"""Where a command takes a password that no name announces; by what stands in such a text: the option, which few texts
hold, then the command."""
OPTIONS = re.compile(r" -(?:[pawUSu]|-user)")
"""Before the password, or before what holds it; openssl's is `-passin`."""
PSK = re.compile(r"\b(?:wpa_)?psk=(?P<q>\"?)(?P<value>(?<=\")[^\"\n]{8,63}|[0-9a-f]{64})(?P=q)")
ANNOUNCED = re.compile(
    r"(?:\b(?:seed|recovery|backup|wallet|secret)[ _-]?(?:recovery )?(?:phrase|words)"
    r"|mnemonic(?:[ _]?(?:phrase|seed|words))?)"
    r"(?:[\w() -]{0,24}?)[\"'`*]{0,3}\s?(?:=|:|\bis\b)[:\s]{0,3}[\"'`*]{0,3}"
    r"(?P<value>(?:(?:\d{1,2}[.)] ?)?[a-z]{3,8}(?:, ?|\s{1,2}|\Z|(?![a-z]))){12,24})"
)
"""A wallet's phrase behind what announces it, in small letters."""
LENGTHS = (12, 15, 18, 21, 24)
"""Words of such a phrase (BIP-39)."""
NO_PHRASE = frozenset("the and for are with from your has was but they have been which its not you can our".split())
"""Words that are in nearly every sentence, and not in BIP-39's list."""


def is_word(value: str) -> bool:
    """Whether a word may be a password, and not what stands for one, labels one or is a program's."""
    return WORD.fullmatch(value) is not None and len(set(value.lower())) > 4 and NO_PASSWORD.search(value) is None


def words(text: str, at: int, end: int) -> Iterator[Span]:
    """A word behind a password's name, in a configuration: beside it stand a user or a host, or the name says whose."""
    found = WORDED.match(text, end)
    if found is None or not is_word(value := found["quoted"] or found["bare"] or found["tag"]):
        return
    before, after = text[max(0, at - BESIDE) : at], text[found.end() : found.end() + BESIDE]
    if value in before or value in after:  # the user's name again: a program's default
        return
    tight = found["sign"] == "=" and not found["gap"]
    line = found["inline"] is None and LINE.search(before) and (tight or found["sign"] == ":")
    if found["bare"] and not line:
        right = tight and INLINE.search(before)
    else:
        right = OWNER.search(before) or USER.search(before) or USER.match(after.lstrip(" \t\r\n,;\"'$<-"))
    if right:
        start = found.start("quoted" if found["quoted"] else "bare" if found["bare"] else "tag")
        yield start, start + len(value)


def beside_user(text: str, at: int, end: int) -> Iterator[Span]:
    """Where `pass` or `pw` stands alone before a colon, what follows it, if a user was named right before."""
    if (found := ALONE.match(text, end)) and NAMED_USER.search(text, max(0, at - BESIDE), at):
        yield found.span("value")


def given(text: str, at: int, end: int) -> Iterator[Span]:
    """The password of a network that nmcli joins, and Google's for a program: neither needs both digits and letters."""
    network = NETWORK.match(text, end) if "nmcli" in text[max(0, at - 90) : at] else None
    app = APP.match(text, end)
    if app and all(set("aeiou") & set(group) for group in app["value"].split()):
        app = None
    if found := network or app:
        yield found.span("value")


def prose(text: str, end: int) -> Iterator[Span]:
    """What a sentence in another language than English, or a network's command, says behind a password's name."""
    if found := PROSE.match(text, end):
        start, value = found.start("value"), found["value"].rstrip(".!?:")
        yield start, start + len(value)


def at_name(text: str, at: int, end: int) -> Iterator[Span]:
    """Where `pass` is a part of a command's name, of a file's or of a variable of Terraform, what stands behind it."""
    for before, pattern in BY_NAME.items():
        if text.endswith(before, 0, at) and (found := pattern.match(text, end)):
            yield found.span("value")
    if text.endswith("pg", 0, at):
        yield from (found.span("value") for found in PGPASS.finditer(text, max(0, at - 400), end + 800))
    if found := TERRAFORM.match(text, end):
        yield found.span("value")


def in_calls(text: str, lowered: str) -> Iterator[Span]:
    """The passwords among the arguments of calls that log in, and the keys of wireless networks."""
    yield from (found.span("value") for found in AUTH.finditer(lowered))
    yield from (found.span("value") for found in LOGIN.finditer(text))
    yield from (found.span("value") for found in PSK.finditer(text))


def seed_phrases(lowered: str) -> Iterator[Span]:
    """Phrases of 12 to 24 words that open a wallet, behind a word that announces them."""
    for found in ANNOUNCED.finditer(lowered):
        row = re.findall(r"[a-z]+", found["value"])
        if len(row) in LENGTHS and len(set(row)) > 6 and not NO_PHRASE.intersection(row):
            start = found.start("value")
            yield start, start + len(found["value"].rstrip(" ,\n"))
