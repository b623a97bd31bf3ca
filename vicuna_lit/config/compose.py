"""YAML and overrides → a checked config. All errors are collected before any is shown."""

import copy
import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, overload

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from vicuna_lit.config.base import CONF_DIR, ConfigError
from vicuna_lit.config.chat import ChatConfig
from vicuna_lit.config.estimate import EstimateConfig
from vicuna_lit.config.evaluate import EvaluateConfig
from vicuna_lit.config.prepare import PrepareConfig
from vicuna_lit.config.renamed import VALUES, elsewhere, nearly_elsewhere, new_key
from vicuna_lit.config.search_path import folders, groups, options, refuse_endless, search_path
from vicuna_lit.config.search_path import problems as search_path_problems
from vicuna_lit.config.short_forms import JOBS, Job, expand
from vicuna_lit.config.texts import folder_name, unquoted
from vicuna_lit.config.train import TrainConfig
from vicuna_lit.paths import nearest_beside

OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)

_KNOWN: dict[tuple[Any, ...], tuple[list[Any], DictConfig]] = {}
"""What was composed of the same choices, with the nodes in Hydra's store at that time, see `_compose`."""
MOST_KNOWN = 32
MOST_OF_A_KEY = 200
"""Letters; a key that may name a group is looked for as a folder, and no folder's name is longer than 255 bytes."""
ALIKE, NEARLY = 0.6, 0.85
"""Of the letters of a wrong key the share that another key must have too, to be guessed."""


@overload
def load(job: Literal["train"], *overrides: str) -> TrainConfig: ...
@overload
def load(job: Literal["prepare"], *overrides: str) -> PrepareConfig: ...
@overload
def load(job: Literal["estimate"], *overrides: str) -> EstimateConfig: ...
@overload
def load(job: Literal["evaluate"], *overrides: str) -> EvaluateConfig: ...
@overload
def load(job: Literal["chat"], *overrides: str) -> ChatConfig: ...
def load(job: Job, *overrides: str) -> TrainConfig | PrepareConfig | EstimateConfig | EvaluateConfig | ChatConfig:
    """Composes and checks a job's config, as on the command line: `load("train", "model=tiny", "seed=1")`.

    Raises:
        ConfigError: with every problem found, each with its dotted key.
    """
    node, problems = _compose_all(job, expand(job, overrides))
    with_choices(node, node.hydra.runtime.choices)
    return check(job, without_hydra(node), problems)


def values(job: Job, *overrides: str) -> dict[str, Any]:
    """A job's values as its YAML has them, nested, before they are checked; `???` must be given.

    Raises:
        ConfigError: an override is wrong.
    """
    node, problems = _compose_all(job, expand(job, overrides))
    if problems:
        raise ConfigError(problems)
    content = OmegaConf.to_container(without_hydra(node), resolve=False)
    return {str(key): value for key, value in content.items()} if isinstance(content, dict) else {}


def with_choices(node: DictConfig, choices: Mapping[str, Any]) -> None:
    """Writes what was chosen of each group of `conf` into `run.choices`; Hydra's own groups are left out."""
    if isinstance(node.get("run"), DictConfig):  # else it was set to something else, which `check` says
        chosen = {group: str(choice) for group, choice in choices.items() if choice and not group.startswith("hydra/")}
        OmegaConf.update(node, "run.choices", chosen, merge=False, force_add=True)


def without_hydra(node: DictConfig) -> DictConfig:
    """The job's own part of a composed config; takes Hydra's out of it."""
    with open_dict(node):
        node.pop("hydra", None)
    return node


def check(job: Job, node: DictConfig, problems: Sequence[str] = ()) -> Any:
    """Validates a composed config; `problems` are those already found while composing."""
    try:
        absent = OmegaConf.missing_keys(node)
        for key in absent & JOBS[job].WHERE_MISSING.keys():
            OmegaConf.update(node, key, JOBS[job].WHERE_MISSING[key])
        missing = sorted(absent - JOBS[job].WHERE_MISSING.keys())
        values = OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError([*problems, f"{error.full_key}: {error.msg}".split("\n")[0]]) from None
    found = [*problems, *(f"{key}: must be given, {key}=…".replace("\n", "\\n") for key in missing)]
    try:
        config = JOBS[job].model_validate(values)
    except ValidationError as error:
        items = [(_path(item["loc"], values), item) for item in error.errors()]
        worded = {path for path, item in items if item["type"] == "value_error"}
        for path, item in items:
            # A list or dict may be a text as well: where something inside it is wrong, that is what is meant. So it is
            # where a text is of the right kind, and wrong.
            kind = item["type"].endswith("_type")
            inside = kind and any(other.startswith(f"{path}.") for other, _ in items)
            text = kind and any(path == other or _beside(path, other) for other in worded)
            told = path in missing or (inside and isinstance(item["input"], dict | list)) or text
            found += [] if told else [_describe(job, path, item, values).replace("\n", "\\n")]
        raise ConfigError(list(dict.fromkeys(found))) from None
    if found:
        raise ConfigError(found)
    return config


def _beside(path: str, other: str) -> bool:
    """Whether both are items of one list."""
    (one, _, place), (two, _, its) = path.rpartition("."), other.rpartition(".")
    return one == two and place.isdigit() and its.isdigit()


def master(job: Job, written: Sequence[str]) -> DictConfig:
    """A job's values with Hydra's own (`hydra.mode`, `hydra.sweeper`, …); what is swept is left out.

    Raises:
        HydraException, OmegaConfBaseException: as Hydra says it.
    """
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        return hydra.compose_config(job, list(written), RunMode.MULTIRUN, validate_sweep_overrides=False)


def _compose(job: str, overrides: Sequence[str]) -> DictConfig:
    """As Hydra composes it. Jobs of a sweep make mostly the same choices: then only their values are written anew."""
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException:
        return _by_hydra(job, overrides)  # it says what is wrong
    if len(folders(overrides)) > 1 or any(override.is_sweep_override() for override in parsed):
        return _by_hydra(job, overrides)
    values = [override for override in parsed if _is_value(override)]
    chosen = [str(override.input_line) for override in parsed if not _is_value(override)]
    key, nodes = (job, *chosen, Path.cwd(), _files()), list(_stored(ConfigStore.instance().repo))
    if key not in _KNOWN or _KNOWN[key][0] != nodes:
        if len(_KNOWN) >= MOST_KNOWN:
            _KNOWN.clear()
        composed = _by_hydra(job, chosen)
        with open_dict(composed):  # the rest of Hydra's own part is not asked for, and costs time to copy
            composed.hydra = {"runtime": {"choices": composed.hydra.runtime.choices}}
        _KNOWN[key] = nodes, composed
    composed = copy.deepcopy(_KNOWN[key][1])
    try:
        ConfigLoaderImpl._apply_overrides_to_config(values, composed)
    except (HydraException, OmegaConfBaseException):
        return _by_hydra(job, overrides)
    return composed


def _is_value(override: Override) -> bool:
    """Whether it sets a value of ours, and chooses nothing of a group."""
    key = override.key_or_group
    return not (override.package or "/" in key or key.startswith("hydra") or (CONF_DIR / key).is_dir())


def _files(folder: str = str(CONF_DIR)) -> tuple[Any, ...]:
    """All of a folder, `conf`, as they are now."""
    return tuple(
        _files(file.path) if file.is_dir() else (file.path, (about := file.stat()).st_mtime_ns, about.st_size)
        for file in os.scandir(folder)
    )


def _stored(part: Any) -> Iterator[Any]:
    """The nodes that lie in Hydra's store, where a script may put its own."""
    for inner in part.values():
        yield from _stored(inner) if isinstance(inner, dict) else (inner,)


def _by_hydra(job: str, overrides: Sequence[str]) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        try:
            return hydra_compose(job, list(overrides), return_hydra_config=True)
        except (ValueError, OSError) as error:  # a choice that is a number, a key that is longer than a file's name
            raise HydraException(str(error)) from error


def _compose_all(job: str, overrides: Sequence[str]) -> tuple[DictConfig, list[str]]:
    """Composes with every override that is valid; describes the others."""
    places = folders(overrides)
    long = [f"{_key(one)[:60]}…: unknown key" for one in overrides if len(_key(one)) > MOST_OF_A_KEY]
    overrides = [one for one in overrides if len(_key(one)) <= MOST_OF_A_KEY]
    problems = [*search_path_problems(places), *long]
    refuse_endless(overrides)
    if any(not place.is_dir() for place in places):
        raise ConfigError(problems)
    try:
        return _compose(job, overrides), problems
    except (HydraException, OmegaConfBaseException):
        pass
    first = groups(places)
    good = search_path(overrides)
    alone = {one: _value_alone(one, first) for one in overrides if one not in good}
    for override in sorted((o for o, parsed in alone.items() if not parsed), key=lambda o: _key(o) not in first):
        try:
            _compose(job, [*good, override])
            good.append(override)
        except (HydraException, OmegaConfBaseException) as error:
            problems.append(_describe_override(override, error, _compose(job, good), places))
    node = _compose(job, good)  # the values are written one by one: to compose each anew would be quadratic
    for override, parsed in alone.items():
        written = copy.deepcopy(node)
        try:
            ConfigLoaderImpl._apply_overrides_to_config([parsed] if parsed else [], written)
            node = written
        except (HydraException, OmegaConfBaseException) as error:
            problems.append(_describe_override(override, error, node, places))
    return node, problems


def _value_alone(override: str, groups: Sequence[str]) -> Override | None:
    """The override, where it sets one value and nothing but that value."""
    try:
        (parsed,) = OverridesParser.create().parse_overrides([override])
    except HydraException:
        return None  # composing says what is wrong
    return parsed if _is_value(parsed) and _key(override) not in groups and not parsed.is_sweep_override() else None


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _describe_override(override: str, error: Exception, node: DictConfig, places: Sequence[Path]) -> str:
    key, _, value = override.partition("=")
    key = key.lstrip("+~")
    composed: Any = OmegaConf.to_container(node, resolve=False)
    chosen, group = composed.pop("hydra")["runtime"]["choices"], re.split(r"[./@]", key)[0]
    absent = [one for one in groups() if one not in chosen and one not in composed]  # other commands'
    if group in absent:
        return f"{override.lstrip('+~')}: this command has no {group}{nearest(group, list(composed), ALIKE)}"
    if key and (choices := options(key, places)):
        if override[:1] == "~":
            return f"{key}: must be given, {key}=…; choices: {', '.join(choices)}"
        return _no_choice(key, value, choices)
    keys = _keys(composed)
    if key and key not in keys and ("=" in override or override[:1] == "~"):
        return unknown_key(key, [*keys, *(one for one in groups(places) if one not in absent)])
    return f"{override}: {_in_words(key, value, error, keys)}"


def _in_words(key: str, value: str, error: Exception, keys: Sequence[str]) -> str:
    """What Hydra says against the value of a key that there is."""
    if str(error).startswith("Ambiguous value"):
        return f"several values; -m runs one job for each, and a list is {key}=[{value}]"
    if isinstance(error, OverrideParseException):
        return f"cannot be read; a quote or bracket in a value is quoted once more, as in {key}='\"a\"'"
    if below := [name for name in keys if name.startswith(f"{key}.")]:
        return f"{key} holds keys; set one of them, such as {', '.join(below[:3])}"
    return str(error).splitlines()[0]


def _no_choice(key: str, value: str, choices: Sequence[str]) -> str:
    """Of a group; data and a model may be paths too, and data with a file's ending are meant for one."""
    path = key in ("data", "model")
    said = f"{key}={value}: no such choice{', nor a file or folder' if path else ''}"
    if "," in value:
        return f"{said}; of several values -m runs one job for each"
    beside = nearest_beside(Path(unquoted(value))) if path else ""
    guess = beside if key == "data" and Path(value).suffix else nearest(value, choices) or beside
    server = f"; a model of a server is judge=endpoint judge.model={value}" if key == "judge" and not guess else ""
    return f"{said}{f' in {Path.cwd()}' if path else ''}{guess}{server}; choices: {', '.join(choices)}"


def _describe(job: Job, path: str, item: Any, values: Any) -> str:
    message, given = item["msg"], item["input"]
    match item["type"]:
        case "extra_forbidden":
            known = [*_keys(values), *_keys_beside(job, path)]
            return unknown_key(path, [key for key in known if key != path and not key.startswith(f"{path}.")])
        case "literal_error":
            choices = [c.strip(" '") for c in item["ctx"]["expected"].replace(" or ", ",").split(",")]
            now = VALUES.get(path, {}).get(str(given))
            hint = f"; it is called {now} now" if now else nearest(str(given), choices)
            return f"{path}={given}: no such choice{hint}; choices: {', '.join(choices)}"
        case "missing":
            return f"{path}: must be given, {path}=…"
        case "value_error":
            text = message.removeprefix("Value error, ")
            return f"{path}: {text}" if path else text
        case "model_type" | "model_attributes_type":
            below = [f"{path}.{key}" for key in _keys_below(job, path)]
            such = ", ".join(below[:3]) or f"{path}.<key>"
            return f"{path}={_typed(given)}: {path} holds keys; set one of them, such as {such}"
        case kind:
            such = {"dict_type": "names with values are wanted, {name: value}"}
            item = "…" if given is None else _typed(given)
            such |= dict.fromkeys(("tuple_type", "list_type"), f"a list is wanted, such as [{item}]")
            return f"{path}={_typed(given)}: {such.get(kind, message[0].lower() + message[1:])}"


def _typed(value: Any) -> str:
    """A value as it is typed, where Python writes it otherwise."""
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else f"{value!r:.60}"


def _keys_below(job: Job, path: str) -> list[str]:
    """The keys of a group; none where it is a choice between several."""
    kind: Any = JOBS[job]
    for part in path.split("."):
        kind = kind.model_fields[part].annotation if part in getattr(kind, "model_fields", ()) else None
    return list(getattr(kind, "model_fields", ()))


def _keys_beside(job: Job, path: str) -> list[str]:
    """The keys that may stand beside one: in an item of a list too, and none where a choice decides which there are."""
    *above, _ = path.split(".")
    kinds: list[Any] = [JOBS[job]]
    for part in above:
        if not part.isdigit():
            fields = [kind.model_fields[part] for kind in kinds if part in kind.model_fields]
            kinds = [model for field in fields for model in _models(field.annotation)]
    known = kinds if len(kinds) == 1 or any(map(str.isdigit, above)) else []
    return [".".join((*above, name)) for kind in known for name in kind.model_fields]


def _models(kind: Any) -> list[Any]:
    """The groups of keys in a type: its own, an item's, a choice's."""
    if hasattr(kind, "model_fields"):
        return [kind]
    return [model for part in get_args(kind) for model in _models(part)]


def unknown_key(key: str, keys: Sequence[str]) -> str:
    """What to say about a key that is none of these: its name now, ours for another tool's, or the nearest."""
    if new := new_key(key):
        return f"{key}: this key is called {new} now"
    if said := elsewhere(key, keys):
        return f"{key}: unknown key; here {said}"
    near = nearest(key, keys, NEARLY) or nearly_elsewhere(key, keys, NEARLY) or nearest(key, keys, ALIKE)
    return f"{key}: unknown key{near}"


def _path(loc: tuple[int | str, ...], values: Any) -> str:
    """The dotted path without the names of union members that pydantic puts in."""
    out: list[str] = []
    for part in loc:
        try:
            values = values[part]
        except TypeError:
            continue  # the name of a union's member, in place of a value that holds no keys
        except (KeyError, IndexError):
            if part != loc[-1]:
                continue  # the same, or below a missing key
        out.append(str(part))
    return ".".join(out)


def _keys(values: Any, prefix: str = "") -> list[str]:
    if not isinstance(values, dict):
        return []
    return [k for key, value in values.items() for k in (f"{prefix}{key}", *_keys(value, f"{prefix}{key}."))]


def nearest(word: str, names: Sequence[str], alike: float = 0.5) -> str:
    """` (did you mean …?)` with the name that is closest to a word, or nothing.

    Args:
        alike: the least share of letters that both have in the same order.
    """
    names = [n for n in names if n != word and not word.startswith(f"{n}.")]
    group, dot, last = word.rpartition(".")
    beside = {n[len(group) + 1 :]: n for n in names if dot and n.startswith(f"{group}.")}
    close = [beside[t] for t in difflib.get_close_matches(last, list(beside), 1, alike)]  # a right group is no likeness
    if not close:
        holding = [name for tail, name in beside.items() if last in tail.split("_")]
        close = holding if len(holding) == 1 else []
    if not close:
        close = difflib.get_close_matches(word, [n for n in names if n not in beside.values()], n=1, cutoff=alike)
    if not close:
        tails = {n.rpartition(".")[2]: n for n in reversed(names)}  # of two the one that comes first
        close = [tails[t] for t in difflib.get_close_matches(last, list(tails), 1, alike + 0.1)]
    return f" (did you mean {close[0]}?)" if close else ""
