"""What a script's own classes compute with, as texts that are the same at each start: for a run's identity."""

import ast
import dis
import hashlib
import inspect
import re
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch

PACKAGE = Path(__file__).parents[1]
LONGEST_VALUE = 60
"""Characters of a value in `config.json`; of a longer one the beginning and a mark."""
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def described(callback: L.Callback) -> str:
    """A callback as it is given: its name, its values and a mark of its source, as `mine.Ema(decay=0.9) 3f8ebeb0`.

    Values are those that are no state of it, and say more of themselves than their class. Lightning's own classes are
    known by their names.
    """
    kind, state = type(callback), {}
    with suppress(Exception):  # some have a state only once they are set up
        state = callback.state_dict()
    known = getattr(callback, "__dict__", {}).items()
    given = {k: v for k, v in known if not (k.startswith("_") or k in state or type(v).__repr__ is object.__repr__)}
    values = ", ".join(f"{k}={_short(v)}" for k, v in given.items())
    own = [part for part in kind.__mro__[:-1] if not part.__module__.startswith(("lightning.", "pytorch_lightning."))]
    return f"{kind.__module__}.{kind.__qualname__}({values}){_mark(*own)}"


def _mark(*parts: Any) -> str:
    """Eight digits of what is written in classes or functions; empty where it cannot be read, as at Python's prompt."""
    with suppress(OSError, TypeError, SyntaxError):
        text = written(*parts)
        return f" {_digits(text.encode(errors='replace'))}" if text else ""
    return ""


def written(*parts: Any) -> str:
    """What a script's classes or functions compute with: their source, and what they read from around it.

    That is values of a function around them and of their module, defaults, attributes that a class has, and the source
    of functions and classes of the script that they call. What an installed package holds is not looked into.

    Raises:
        OSError, TypeError, SyntaxError: a source cannot be read.
    """
    around = (f"\n{read.name}{' = ' if read.is_value else ' '}{read.text}" for read in _around_all(parts))
    return "".join(_source(part) for part in parts) + "".join(around)


def values_of(*parts: Any) -> dict[str, str]:
    """The values among them, short and by the shortest names that tell them apart: `{"strength": "0.1"}`. Of an
    attribute that several of the classes have, the first one's."""
    whole: dict[str, str] = {}
    of_parts = {part.__qualname__ for part in parts}
    for read in _around_all(parts):
        place, _, attribute = read.name.rpartition(".")
        if read.is_value:
            whole.setdefault(attribute if place in of_parts else read.name, _cut(read.text))
    last = {name: re.split(r": |\.", name)[-1] for name in whole}
    several = Counter(name for name, _ in {(last[name], text) for name, text in whole.items()})
    return {last[name] if several[last[name]] == 1 else name: text for name, text in whole.items()}


class Read(NamedTuple):
    """What a class or function reads from around it."""

    name: str
    text: str
    is_value: bool
    """Else the text is a source."""


def _around_all(parts: Iterable[Any]) -> Iterator[Read]:
    seen: set[int] = set()
    for part in parts:
        yield from _around(part, seen)


def _around(part: Any, seen: set[int]) -> Iterator[Read]:
    """Each value that a class or function reads and its source does not hold."""
    seen.add(id(part))
    members = vars(part).items() if isinstance(part, type) else [("", part)]
    for name, member in members:
        if isinstance(member, property):
            functions = [member.fget, member.fset]
        else:
            functions = [getattr(member, "__func__", member)]
        for function in filter(inspect.isfunction, functions):
            for read, value in _read_by(function):
                if id(value) not in seen:
                    yield from _read(f"{part.__qualname__}.{name}: {read}", value, seen)
        if isinstance(part, type) and _is_value(name, member):
            yield Read(f"{part.__qualname__}.{name}", _safely(member), True)


def _is_value(name: str, member: Any) -> bool:
    """Whether a class attribute is one, and not what Python gives each class."""
    return not name.startswith("__") and not callable(member) and not hasattr(member, "__get__")


def _read_by(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """Names and values that a function has from around it: of a closure, its module, its defaults."""
    yield from zip(function.__code__.co_freevars, map(_held, function.__closure__ or ()), strict=True)
    yield from ((f"default {i}", value) for i, value in enumerate(function.__defaults__ or ()))
    yield from (function.__kwdefaults__ or {}).items()
    names: dict[str, None] = {}
    codes = [function.__code__]
    for code in codes:
        names |= {str(i.argval): None for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
        codes += [const for const in code.co_consts if isinstance(const, CodeType)]
    yield from ((name, function.__globals__[name]) for name in names if name in function.__globals__)


def _held(cell: Any) -> Any:
    """What a closure's cell holds; `super()` in a class reads one that is the class itself."""
    with suppress(ValueError):  # empty until the class is made
        return cell.cell_contents
    return None


def _read(name: str, value: Any, seen: set[int]) -> Iterator[Read]:
    """Of functions, classes and modules of a script what is written in them; of a value what it says of itself."""
    value = inspect.unwrap(value) if callable(value) else value
    if isinstance(value, ModuleType | FunctionType | type) or inspect.isbuiltin(value):
        if not _is_of_the_script(value):
            return
        seen.add(id(value))
        with suppress(OSError, TypeError, SyntaxError):
            yield Read(name, inspect.getsource(value) if isinstance(value, ModuleType) else _source(value), False)
        if not isinstance(value, ModuleType):
            yield from _around(value, seen)
    elif isinstance(value, torch.nn.Module):
        tensors = {key: _in_words(tensor) for key, tensor in value.state_dict().items()}
        yield Read(name, f"{_safely(value)} {tensors}", True)
    else:
        yield Read(name, _safely(value), True)


def _is_of_the_script(value: Any) -> bool:
    """Whether it is written outside Python, its installed packages and this one."""
    module = value if isinstance(value, ModuleType) else sys.modules.get(getattr(value, "__module__", None) or "")
    if module is None or module.__name__ == "__main__":
        return module is not None
    file = getattr(module, "__file__", None)
    installed = {sysconfig.get_path(kind) for kind in ("stdlib", "purelib", "platlib")} | {str(PACKAGE)}
    return file is not None and not any(Path(file).is_relative_to(place) for place in installed)


def _safely(value: Any) -> str:
    try:
        return _in_words(value)
    except Exception:  # a value's own code may fail in any way
        return type(value).__name__


def _digits(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:8]


def _short(value: Any) -> str:
    return _cut(_safely(value))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}… {_digits(text.encode(errors='replace'))}"


def _in_words(value: Any) -> str:
    """A value as a text that is the same at each start: without addresses, and without a set's order."""
    match value:
        case dict():
            text = f"{{{', '.join(f'{_in_words(key)}: {_in_words(item)}' for key, item in value.items())}}}"
        case list() | tuple():
            text = f"[{', '.join(map(_in_words, value))}]"
        case set() | frozenset():
            text = f"{{{', '.join(sorted(map(_in_words, value)))}}}"
        case torch.Tensor():
            raw = value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()
            text = f"{value.dtype}{list(value.shape)} {_digits(raw)}"
        case np.ndarray():
            text = f"{value.dtype}{list(value.shape)} {_digits(value.tobytes())}"
        case partial():
            text = f"partial({_in_words([value.func, *value.args, value.keywords])})"
        case FunctionType():
            text = f"{value.__qualname__}{_mark(value)}"
        case _:
            text = _ADDRESS.sub("", repr(value))
    return text


def _source(part: Any) -> str:
    """What is written in a class or function.

    Two classes of one name may lie in one file, so a class's functions say it too. They alone are there of a class that
    `type(…)` has made, or a notebook's without its cell; its values are read by `_around`.
    """
    if not isinstance(part, type):
        return inspect.getsource(part)
    functions = [member for member in vars(part).values() if inspect.isfunction(member)]
    whole = _class_in_file(part) or (_class_in_cell(part, functions[0]) if functions else "")
    texts = [whole or f"class {part.__qualname__}"]
    for function in functions:
        try:
            texts.append(inspect.getsource(function))
        except (OSError, TypeError):
            if not whole:
                raise
    if not whole and (unread := [name for name, member in vars(part).items() if not _is_told(name, member)]):
        raise OSError(f"{', '.join(unread)} is neither a function nor a value")
    return "".join(texts)


def _is_told(name: str, member: Any) -> bool:
    """Whether a class's attribute is known without the class's own source."""
    return inspect.isfunction(member) or _is_value(name, member) or (name.startswith("__") and not callable(member))


def _class_in_file(part: type) -> str:
    with suppress(OSError, TypeError):
        return inspect.getsource(part)
    return ""


def _class_in_cell(part: type, function: FunctionType) -> str:
    """In a notebook `inspect` finds functions alone: this is the class around one."""
    with suppress(OSError, TypeError, SyntaxError):
        text, line = "".join(inspect.findsource(function)[0]), function.__code__.co_firstlineno
        for node in ast.walk(ast.parse(text)):
            if (
                isinstance(node, ast.ClassDef)
                and node.name == part.__name__
                and node.lineno <= line <= (node.end_lineno or 0)
            ):
                return ast.get_source_segment(text, node) or ""
    return ""
