"""Passwords that are words, and those whose place alone tells them; numbers and addresses as people write them."""

from collections import Counter

from vicuna_lit.prepare.personal_data import redact

KINDS = ["key", "email", "card", "phone"]


def redacted(text: str) -> str:
    return redact(text, KINDS, Counter())


def test_a_word_is_a_password_beside_its_user_or_host():
    for form, value in (
        ('[database]\nhost = db1\nuser = app\npassword = "{}"\n', "sunshine"),
        ("DB_USERNAME=root\nDB_PASSWORD={}\n", "butterfly"),
        ("spring.datasource.password={}\n", "monkeybusiness"),
        ("smtp:\n  user: ada\n  password: {}\n", "dragonfly"),
        ("connect(host='10.0.0.4', user='ada', password='{}')", "trustno"),
        ("<user>ada</user>\n<password>{}</password>", "gingerbread"),
        ("jdbc:postgresql://db.mail.io/shop?user=ada&password={}", "pumpkin"),
        ("docker run -e POSTGRES_PASSWORD={} postgres", "zimtstern"),
        ("ansible_become_password: {}", "himbeere"),
    ):
        assert redacted(form.format(value)) == form.format("[KEY]")


def test_what_stands_for_a_password_or_labels_one_stays():
    for text in (
        'password = "sunshine"',  # of whom, nothing tells
        "username: string\npassword: string\n",
        "{ user: 'username', password: 'password' }",
        "email: 'Email address', password: 'Kennwort', submit: 'Anmelden'",
        "DATABASE_USERNAME: strapi\nDATABASE_PASSWORD: strapi\n",
        "user: { type: String, required: true },\npassword: { type: String, required: true }",
        'DB_USER=root\nDB_PASSWORD=changeme\nfail_status: "FAILED"\npass_status: "PASSED"',
        "user: ada\npassword: encryptedValue\n",
        "requests.get(url, auth=('user', 'pass')); auth=(API_USER, API_PASSWORD)",
        "htpasswd -b .htpasswd username password; wpa_passphrase SSID passphrase > wpa.conf",
        "server.login(sender_email, password); res.cookie('sessionid', token, {httpOnly: true})",
        "Cookie: session=abc123; theme=dark",
        "The seed phrase is twelve words that restore a wallet; write them on paper, and keep them safe.",
        '$db = new mysqli("localhost", "username", "password", "shop"); $p = new PDO($dsn, "root", "secret");',
        "CREATE USER 'ada'@'localhost' IDENTIFIED BY 'new_password';",
        "net use Z: \\\\nas\\share /user:domain\\ada * /persistent:yes",
        "login: open the page\npass: all tests are green",
        "login: x1 pass: grade4 of the exam. Le mot de passe est obligatoire2.",
        "Das Passwort ist obligatorisch. Le mot de passe est obligatoire. 密码是必须的。",
        "password must have more than four",
        "-----BEGIN PRIVATE" + " KEY-----\nINSERT CLIENT KEY HERE\n-----END PRIVATE" + " KEY-----",
    ):
        assert redacted(text) == text


def test_the_places_where_calls_commands_and_files_hold_a_secret():
    token = "q7Vb2Kd9Xn4Tz8Lw3Rm6Hc1P"
    for form, value in (
        ("requests.get(url, auth=('ada', '{}'))", "Sunny-day7"),
        ('requests.post(u, auth=HTTPBasicAuth("ada", "{}"))', "sunflower"),
        ("htpasswd -bc /etc/nginx/.htpasswd ada {}", "Quak3sAlot"),
        ("sshpass -p'{}' scp a b:/d", "snowfall"),
        ("wpa_passphrase HomeNet {}", "guteNacht22"),
        ('network={{\n ssid="HomeNet"\n psk="{}"\n}}', "unser kleines wlan"),
        ("nmcli dev wifi connect HomeNet password {}", "Hausnummer12"),
        ("echo '{}' | sudo -S apt update", "Sud0meister"),
        ("ldapsearch -x -D cn=admin,dc=acme -w {} -b dc=acme", "Birn3nbaum"),
        ("~/.pgpass:\n10.0.0.7:5432:*:postgres:{}", "correcthorse9"),
        ('variable "db_password" {{\n  default = "{}"\n}}', "Fr0stig-Morgen"),
        ("Server=tcp:db,1433;User Id=ada;Password={};Encrypt=True;", "Herbst.Laub.24"),
        ("curl 'https://app.mail.io/api' -H 'Cookie: session={}; theme=dark'", token),
        ("Set-Cookie: connect.sid=s%3A{}; Path=/", token),
        ("sb = create('{}')", "sb_" + f"secret_{token}_{token[:8]}"),
        ('$db = new mysqli("localhost", "u8211_wp", "{}", "u8211_wp");', "zXc98!kLm"),
        ("$db = new PDO('mysql:host=db', 'ada', '{}');", "Quitt3nbrot"),
        ('var c = new NetworkCredential("svc", "{}", "CORP");', "Mail$erv1ce"),
        ('$pw = ConvertTo-SecureString "{}" -AsPlainText -Force', "Adm1nLab#7"),
        ("CREATE USER 'shop'@'%' IDENTIFIED BY '{}';", "Sh0pPass2024"),
        ("net use Z: \\\\nas01\\share /user:OFFICE\\ada {} /persistent:yes", "Winter2024!"),
        ('nmcli dev wifi connect "Box 7590" password "{}"', "48213377001926384415"),
        ("login: ada\npass: {}\nDoes it work?", "Warszawa44"),
        ("Gmail says my app password is wrong. password = '{}'", "xkqd wfzp mbtr hnvs"),
        ("Mein Passwort lautet {}, warum ist es schwach?", "Sommerzeit22"),
        ("mon mot de passe est {} et le site le refuse", "Chaton1234"),
        ("la contraseña es {} y no entra", "Barcelona10"),
        ("密码是{},账号是wang", "Wang1990xx"),
        ("APP_KEY=base64:{}", f"{token}{token[:19]}="),
        ("Private-MAC: x\nKey: {}", "tvly" + f"-dev-{token}{token[:8]}"),
        ("My recovery phrase is: {}", "witch collapse practice feed shame open despair creek road again ice least"),
    ):
        assert redacted(form.format(value)) == form.format("[KEY]")
    assert "[KEY]" in redacted('{"auths": {"https://docker.io/v1/": {"auth": "YWRhOnN1cGVyc2VjcmV0cGFzcw=="}}}')


def test_national_numbers_behind_words_of_many_languages():
    for text in (
        "Meine Handynummer ist 0151 23456789", "Tel. 01 / 876 54 32", "Portable : 07.55.12.34.56", "Móvil: 655 123 456",
        "Mon numéro de téléphone est le 06 39 98 12 34", "Meu telefone é (11) 98765-4321", "Telemóvel: 912 345 678",
        "Il mio cellulare è 347 123 4567", "Mijn telefoonnummer is 06-12345678", "Mój numer telefonu: 512 345 678",
        "Мой телефон: 8 (912) 345-67-89", "Cep telefonum 0532 123 45 67", "携帯: 090-1234-5678",
        "我的手机号是13812345678",
        "연락처: 02-312-3456", "मेरा मोबाइल नंबर 9876543210", "Số điện thoại: 0912 345 678", "No. HP: 0812-3456-7890",
        "رقم الجوال: 0501234567", "teléfono: 912 345 678", "Telepon: 021 1234567", "Telnr: 030 123456",
        "celular: 11 91234 567", "Call me at 610 906 5208", "My number is 98765 43210", "text me at 0917 123 4567",
        "Ring mig på 070-123 45 67", "Bel me op 06-12345678",
        "Mój numer telefonu to 501 234 567", "Hubungi saya di 0812-3456-7890", "Τηλέφωνο: 210 1234567",
        "הטלפון שלי 054-1234567", "رقم الموبايل 01012345678", "মোবাইল: 01712-345678",
        # By their form alone:
        "at work 020 7946 0958", "or 07700 900123", "office (02) 9374 4000", "제 번호는 010-1234-5678",
        "Tokyo, 080-3091-9521",        "Team leader Kim (02-3284-0396", "me (11) 98765-4321",
    ):  # fmt: skip
        assert redacted(text).endswith("[PHONE]"), text
    for text in (
        "cell 10 20 30 40", "my cell 1000000 is empty", "The handy 2020 2021 2022 guide", "portable 100 200 300",
        "celular 4 8 15 16 23 42", "int phone = 5551234", "mobs 12 24 36 48", "tel: string", "Telefon 2023-01-02 1",
        "phone: 1234567890", "the form (123) 456-7890", "+1234567890", "ref. 0300-1234567", "01-02-2023, 02-03-2024",
        "contact needs 10 20 30 40 50", "my number of 2020 2021 2022", "rings 10 20 30 40", "SKU 07700900123",
        "Celsius: 20 25 30 35 40", "cells: 100 200 300 400", "telemetry: 100 200 300", "mobility: 10 20 30 40",
    ):  # fmt: skip
        assert redacted(text) == text


def test_addresses_with_a_spelled_sign_and_letters_of_other_scripts():
    for text in ("ada.l [at] uni-bonn [dot] de", "ada(at)mail(dot)io", "kontakt[at]firma.de", "ada@müller.de"):
        assert redacted(f"Write to {text}, please") == "Write to [EMAIL], please"
    for text in ("list(at)(0).x", "look (at) index.html", "array[at](0)"):
        assert redacted(text) == text
