"""Limits to what a model's chat template may take: it comes with the model, and may loop for ever or write gigabytes.

Transformers' own environment gets them, so that whatever it renders is rendered as before, or refused in one line.
"""

import operator
import re
import threading
from collections.abc import Callable, Mapping
from functools import cache, wraps
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateSyntaxError
from jinja2.runtime import Macro
from jinja2.visitor import NodeTransformer
from transformers.utils import chat_template_utils

MOST_CHARACTERS = 2**26
"""Of a text, and of all that one rendering writes."""
MOST_SOURCE = 2**20
"""Characters of a template; the longest that are published have 20,000."""
MOST_STEPS = 300_000
"""Times that loops and macros begin anew in one rendering."""
MOST_NUMBER = 100_000
"""What a repetition, a width or an argument of a filter may be; what one is given to write may be more."""
MOST_ITEMS = 1_000_000
"""Of a list or dict that is written, with all that is in it."""
_WIDTH = re.compile(r"\d{6,}")
_TICK, _BEGIN, _JOIN = "_vicuna_lit_tick", "_vicuna_lit_begin", "_vicuna_lit_join"
_WRITERS = ("tojson", "string", "pprint", "escape", "e", "forceescape", "urlencode", "xmlattr", "join")
"""Filters that make a text of all that is in a value."""
_used = threading.local()


def bound_templates() -> None:
    """Every chat template that transformers renders in this process from now on has the limits."""
    library: Any = chat_template_utils
    if not hasattr(library._compile_jinja_template, "is_bounded"):
        library._compile_jinja_template = _compiler(library._compile_jinja_template)


def reads(source: str, variable: str) -> bool:
    """Whether a chat template reads a variable of that name; False where it cannot be parsed."""
    if variable not in source:
        return False
    library: Any = chat_template_utils
    try:
        parsed = library._compile_jinja_template("").environment.parse(source)
    except TemplateSyntaxError:
        return False
    return any(node.name == variable for node in parsed.find_all(nodes.Name))


def _compiler(plain: Callable[[str], Any]) -> Callable[[str], Any]:
    @cache
    def compiled(source: str) -> Any:
        if len(source) > MOST_SOURCE:
            raise SecurityError(f"it has {len(source):,} characters, at most {MOST_SOURCE:,} are read")
        return _bounded(plain("").environment).from_string(source)

    vars(compiled)["is_bounded"] = True
    return compiled


def _bounded(environment: Any) -> Any:
    if environment.finalize is _written:
        return environment
    generate, call = environment._generate, environment.call

    def with_limits(source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        for node in source.find_all((nodes.For, nodes.Macro, nodes.CallBlock)):
            text = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
            node.body.insert(0, _statement(_TICK, text, node.lineno))
        source = _Joined().visit(source)
        source.body.insert(0, _statement(_BEGIN, 0, 1))
        return generate(source, *args, **kwargs)

    def called(context: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
        name = getattr(function, "__name__", "")
        if name in (_TICK, _BEGIN, _JOIN):
            return function(*args)
        owner = getattr(function, "__self__", None)
        given = (*args, *kwargs.values())
        if isinstance(function, Macro):  # what it does with a number is checked where it does it
            given = tuple(value for value in given if not isinstance(value, int | float))
        _check(name, (owner, *given) if isinstance(owner, str) else given)
        return _small(call(context, function, *args, **kwargs))

    environment._generate, environment.call, environment.finalize = with_limits, called, _written
    environment.intercepted_binops = frozenset(_OPERATORS)
    environment.binop_table = {**environment.binop_table, **_OPERATORS}
    environment.filters = {name: _filter(name, function) for name, function in environment.filters.items()}
    environment.globals |= {_TICK: _tick, _BEGIN: _begin, _JOIN: _joined}
    environment.globals.pop("lipsum", None)
    return environment


class _Joined(NodeTransformer):
    """`a ~ b` as a call, which has the limits."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        """In the place of one."""
        self.generic_visit(node)
        return nodes.Call(nodes.Name(_JOIN, "load"), node.nodes, [], None, None).set_lineno(node.lineno, override=True)


def _statement(function: str, number: int, line: int) -> nodes.Node:
    name, empty = nodes.Name(function, "load"), nodes.Const("")
    call = nodes.Call(name, [nodes.Const(number)], [], None, None)
    return nodes.Output([nodes.CondExpr(call, empty, empty)]).set_lineno(line, override=True)


def _begin(_: int) -> None:
    _used.steps = _used.characters = 0


def _tick(text: int) -> None:
    _used.steps += 1
    _write(text)
    if _used.steps > MOST_STEPS:
        raise SecurityError(f"its loops take more than {MOST_STEPS:,} steps")


def _joined(*values: Any) -> str:
    _length(values, [0])
    return str(_small("".join(map(str, values))))


_begin.__name__, _tick.__name__, _joined.__name__ = _BEGIN, _TICK, _JOIN


def _written(value: Any) -> Any:
    """Counts what is written; jinja calls it for each value, also while it compiles."""
    _write(_length(value, [0]))
    return value


def _length(value: Any, seen: list[int]) -> int:
    """About as many characters as a value has as a text; what is in it several times counts as often.

    Args:
        seen: the number of items until now, which this goes on counting.
    """
    seen[0] += 1
    if seen[0] > MOST_ITEMS:
        raise SecurityError(f"a value in it has more than {MOST_ITEMS:,} items")
    match value:
        case str():
            length = len(value)
        case dict():
            length = sum(_length(item, seen) for pair in value.items() for item in pair)
        case list() | tuple() | set():
            length = sum(_length(item, seen) for item in value)
        case _:
            return 1
    if length > MOST_CHARACTERS:
        raise SecurityError(f"it writes more than {MOST_CHARACTERS:,} characters")
    return length


def _write(count: int) -> None:
    _used.characters = getattr(_used, "characters", 0) + count
    if _used.characters > MOST_CHARACTERS:
        raise SecurityError(f"it writes more than {MOST_CHARACTERS:,} characters")


def _small(value: Any) -> Any:
    if isinstance(value, str | list | tuple) and len(value) > MOST_CHARACTERS:
        raise SecurityError(f"a value in it has more than {MOST_CHARACTERS:,} characters")
    return value


def _check(name: str, values: tuple[Any, ...]) -> None:
    """Before a function is called that could make much of little."""
    for value in values:
        if isinstance(value, int | float) and abs(value) > MOST_NUMBER:
            raise SecurityError(f"a number in it is larger than {MOST_NUMBER:,}")
    texts = [value for value in values if isinstance(value, str)]
    length = 0
    if name in ("replace", "do_replace") and len(texts) > 2:
        length = texts[0].count(texts[1]) * len(texts[2])
    if name == "join" and len(values) > 1 and all(hasattr(value, "__len__") for value in values[:2]):
        length = len(values[0]) * len(values[1])
    if length > MOST_CHARACTERS:
        raise SecurityError(f"a value in it has more than {MOST_CHARACTERS:,} characters")
    if name in _WRITERS:
        _length(values, [0])
    if name in ("format", "do_format", "%") and any(isinstance(v, str) and _WIDTH.search(v) for v in values[:1]):
        raise SecurityError(f"a width in it is larger than {MOST_NUMBER:,}")


def _filter(name: str, function: Any) -> Any:
    of_jinja = int(hasattr(function, "jinja_pass_arg"))  # its first argument is no value

    @wraps(function)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        value, *given = args[of_jinja:]  # a number that is written, such as a time in a call, repeats nothing
        _check(name, (*(() if isinstance(value, int | float) else (value,)), *given, *kwargs.values()))
        return _small(function(*args, **kwargs))

    return bounded


def _operator(name: str, function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def bounded(left: Any, right: Any) -> Any:
        sizes = [len(value) for value in (left, right) if isinstance(value, str | list | tuple)]
        if name == "+" and len(sizes) == 2 and sum(sizes) > MOST_CHARACTERS:
            raise SecurityError(f"a value in it has more than {MOST_CHARACTERS:,} characters")
        if name != "+" and not (name == "%" and not sizes):
            inner = right if isinstance(right, tuple) else ()
            numbers = tuple(value for value in (left, right, *inner) if isinstance(value, int | float))
            _check(name, (left, *numbers) if isinstance(left, str) else numbers)
        return _small(function(left, right))

    return bounded


_OPERATORS: Mapping[str, Callable[[Any, Any], Any]] = {
    name: _operator(name, function)
    for name, function in {"+": operator.add, "*": operator.mul, "**": operator.pow, "%": operator.mod}.items()
}
