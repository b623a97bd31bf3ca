"""A chat template that loops for ever or writes gigabytes is refused in one line; all others write what they wrote."""

import pytest
from jinja2.exceptions import SecurityError
from transformers.utils import chat_template_utils

from tests.helpers.encoders import QUICKSTART
from vicuna_lit.data import bounded_jinja
from vicuna_lit.data.chat_template import TemplateError
from vicuna_lit.data.jinja_template import TokenizerTemplate
from vicuna_lit.data.tokenizer import load_tokenizer

LONG = "{% set a = 'x' * 9999 %}"
GROW = "{% set ns = namespace(s=['x']) %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}"
HOSTILE = {
    "loops": "{% for i in range(999) %}{% for j in range(999) %}{% endfor %}{% endfor %}",
    "macros": "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(99) }}",
    "text in a loop": "{% for i in range(9999) %}" + "x" * 9999 + "{% endfor %}",
    "values in a loop": LONG + "{% for i in range(9999) %}{{ a }}{% endfor %}",
    "repetition": "{{ 'x' * 10 ** 10 }}",
    "power": "{{ 9 ** 9 ** 9 }}",
    "growing list": GROW,
    "growing text": GROW.replace("['x']", "'x'"),
    "growing text, joined": GROW.replace("['x']", "'x'").replace("+", "~"),
    "shared lists": GROW.replace("ns.s + ns.s", "[ns.s, ns.s]") + "{{ ns.s }}",
    "shared lists as JSON": GROW.replace("ns.s + ns.s", "[ns.s, ns.s]") + "{{ ns.s | tojson }}",
    "width": "{{ '%0999999999d' % 1 }}{{ '%0999999999d' | format(1) }}",
    "width of str.format": "{{ '{:999999999}'.format(1) }}",
    "width as an argument": "{{ 'x' | center(999999999) }}",
    "width of a method": "{{ 'x'.ljust(999999999) }}",
    "replacement": LONG + "{{ a.replace('x', a) }}",
    "separator": LONG + "{{ range(9999) | join(a) }}",
    "indent": "{{ [1] | tojson(indent=999999999) }}",
    "nonsense": "{{ lipsum(99999) }}",
    "source": "x" * 2**20 + "x",
}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for name, size in dict(MOST_STEPS=9999, MOST_ITEMS=9999, MOST_CHARACTERS=2**22).items():
        monkeypatch.setattr(bounded_jinja, name, size)
    bounded_jinja.bound_templates()


@pytest.mark.parametrize("name", HOSTILE)
def test_what_would_take_hours_or_gigabytes_is_refused(name):
    with pytest.raises((SecurityError, Exception)) as refused:
        chat_template_utils._compile_jinja_template(HOSTILE[name]).render(messages=[])
    assert type(refused.value).__name__ in ("SecurityError", "UndefinedError")


def test_what_is_ordinary_is_written_and_counted_anew_each_time():
    text = (
        "{% macro turn(m) %}<{{ m.role ~ '>' ~ loop_index }}{{ m.content | trim | replace('a', 'b') }}\n{% endmacro %}"
        "{% set ns = namespace(n=0) %}{% for m in messages if m.content %}{% set ns.n = ns.n + 1 %}"
        "{% set loop_index = ns.n %}{{ turn(m) }}{{ '%s-%d' % ('x', loop.index) }}{{ [m, 1.5] | tojson }}"
        "{{ '=' * 3 }}{{ 7 % 4 }}{{ 2 ** 3 }}"
        "{% macro n(v) %}{{ v | tojson }}{{ v | string }}{% endmacro %}{{ n(1700000000) }}{{ 12345678.5 | tojson }}"
        "{% if loop.last %}{% break %}{% endif %}{% else %}none{% endfor %}{{ ', '.join(['a', 'b']) }}"
    )
    messages = [{"role": "user", "content": " banana "}] * 20
    plain = chat_template_utils._cached_compile_jinja_template(text).render(messages=messages)
    compiled = chat_template_utils._compile_jinja_template(text)
    assert plain.count("bbnbnb") == 20
    assert [compiled.render(messages=messages) for _ in range(300)] == [plain] * 300
    assert compiled.render(messages=[]) == "nonea, b"


@pytest.mark.promise("A chat template that loops for ever or writes gigabytes is refused in one line")
def test_a_tokenizer_with_such_a_template_is_refused():
    tokenizer = load_tokenizer(str(QUICKSTART / "tokenizer"))
    tokenizer.chat_template = HOSTILE["loops"] + "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    with pytest.raises(TemplateError, match="chat template refuses it: its loops take more than 9,999 steps"):
        TokenizerTemplate(tokenizer)
