"""`--explain`: what a key means, what it may be, and where its value comes from; without a key, all of them."""

import textwrap
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from vicuna_lit.config.base import CONF_DIR
from vicuna_lit.config.compose import ConfigError, Job, unknown_key
from vicuna_lit.config.from_run import OF_ONE_RUN
from vicuna_lit.config.reference import Entry, entries
from vicuna_lit.config.search_path import folders

FLAG = "--explain"
PARTS = {
    "recipe": "recipe: another value is another run",
    "layout": "layout: the losses stay the same; it may change when a run goes on",
    "run settings": "run settings: nothing of the result depends on it",
}
WIDTH, LINE = 110, 139
"""Characters of an explanation's lines, and of a list's."""


def asked(arguments: Sequence[str]) -> bool:
    """Whether a command line asks for an explanation."""
    return any(argument.partition("=")[0] == FLAG for argument in arguments)


def explain(job: Job, arguments: Sequence[str], source: str | None = None) -> str:
    """The text for a command line with `--explain`: of the keys that it names, or a line for every key. Overrides
    (`experiment=vicuna_7b`) say whose values are shown.

    Args:
        source: the folder of the run whose config the overrides begin with (`from=`).

    Raises:
        ConfigError: a key or an override is wrong.
    """
    arguments = [a.removeprefix(f"{FLAG}=") for a in arguments if a != FLAG]
    keys = [a for a in arguments if "=" not in a and a[:1] != "-"]
    overrides = [a for a in arguments if "=" in a and a[:1] != "-"]
    known = {entry.key: entry for entry in entries(job, *overrides)}
    if wrong := [key for key in keys if key not in known]:
        raise ConfigError([unknown_key(key, list(known)) for key in wrong])
    if keys:
        return "\n\n".join(_whole(job, known, key, overrides, source) for key in keys)
    longest = max(map(len, known))
    lines = (_line(entry, longest) for entry in known.values())
    return "\n".join([*lines, "", f"vicuna-{job} {FLAG} <key> says all there is to say about one"])


def _line(entry: Entry, longest: int) -> str:
    short = entry.default if len(entry.default) <= 20 else f"{entry.default[:19]}…"
    text = textwrap.shorten(entry.text, LINE - longest - 24, placeholder="…")
    return f"{entry.key:<{longest}}  {short:<20}  {text}".rstrip()


def _whole(job: Job, known: dict[str, Entry], key: str, overrides: Sequence[str], source: str | None) -> str:
    entry = known[key]
    facts = {
        "type": entry.type,
        "choices": ", ".join(entry.choices),
        "default": f"{entry.default}  ({_origin(job, known, key, overrides, source)})" if entry.default else "",
        "elsewhere": entry.elsewhere,
        "only with": entry.needs,
        "part of": PARTS.get(entry.part, entry.part),
        "holds": ", ".join(other for other in known if other.startswith(f"{key}.")),
    }
    lines = [key, *textwrap.wrap(entry.text, WIDTH - 2, initial_indent="  ", subsequent_indent="  "), ""]
    for name, value in facts.items():
        if value:
            lines += textwrap.wrap(
                value,
                WIDTH,
                initial_indent=f"  {name:<10}",
                subsequent_indent=" " * 12,
                break_long_words=False,  # paths can be copied
                break_on_hyphens=False,
            )
    return "\n".join(lines)


def _origin(job: Job, known: dict[str, Entry], key: str, overrides: Sequence[str], source: str | None) -> str:
    """Where the value stands: the command line, another run's folder, a file of `conf/`; the last has the first say."""
    given = dict(override.lstrip("+").split("=", 1) for override in overrides)
    if key in given:
        return "the command line"
    if source and key.partition(".")[0] not in OF_ONE_RUN:
        return f"{source}/config.json"
    for name in _files(job, known, key, given):
        group = name.parent.as_posix().replace("/", ".")
        place = next((place for place in folders(overrides) if (place / name).is_file()), None)
        if place and _holds(_content(place / name), key.removeprefix(f"{group}.")):
            return f"conf/{name}" if place == CONF_DIR else str(place / name)
    return "conf/" if known[key].default != "must be given" else f"{key}=…"


def _files(job: Job, known: dict[str, Entry], key: str, given: dict[str, str]) -> Iterator[Path]:
    """The files that may hold a key, as they are called in `conf/` or a folder of the user's: an experiment or preset,
    the job's own, the choices of the groups it lies in."""
    jobs, chosen = [job], {}
    for name in jobs:
        for default in _content(CONF_DIR / f"{name}.yaml").get("defaults", ()):
            if isinstance(default, dict):
                chosen |= {str(group): str(option) for group, option in default.items()}
            elif default != "_self_":
                jobs.append(default)  # a job that is another and more
    for group in ("experiment", "preset"):
        if option := given.get(group, chosen.get(group)):
            yield Path(group, f"{option}.yaml")
    yield from (Path(f"{name}.yaml") for name in jobs)
    parts = key.split(".")
    for end in range(len(parts), 0, -1):
        group = ".".join(parts[:end])
        if group in known and known[group].choices:
            folder = Path(group.replace(".", "/"))
            options = {known[group].default: None} | dict.fromkeys(known[group].choices)
            yield from (folder / f"{option}.yaml" for option in options)


@cache
def _content(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_bytes()) or {}


def _holds(values: Any, key: str) -> bool:
    """Whether a file has a key, or chooses it."""
    for default in values.get("defaults", ()):
        if isinstance(default, dict) and {key, f"override /{key}"} & default.keys():
            return True
    for part in key.split("."):
        if not isinstance(values, dict) or part not in values:
            return False
        values = values[part]
    return True
