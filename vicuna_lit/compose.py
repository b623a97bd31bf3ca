"""YAML and overrides → a checked config. All errors are collected before any is shown."""

import difflib
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, overload

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from vicuna_lit.chat.config import ChatConfig
from vicuna_lit.config import CONF_DIR, Config
from vicuna_lit.estimate.config import EstimateConfig
from vicuna_lit.evaluate.config import EvaluateConfig
from vicuna_lit.prepare.config import PrepareConfig
from vicuna_lit.train.config import TrainConfig

Job = Literal["prepare", "train", "estimate", "evaluate", "chat"]
MOST_OF_A_NAME = 180
"""Characters of a folder's name, most file systems allow 255 bytes."""


def _folder_name(text: str) -> str:
    """A job's choices as the name of one folder, whatever stands in them."""
    name = re.sub(r"[^\w.,=+-]+", "_", text)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return name if len(name) <= MOST_OF_A_NAME else f"{name[:MOST_OF_A_NAME]}_{digest}"


OmegaConf.register_new_resolver("folder_name", _folder_name, replace=True)
JOBS: dict[str, type[Config]] = {
    "prepare": PrepareConfig,
    "train": TrainConfig,
    "estimate": EstimateConfig,
    "evaluate": EvaluateConfig,
    "chat": ChatConfig,
}
"""Root configs by the name of their job."""


class ConfigError(ValueError):
    """One or more problems of a config; `problems` has a line for each."""

    def __init__(self, problems: Sequence[str]):
        self.problems = tuple(dict.fromkeys(problems))
        super().__init__("\n".join(self.problems))


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
    return check(job, node, problems)


def expand(job: Job, overrides: Sequence[str]) -> list[str]:
    """`data=<file or folder>` is short for `data=files data.path=<file or folder>`; paths may hold any character.

    So may a chat's `model=` and `against=`; `model` is also a group of `conf/`, which takes no text but its choices.
    """
    out = []
    for override in overrides:
        key, _, value = override.partition("=")
        path = value if value[:1] in ("[", "'", '"') else quoted(value)
        if key == "data" and ("/" in value or Path(value).exists()) and value not in _options("data"):
            out += ["data=files", f"data.path={path}"]
        elif key == "raw":
            out.append(f"raw={path}")
        elif job == "chat" and key in ("model", "against") and value[:1] != "{" and value != "null":
            model, at, url = value.strip("'\"").partition("@http")
            one = f"model: {quoted(model)}, url: {quoted('http' + url)}" if at else f"path: {quoted(model)}"
            out.append(f"{key}={{{one}}}")
        else:
            out.append(override)
    return out


def quoted(text: str) -> str:
    """A text as Hydra reads it, whatever stands in it."""
    return "'" + text.replace("'", "\\'") + "'"


def check(job: str, node: DictConfig, problems: Sequence[str] = ()) -> Any:
    """Validates a composed config; `problems` are those already found while composing."""
    try:
        for key in OmegaConf.missing_keys(node) & JOBS[job].WHERE_MISSING.keys():
            OmegaConf.update(node, key, JOBS[job].WHERE_MISSING[key])
        missing = sorted(OmegaConf.missing_keys(node))
        values = OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError([*problems, f"{error.full_key}: {error.msg}".split("\n")[0]]) from None
    found = [*problems, *(f"{key}: must be given, {key}=…" for key in missing)]
    try:
        config = JOBS[job].model_validate(values)
    except ValidationError as error:
        for item in error.errors():
            path = _path(item["loc"], values)
            found += [] if path in missing else [_describe(path, item, values)]
        raise ConfigError(found) from None
    if found:
        raise ConfigError(found)
    return config


def _compose(job: str, overrides: Sequence[str]) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return hydra_compose(job, list(overrides))


def _compose_all(job: str, overrides: Sequence[str]) -> tuple[DictConfig, list[str]]:
    """Composes with every override that is valid; describes the others."""
    try:
        return _compose(job, overrides), []
    except (HydraException, OmegaConfBaseException):
        pass
    groups = _groups()
    good: list[str] = []
    problems: list[str] = []
    for override in sorted(overrides, key=lambda o: o.partition("=")[0] not in groups):
        try:
            _compose(job, [*good, override])
            good.append(override)
        except (HydraException, OmegaConfBaseException) as error:
            problems.append(_describe_override(override, error, _compose(job, good)))
    return _compose(job, good), problems


def _describe_override(override: str, error: Exception, node: DictConfig) -> str:
    key, _, value = override.partition("=")
    key = key.lstrip("+~")
    if (CONF_DIR / key).is_dir():
        options = _options(key)
        if value in options:
            return f"{key}={value}: this command has no {key}"
        return f"{key}={value}: no such choice{nearest(value, options)}; choices: {', '.join(options)}"
    keys = _keys(OmegaConf.to_container(node, resolve=False))
    if key and key not in keys and "=" in override:
        return f"{key}: unknown key{nearest(key, [*keys, *_groups()])}"
    return f"{override}: {str(error).splitlines()[0]}"


def _describe(path: str, item: Any, values: Any) -> str:
    message, given = item["msg"], item["input"]
    match item["type"]:
        case "extra_forbidden":
            return f"{path}: unknown key{nearest(path, _keys(values))}"
        case "literal_error":
            choices = [c.strip(" '") for c in item["ctx"]["expected"].replace(" or ", ",").split(",")]
            return f"{path}={given}: no such choice{nearest(str(given), choices)}; choices: {', '.join(choices)}"
        case "value_error":
            text = message.removeprefix("Value error, ")
            return f"{path}: {text}" if path else text
        case "model_type" | "model_attributes_type":
            return f"{path}={given!r:.60}: {path} holds keys; set one of them, such as {path}.<key>=…"
        case _:
            return f"{path}={given!r:.60}: {message[0].lower()}{message[1:]}"


def _path(loc: tuple[int | str, ...], values: Any) -> str:
    """The dotted path without the names of union members that pydantic puts in."""
    out: list[str] = []
    for part in loc:
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            if part != loc[-1]:
                continue  # the name of a union's member, or below a missing key
        out.append(str(part))
    return ".".join(out)


def _keys(values: Any, prefix: str = "") -> list[str]:
    if not isinstance(values, dict):
        return []
    return [k for key, value in values.items() for k in (f"{prefix}{key}", *_keys(value, f"{prefix}{key}."))]


def _groups() -> list[str]:
    return sorted(p.name for p in CONF_DIR.iterdir() if p.is_dir())


def _options(group: str) -> list[str]:
    return sorted(p.stem for p in (CONF_DIR / group).glob("*.yaml"))


def nearest(word: str, names: Sequence[str]) -> str:
    """` (did you mean …?)` with the name that is closest to a word, or nothing."""
    names = [n for n in names if n != word]
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if not close:
        tails = {n.rpartition(".")[2]: n for n in names}
        close = [tails[t] for t in difflib.get_close_matches(word.rpartition(".")[2], list(tails), n=1)]
    return f" (did you mean {close[0]}?)" if close else ""
