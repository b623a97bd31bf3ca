"""Secrets and personal data: each kind is found, also escaped; what only looks like one stays."""

import json
import random
import runpy
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vicuna_lit.prepare.personal_data import redact, redact_arguments
from vicuna_lit.records.conversation import ToolCall

DICE = random.Random(1)
KINDS = ["key", "email", "card", "phone"]


def hexes(n: int) -> str:
    return "".join(DICE.choices("0123456789abcdef", k=n))


def word(n: int) -> str:
    return "".join(DICE.choices("abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789", k=n))


SECRETS = {
    "RapidAPI": ("'X-RapidAPI-Key': '{}'", f"{hexes(10)}msh{hexes(15)}p1{hexes(6)}jsn{hexes(12)}"),
    "Django": ("SECRET_KEY = '{}'", "asdk2-gmdf18+ep^k4d4)=uf%+1h$5(p5!l3-g24xb10^%5ycj9!d"),
    "Discord bot": ("client.run('{}')", f"M{word(23)}.{word(6)}.{word(38)}"),
    "Slack webhook": ("hook = '{}'", "https://hooks.slack" + f".com/services/T{word(8)}/B{word(9)}/{word(24)}"),
    "Discord webhook": ("{}", "https://discord.com/api" + f"/webhooks/123456789012/{word(60)}"),
    "Google key": ("js?key={}:3", "AI" + "za" + word(35)),
    "Google token": ("{}", "ya" + "29." + word(60)),
    "Shopify": ("{}", "sh" + "pat_" + hexes(32)),
    "JWT of two lines": ("{}", "ey" + f"J{word(20)}.ey" + f"J{word(40)}\n{word(40)}.{word(43)}"),
    "mail API": ("mail_api_key: {}", hexes(40)),
    "api key": ('"apiKey": "{}"', word(32)),
    "secret": ("client_secret={}", word(40)),
    "token": ("curl --token {}", word(32)),
    "bearer": ("Authorization: Bearer {}", word(40)),
    "stream password": ("rtsp://admin:{}@10.0.0.2/live", "Sec9ret4"),
    "database password": ("password='{}'", "ZAQ!xsw2271"),
    "password with brackets": ('my_passwd[8] = @"{}"', "q{{h}r)W${z]nob(ody[fi9ds>-_$#t"),
    "compared password": ("if ('{}' !== user_password) {{", "q{{h}r)W${z]nob(ody[fi9ds>-_$#t"),
    "compared secret": ('if (client_secret == "{}")', word(30)),
    "bare password with brackets": ("DB_PASS={},\nDB=x", "q{{h}r)W${z]nob(ody[fi9ds>-_$#t"),
    "key with brackets": ("private_key := '{}'", "q{{h}r)W${z]nob(ody[fi9ds>-_$#t"),
    "password of signs": ("my_secret = '{}'", "A,.:-¨@*¿?!"),
    "key in a path": ("http://api.{}", f"softlayer.com/soap/v3.1/{hexes(64)}"),
    "Artifactory": ("X-JFrog-Art-Api: {}", "AK" + f"Cp{word(69)}"),
    "pass": ("DB_PASS: '{}'", "hT7kq9Lm2"),
    "pw": ('cloud_pw = "{}"', word(24)),
    "npm": ("{}", "np" + "m_" + word(36)),
    "Telegram": ("{}", f"5512345678:AA{word(33)}"),
    "GitLab trigger": ("{}", "glp" + "tt-" + word(40)),
    "GitLab runner": ("{}", "GR13" + "48941" + word(20)),
    "AWS bearer": ("{}", "AB" + "IA" + word(16).upper()),
    "Twilio": ("{}", "S" + "K" + hexes(32)),
    "JWT without signature": ("{}", "ey" + f"J{word(20)}.ey" + f"J{word(40)}"),
    "long example": ("secret_access_key = {}", "1234567890abcdef" * 3),
    "long hex of few letters": ("api_key: '{}'", "abcd1234" * 8),
    "docker login": ("docker login -u ada -p {} registry.mail.io", "Tr0ub4dor3"),
    "curl": ("curl -u 'ada:{}' -X POST https://ci.mail.io", "hunter2go!"),
    "mysql": ("mysqldump -h db1 -uroot -p{} shop > x.sql", "Zx9!kk21"),
    "sshpass": ("sshpass -p '{}' ssh ada@10.0.0.1", "P@ss!w0"),
    "option": ("vault login --password {} ada", "correcthorse1"),
    "variable": ("PGPASSWORD={} psql shop", "el3phant"),
    "openssl": ("openssl rsa -passin pass:{} -in a", "Sn0wfl4ke"),
    "a word and a digit": ("user: ada\npassword: {}", "hunter2"),
    "in a sentence": ("My password is {}, and it fails.", "Monkey123"),
    "JDBC": ("jdbc:sqlserver://db;user=sa;password={};", "Sa!Strong1"),
    "ADO": ('"Server=db;Uid=ada;Pwd={};Encrypt=yes"', "Qw3rty!!"),
    "XML": ("<password>{}</password>", "xmlP4ss99"),
    "an attribute": ('<add key="SmtpPassword" value="{}"/>', "Attr1bute!"),
    "a container's environment": ('- name: DB_PASSWORD\n  value: "{}"', "kub3Value9"),
    "netrc": ("machine api.mail.io login ada password {}", "n3trcPass"),
    "Chinese": ("用户名：ada\n密码：{}。", "Abc12345x"),
    "signature of a link": ("https://a.blob.host/f?sv=1&sig={}", "ZPCWhXNnR77JETJOVS1milqgABkj79aJbw3j2d6WcEY%3D"),
    "npm, old": ("_auth={}", "YWRhOmFydGlmYWN0b3J5OQ=="),
    "hash of a password": ("root:{}:18000:0", f"$6${word(8)}${word(86)}"),
    "Airtable": ("{}", f"pat{word(14)}.{hexes(64)}"),
    "Docker Hub": ("{}", f"dckr_pat_{word(27)}"),
    "masked": ("key {}", "AK" + "Cxxxxxxxxxx"),
    "masked hook": ("{}", "https://hooks.slack" + ".com/services/Txxxxxxxx/Bxxxxxxxx/xxxxxxxxxxxxxxxxxxxxxxxx"),
    "private key": ("{}", "-----BEGIN OPENSSH PRIVATE" + " KEY-----\nb3Bl\n-----END OPENSSH PRIVATE" + " KEY-----"),
}


@pytest.mark.parametrize("kind", SECRETS)
@pytest.mark.parametrize("escaped", [False, True])
def test_a_secret_of_each_kind_is_found(kind: str, escaped: bool):
    form, value = SECRETS[kind]
    text = f"Look: {form.format(value)}\nWhat is wrong?"
    expected = f"Look: {form.format('[KEY]')}\nWhat is wrong?"
    if escaped:
        text, expected = text.replace("_", "\\_"), expected.replace("_", "\\_")
    tally: Counter[str] = Counter()
    assert redact(text, ["key"], tally) == expected
    assert tally["key"] == 1
    assert redact(expected, KINDS, Counter()) == expected


def test_a_secret_at_the_start_is_found_whatever_the_text_ends_with():
    for name, end in (("token", "publickey"), ("token", "my PublicKey")):
        assert redact(f'{name}="{word(32)}" is not the {end}', ["key"], Counter()) == f'{name}="[KEY]" is not the {end}'
    assert redact("pass: 'hT7kq9Lm2' in snake_", ["key"], Counter()) == "pass: 'hT7kq9Lm2' in snake_"


@pytest.mark.parametrize(
    "text",
    [
        "api_key = 'YOUR_API_KEY'",
        "token = os.environ['SERVICE_TOKEN_2023_PRODUCTION']",
        "secret/bestbeforedate-application-secrets-h5f429fb56",
        'publicKeyToken="31bf3856ad364e35"',
        "postgres://user:password@localhost/db",
        "The secret of understanding internationalization is patience.",
        "primary_key=customer_identification_number",
        'password = "${SECRETS[$i]}"; secret: "{{ vault.password }}"; pass_rule = r"^(?=.*[A-Z])[A-Z\\d@$!%*?&]{8,}$"',
        'password: "<%=user.secret[0](x)$y%>"; render_pass = "{}[](){}<>"; if ("password" == user.password) {',
        "a=Q(t[0],`color-token`).color,o=t[1];return{type:`color`}; e.type='password',this.a={class:'bk-toggle'}",
        "password=function(a){return[b,c[0]]?d:e&&f!=g*h}; apiKey:{get(){return(this.x||[])[0]}},_:!1;",
        "HostKeyAlgorithms sk-" + "ssh-ed25519-cert-v01",
        "SLACK_TOKEN = 'xox" + "p-your-token-here'",
        "git clone git@github.com:me/app.git; rsync me@backup.host:/srv .",
        "uses: actions/cache@v3.When it fails; Icon_color@2x.png",
        "scp -r build joe@web.com:site; rsync joe@web.com:a/b .; joe@web.com:app.git",
        "The telephone was invented in 1876 and 1877.",
        "postgresql://me:...@db.host.com/app and mongodb://<user>:<pass>@cluster0.host.net/test",
        "pwd = hash256; f(password=input1, x); password = input_pass1; password=db.pass01; password: string2,",
        "docker login -u $USER -p $PASS1234; docker run -p 8080:80; mysql -u root -p shop2020; curl -u a:$TOKEN1 x",
        '<input type="password" id="pass1" value="" /> <Password>Input01',
        "Your password is case-sensitive. Password: at least 8 characters. 密码：至少8个字符abc1",
        "curl -T a -u admin:admin https://site.com; --password-file secrets1.txt; passport: AB1234567; AKC-xxxxxx",
        "https://x.io/?key=value&sort=asc&appid=myapp costs $1$ or $5$, or $6$",
        "token = os.environ['TOKEN_FOR_SERVICE_A1B2C3']; scp a root@host.domain.com:/tmp",
    ],
)
def test_what_only_looks_like_personal_data_stays(text: str):
    assert redact(text, KINDS, Counter()) == text


@pytest.mark.parametrize("behind", [":Hi", ": hi", ":hunter2", ":비밀", "。", ":", ":1234"])
def test_an_address_with_something_behind_a_colon_is_found(behind: str):
    assert redact(f"From joe@web.com{behind}", KINDS, Counter()) == f"From [EMAIL]{behind}"


@pytest.mark.parametrize("between", ["?email=", ",", "#", "，", "&to=", "/?", ")"])
def test_an_address_beside_a_link_is_none_of_its_user(between: str):
    text = f"https://site.com{between}joe@web.com"
    assert redact(text, KINDS, Counter()) == text.replace("joe@web.com", "[EMAIL]")


@pytest.mark.parametrize(
    "text", ["전화: 010-1234-5678", "Tel. 030 1234567", "Phone: 020 7946 0018", "電話 03-5550-0100"]
)
def test_a_national_number_is_found_behind_the_word_that_announces_it(text: str):
    assert redact(text, ["phone"], Counter()).endswith("[PHONE]")


def test_the_numbers_that_libphonenumber_gives_as_examples():
    phonenumbers = pytest.importorskip("phonenumbers")
    total = found = 0
    for region in sorted(phonenumbers.SUPPORTED_REGIONS):
        if (number := phonenumbers.example_number(region)) is None:
            continue
        for form in (phonenumbers.PhoneNumberFormat.INTERNATIONAL, phonenumbers.PhoneNumberFormat.E164):
            total += 1
            found += (
                redact(f"Call {phonenumbers.format_number(number, form)}.", ["phone"], Counter()) == "Call [PHONE]."
            )
    assert total > 450
    assert found / total >= 0.99


def test_the_cases_of_secrets_phones_and_addresses(shared, tmp_path):
    folder = shared.parent / "cases" / "prepare"
    argv, sys.argv = sys.argv, ["secrets.py", str(tmp_path)]
    try:
        runpy.run_path(str(folder / "secrets.py"))
    finally:
        sys.argv = argv
    for file, marks in {tmp_path / "03_key_markdown_escaped.jsonl": 3, tmp_path / "04_key_by_name.jsonl": 4}.items():
        text = json.loads(file.read_text())["conversations"][0]["value"]
        assert redact(text, KINDS, Counter()).count("[KEY]") == marks
    for turn in json.loads((folder / "01_phone_single_digit_area.jsonl").read_text())["conversations"]:
        assert redact(turn["value"], KINDS, Counter()).count("[PHONE]") == 3
    for turn in json.loads((folder / "06_not_an_email.jsonl").read_text())["conversations"]:
        assert redact(turn["value"], KINDS, Counter()) == turn["value"]


PIECES = st.sampled_from(
    [
        "api_key",
        "=",
        "'",
        "\\_",
        "_",
        " ",
        "\n",
        "token: ",
        "://u:",
        "@",
        "a.b",
        "+49 30",
        " 1234 5678",
        "tel ",
        "4111 1111 1111 1111",
        "İ",
        *[v for _, v in SECRETS.values()],
    ]
)


@given(st.lists(PIECES, max_size=10).map("".join))
@settings(max_examples=300, deadline=None)
def test_scrubbing_twice_is_scrubbing_once(text: str):
    once = redact(text, KINDS, Counter())
    assert redact(once, KINDS, Counter()) == once


@pytest.mark.parametrize(
    "unit", ["sk-", "eyJa.", "token ", "key=", "://a:", "a@b.", "M", "-----BEGIN PRIVATE KEY-----", "\\_", "tel "]
)
def test_a_long_hostile_text_is_scrubbed_in_linear_time(unit: str):
    import time

    clock = time.process_time()
    redact(unit * (200_000 // len(unit)), KINDS, Counter())
    assert time.process_time() - clock < 5


@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        ("iban", "Pay DE89 3704 0044 0532 0130 00 AND GB82WEST12345698765432.", "Pay [IBAN] AND [IBAN]."),
        ("iban", "DE89 3704 0044 0532 0130 01, DE8937040044053201300, ZZ89 3704 0044 0532 0130 00", None),
        ("ssn", "SSN 123-45-6789", "SSN [SSN]"),
        ("ssn", "000-12-3456, 666-12-3456, 987-65-4320, 123-00-4567, 123-45-0000, 123-45-67890", None),
        ("ip", "8.8.4.4, http://93.184.216.34:80/ and 2001:4860:4860::8888.", "[IP], http://[IP]:80/ and [IP]."),
        ("ip", "10.0.0.1, 192.168.1.1, 203.0.113.7, version 1.2.3.4, v5.6.7.8, 1.2.3.4.5, 300.1.1.1, 12:34:56", None),
    ],
)
def test_what_is_known_by_its_checksum_or_range_is_found_on_request_alone(kind: str, before: str, after: str | None):
    tally: Counter[str] = Counter()
    once = redact(before, [kind], tally)
    assert once == (after or before)
    assert redact(once, [kind], Counter()) == once
    assert tally[kind] == once.count("[")
    assert redact(before, KINDS, Counter()) == before


def test_arguments_of_a_call_stay_json():
    """A letter behind a backslash is a line break; a number gives way to a text; a password is told by its name."""
    cases = {
        '{"t": "Hi\\njoe@web.com\\tbye"}': {"t": "Hi\n[EMAIL]\tbye"},
        '{"card": 4111111111111111, "n": [1, 4111111111111111]}': {"card": "[CARD]", "n": [1, "[CARD]"]},
        '{"password": "hunter2hunter2", "q": "to: joe@web.com, you"}': {"password": "[KEY]", "q": "to: [EMAIL], you"},
        '{"joe@web.com": null, "ok": true}': {"[EMAIL]": None, "ok": True},
    }
    for arguments, expected in cases.items():
        assert json.loads(redact_arguments(ToolCall("f", arguments), KINDS, Counter())) == expected
    plain = '{"since":1700000000 , "t": "no"}'
    assert redact_arguments(ToolCall("f", plain), KINDS, Counter()) == plain
    assert redact_arguments(ToolCall("f", "mail joe@web.com"), KINDS, Counter()) == "mail [EMAIL]"
    assert redact("print('a\\njoe@web.com')", KINDS, Counter()) == "print('a\\n[EMAIL]')"
