"""What a command line may leave out: short forms of keys, and the recipe of a model of the user's own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from vicuna_lit.config.base import Config, ConfigError
from vicuna_lit.config.chat import ChatConfig
from vicuna_lit.config.estimate import EstimateConfig
from vicuna_lit.config.evaluate import EvaluateConfig
from vicuna_lit.config.from_run import FROM, from_run, with_source
from vicuna_lit.config.prepare import PrepareConfig
from vicuna_lit.config.search_path import OURS, folders, groups, options
from vicuna_lit.config.texts import is_there, parts, quoted, readable, several, unquoted
from vicuna_lit.config.train import TrainConfig

Job = Literal["prepare", "train", "estimate", "evaluate", "chat"]
JOBS: dict[Job, type[Config]] = {
    "prepare": PrepareConfig,
    "train": TrainConfig,
    "estimate": EstimateConfig,
    "evaluate": EvaluateConfig,
    "chat": ChatConfig,
}
"""Root configs by the name of their job."""


def expand(job: Job, overrides: Sequence[str], multirun: bool = False) -> list[str]:
    """All that the overrides of a command stand for: each written out, and the recipe that they leave open.

    Raises:
        ConfigError: an override cannot be written out.
    """
    places = folders(overrides)
    if job in ("train", "estimate"):
        overrides = with_source(overrides)
    if job in ("train", "estimate") and any(override.startswith(FROM) for override in overrides):
        overrides = from_run(overrides, multirun)
    written = [long for override in overrides for long in written_out(job, override, multirun, places)]
    return [*written, *recipe_for(job, written, places)]


def written_out(job: Job, override: str, multirun: bool = False, places: Sequence[Path] = OURS) -> list[str]:
    """`data=<file or folder>` is short for `data=files data.path=<file or folder>`; paths may hold any character.

    So is `model=<folder>` for `model=local model.path=<folder>`. A chat's `model=` and `against=` take a text too, and
    `<group>=null` is Hydra's `~<group>`.

    Raises:
        ConfigError: a sweep over choices of `conf/` and paths at once, or with and without a group.
    """
    key, _, value = override.partition("=")
    local = {"data": "files", "model": "local"}
    if key in local and (key == "data" or job in ("train", "estimate")) and _is_path(value, key, multirun, places):
        return [f"{key}={local[key]}", f"{key}.path={several(value, multirun)}"]
    if job == "chat" and key in ("model", "against") and value[:1] != "{" and value != "null":
        model, at, url = unquoted(value).partition("@http")
        one = f"model: {quoted(model)}, url: {quoted('http' + url)}" if at else f"path: {quoted(model)}"
        return [f"{key}={{{one}}}"]
    if job == "chat" and key == "model" and value == "null":
        return ["model={}"]  # else Hydra takes it for the group of train's models
    if "null" in value.split(",") and key in groups(places):
        if value != "null":
            raise ConfigError(
                [f"{override}: no job of a sweep can leave {key} out; give each its choice of conf/{key}"]
            )
        return [f"~{key}"]
    return [readable(JOBS[job], override, multirun)]


def recipe_for(job: Job, written: Sequence[str], places: Sequence[Path] = OURS) -> list[str]:
    """An own model without an `experiment` takes the article's recipe, and the template that suits it.

    The quickstart's, which `conf/train.yaml` begins with, is a toy's: it would ruin a pretrained model.
    """
    given: dict[str, str] = {}
    for override in written:
        key, _, value = override.partition("=")
        given[key.lstrip("+~")] = value
    models = [name.strip(" '\"") for name in given.get("model", "").split(",") if name.strip()]
    known = options("model", places)
    own = any(name != "tiny" for name in models if name in known) or given.get("model.path", "null") != "null"
    if job not in ("train", "estimate") or "experiment" in given or not own:
        return []
    found = ["experiment=vicuna", *([] if models else ["model=local"])]
    return found if "template" in given else [*found, "template=auto"]


def _is_path(value: str, group: str, multirun: bool, places: Sequence[Path]) -> bool:
    """Whether a value is a path, or under multirun several of them, and no choice of the group.

    Raises:
        ConfigError: it is both.
    """
    known = set(options(group, places))
    values = parts(value) if multirun and value[:1] not in ("'", '"') else [value]
    paths = [one for one in map(unquoted, values) if one not in known and ("/" in one or is_there(one))]
    if paths and len(paths) < len(values) and known.intersection(values):
        name = "mine" if group == "data" else "my_model"
        names = ", ".join(sorted(known.intersection(values)))
        raise ConfigError(
            [
                f"{group}={value}: a sweep over {names} of conf/{group} and a path; give the path a name of its own, "
                f"{group}/{name}.yaml in a folder of yours, --config-dir=<folder>"
            ]
        )
    return bool(paths)
