"""Every key of a job with its type, default, choices and meaning, read from the config classes and `conf/`.

`docs/reference.md` is made of it, and so is what a command says about one key.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from inspect import cleandoc, isclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from vicuna_lit.config.base import CONF_DIR, Config
from vicuna_lit.config.compose import JOBS, Job, values
from vicuna_lit.config.train import Layout, Recipe, RunSettings, TrainConfig

GIVEN = "must be given"
"""The default of a key without one."""
MOST_NAMED = 4
"""Choices that `Entry.needs` names; of more it names those that lack the key."""
_TYPES = {bool: "true or false", int: "integer", float: "number", str: "text", NoneType: "null"}
_SIGNS = {Ge: ("ge", "≥"), Gt: ("gt", ">"), Le: ("le", "≤"), Lt: ("lt", "<")}
_PARTS: tuple[tuple[str, type[Config]], ...] = (("recipe", Recipe), ("layout", Layout), ("run settings", RunSettings))


@dataclass(frozen=True)
class Entry:
    """One key of a job's config."""

    key: str
    """Dotted, as it is typed: `optimizer.lr`."""
    type: str
    """In words: `integer > 0, or null`; `group`: it holds other keys."""
    default: str
    """As YAML, of the command without any override; `must be given` where there is none."""
    choices: tuple[str, ...]
    """What it may be, where that is a list: the values of a literal, the files of a group."""
    text: str
    """What it means, on one line."""
    part: str
    """Of the train job `recipe`, `layout` or `run settings`; empty for other jobs."""
    needs: str = ""
    """The choice under which alone the key exists, such as `finetune=lora`; empty: always."""
    elsewhere: str = ""
    """What it is with other choices of its group: `0.01 with data=files`; empty: the same, or there are too many."""


def entries(job: Job, *overrides: str) -> list[Entry]:
    """All keys of a job, in the order of its config class; a group stands before its keys.

    Args:
        job: `train`, `prepare`, `estimate`, `evaluate` or `chat`.
        overrides: as on the command line; the defaults are then the values under them.

    Raises:
        ConfigError: an override is wrong.
    """
    found = [*_entries(JOBS[job], "", values(job, *overrides), "")]
    if issubclass(JOBS[job], TrainConfig):
        found = [replace(entry, part=_part(entry.key)) for entry in found]
    groups = {entry.key: entry for entry in found if 1 < len(entry.choices) <= MOST_NAMED and entry.type == "group"}
    return [replace(entry, elsewhere=_elsewhere(entry, groups)) for entry in found]


def _elsewhere(entry: Entry, groups: dict[str, Entry]) -> str:
    """The values in the files of the choices that are not the default; a list or a path says too little of a key."""
    group, _, name = entry.key.rpartition(".")
    if group not in groups or entry.needs or entry.choices:
        return ""
    of_each = {option: content.get(name) for option, content in _files(group).items()}
    values = {option: _shown(value, False) for option, value in of_each.items() if isinstance(value, int | float)}
    return ", ".join(
        f"{value} with {group}={option}"
        for option, value in values.items()
        if option != groups[group].default and value != entry.default
    )


def _entries(config: type[Config], prefix: str, given: Any, needs: str) -> Iterator[Entry]:
    known = given if isinstance(given, dict) else {}
    for name, field in config.model_fields.items():
        key, value = prefix + name, known.get(name, ... if field.is_required() else field.default)
        members = _members(field)
        files = _files(key) if members else {}
        group = bool(files) and all(_fits(content, members) for content in files.values())
        text = field.description or (cleandoc(members[0].__doc__ or "") if len(members) == 1 else "")
        yield Entry(
            key,
            _type(field, group),
            _option(files, value) if group and value is not ... else _shown(value, bool(members)),
            tuple(files) if group else _choices(field),
            " ".join(text.split()),
            "",
            needs,
        )
        if len(members) == 1:
            yield from _entries(members[0], f"{key}.", value, needs)
        elif group:
            yield from _alternatives(key, members, value, files)


def _alternatives(key: str, members: list[type[Config]], value: Any, files: dict[str, Any]) -> Iterator[Entry]:
    """The keys of a group of which one class is chosen: those of all classes, each with the choices that have it."""
    found: dict[str, tuple[Entry, list[str]]] = {}
    for member in members:
        kinds = get_args(member.model_fields["kind"].annotation)
        names = [name for name, content in files.items() if content["kind"] in kinds]
        chosen = isinstance(value, dict) and value.get("kind") in kinds
        for entry in _entries(member, f"{key}.", value if chosen else files[names[0]], ""):
            if entry.key == f"{key}.kind":
                continue  # the choice of the group says it
            kept = found.get(entry.key)
            found[entry.key] = (entry if kept is None or chosen else kept[0], [*(kept[1] if kept else ()), *names])
    for entry, names in found.values():
        with_it, without = sorted(set(names)), sorted(set(files) - set(names))
        few = f"{key}={'|'.join(with_it)}" if len(with_it) <= MOST_NAMED else f"not {key}={'|'.join(without)}"
        yield replace(entry, needs=few if without else "")


def _files(key: str) -> dict[str, dict[str, Any]]:
    """The choices of a group with their values; empty where `conf/` has no such folder."""
    folder = CONF_DIR / key.replace(".", "/")
    return {path.stem: _content(path) for path in sorted(folder.glob("*.yaml"))} if folder.is_dir() else {}


def _content(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(path.read_bytes())
    for default in content.pop("defaults", ()):
        if isinstance(default, dict):
            inside = {group: name for group, name in default.items() if not group.startswith("override ")}
            content |= {group: _content(path.parent / group / f"{name}.yaml") for group, name in inside.items()}
    return content


def _fits(content: dict[str, Any], members: list[type[Config]]) -> bool:
    """Whether a file of `conf/` is one of these classes (prepare's `moderation` is none of `conf/moderation`)."""
    return any(
        content.keys() <= member.model_fields.keys()
        and ("kind" not in content or content["kind"] in get_args(member.model_fields["kind"].annotation))
        for member in members
    )


def _members(field: FieldInfo) -> list[type[Config]]:
    """The config classes that a field may hold; those of lists are values, and no keys."""
    return [part for part in _parts(field.annotation) if isclass(part) and issubclass(part, Config)]


def _parts(annotation: Any) -> list[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _parts(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [part for one in get_args(annotation) for part in _parts(one)]
    return [annotation]


def _choices(field: FieldInfo) -> tuple[str, ...]:
    parts = [part for part in _parts(field.annotation) if part is not NoneType]
    listed = [str(value) for part in parts if get_origin(part) is Literal for value in get_args(part)]
    return tuple(listed) if listed and all(get_origin(part) in (Literal, None) for part in parts) else ()


def _type(field: FieldInfo, group: bool) -> str:
    members = _members(field)
    if members:
        return "group" if group or len(members) == 1 else "text, or keys"
    bounds = " and ".join(_bounds(field.metadata))
    words = [_word(part, bounds) for part in _parts_with_bounds(field.annotation)]
    return ", or ".join(dict.fromkeys(words))


def _parts_with_bounds(annotation: Any) -> list[Any]:
    if get_origin(annotation) in (Union, UnionType):
        return [part for one in get_args(annotation) for part in _parts_with_bounds(one)]
    return [annotation]


def _word(part: Any, bounds: str) -> str:
    origin = get_origin(part)
    if origin is Annotated:
        inner, *metadata = get_args(part)
        return ", or ".join(_word(one, " and ".join(_bounds(metadata))) for one in _parts_with_bounds(inner))
    if origin is Literal:
        return "a choice"
    if origin is tuple or part is tuple:
        inner = [one for one in get_args(part) if one is not ...]
        return f"list of {_word(inner[0], '')}" if inner else "list"
    if origin is dict or part is dict:
        return "names with values"
    if isclass(part) and issubclass(part, Config):
        return "group"
    word = _TYPES.get(part, "value")
    return f"{word} {bounds}" if bounds and part in (int, float) else word


def _bounds(metadata: Any) -> list[str]:
    metadata = [bound for one in metadata for bound in (one.metadata if isinstance(one, FieldInfo) else [one])]
    return [
        f"{sign} {limit}" if isinstance(limit := getattr(bound, name), int) else f"{sign} {limit:g}"
        for bound in metadata
        for kind, (name, sign) in _SIGNS.items()
        if isinstance(bound, kind)
    ]


def _shown(value: Any, is_group: bool) -> str:
    if value is ... or value == "???":
        return GIVEN
    if is_group and value is not None:
        return ""
    return yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True).removesuffix("...\n").strip()


def _option(files: dict[str, dict[str, Any]], value: Any) -> str:
    """The choice of a group that has these values, or the one that is nearest: an experiment may change some."""
    if not isinstance(value, dict):
        return _shown(value, False)
    if all(content.keys() < value.keys() for content in files.values()):  # several may be chosen, or none
        return f"[{','.join(name for name, content in files.items() if content.items() <= value.items())}]"
    same_kind = {name: content for name, content in files.items() if content.get("kind") == value.get("kind")}
    return max(same_kind, key=lambda name: sum(value[key] == given for key, given in files[name].items()))


def _part(key: str) -> str:
    """The first class that has a key; both halves of `trainer` are looked into."""
    for name, part in _PARTS:
        at: Any = part
        for step in key.split("."):
            fields = at.model_fields if isclass(at) and issubclass(at, Config) else {}
            if step not in fields:
                break
            members = _members(fields[step])
            at = members[0] if len(members) == 1 else None
            if len(members) > 1:  # a choice of a group lies where the group does
                return name
        else:
            return name
    return ""
