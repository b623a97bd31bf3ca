"""Models and data sets by their names on the Hugging Face Hub, fetched once and pinned to a commit.

`model.path=Qwen/Qwen3-0.6B` becomes `hf://Qwen/Qwen3-0.6B@<commit>`, the Hub's own notation. From then on that text is
the path: it stands in `config.json`, so it is part of what a run is, and `paths.locate` finds its folder in the cache.
Tokens are huggingface_hub's affair (`hf auth login`, `HF_TOKEN`); none is read or printed here.
"""

import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from glob import has_magic
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeVar

from vicuna_lit.paths import HUB, MissingPath, locate

Kind = Literal["model", "dataset"]
Place = tuple[str | int, ...]
"""The names and numbers that lead to a value of a config."""
ConfigT = TypeVar("ConfigT")
LOGIN = "a private one needs `hf auth login`, or HF_TOKEN"
KEYS: dict[str, Kind] = {
    "model.path": "model",
    "model.tokenizer": "model",
    "tokenizer": "model",
    "moderation.scorer": "model",
    "against.path": "model",
    "models.*.path": "model",
    "judge.path": "model",
    "data.path": "dataset",
    "data.sources.*.path": "dataset",
    "data.validation_path": "dataset",
    "raw": "dataset",
    "raw.*": "dataset",
    "raw.*.path": "dataset",
}
"""Keys of all jobs that may name something on the Hub; a list's items are `*`."""
PATHS = ("model.path", "model.tokenizer", "data.path", "data.sources.*.path", "data.validation_path")
"""Keys of a train config."""
PACKED = ("", ".gz", ".bz2", ".xz", ".zst")
_TEXT = [f"*.{form}{end}" for form in ("json", "jsonl", "ndjson", "jsonlines") for end in PACKED]
ALLOWED = {
    "model": ["*.json", "*.jinja", "*.txt", "*.model", "*.safetensors", "README.md", "LICENSE*"],
    "dataset": [*_TEXT, "*.parquet"],
}
"""What is fetched. Of models nothing that holds code or pickles: no `.py`, `.bin`, `.pt`."""
IGNORED = {
    "model": ["*/*", "consolidated*"],  # weights in other formats, and a second time under other names
    "dataset": ["dataset_infos.json", "dataset_dict.json", ".*"],
}
WEIGHTS = "*.safetensors"
SPLIT = re.compile(r"(?:^|[/_.-])(train|test|validation|valid|val|dev|eval)(?=[/_.-])", re.I)
_FILE = re.compile(r"\.(?:json|jsonl|ndjson|jsonlines|parquet|gz|bz2|xz|zst|gguf|csv|txt)$", re.I)
_NAME = re.compile(
    rf"(?P<scheme>{HUB})?(?P<datasets>datasets/)?(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)"
    r"(?:@(?P<revision>[\w.-]+))?(?:/(?P<inner>.+))?"
)


@dataclass(frozen=True)
class HubName:
    """A repository, or a file or folder in it."""

    kind: Kind
    repo: str
    """`organisation/name`."""
    revision: str | None
    """A branch, tag or commit; None: the newest."""
    inner: str | None
    """A file or folder of a data set."""

    def __str__(self) -> str:
        kind = "datasets/" if self.kind == "dataset" else ""
        revision = f"@{self.revision}" if self.revision else ""
        return f"{HUB}{kind}{self.repo}{revision}{f'/{self.inner}' if self.inner else ''}"

    @property
    def command(self) -> str:
        """What fetches it on a machine that can."""
        kind = " --repo-type dataset" if self.kind == "dataset" else ""
        return f"hf download {self.repo}{kind}{f' --revision {self.revision}' if self.revision else ''}"


def hub_name(path: str, kind: Kind) -> HubName | None:
    """The name on the Hub that a path of a config is, or None. What is there on this machine is no such name.

    `organisation/name`, with `@revision` if wished; with `hf://` in front it is never taken for a file, and
    `hf://datasets/organisation/name/data/train.jsonl` is a file or folder of a data set.
    """
    found = _NAME.fullmatch(path)
    if found is None:
        return None
    if not found["scheme"]:
        place = Path(path).expanduser()
        if found["datasets"] or found["inner"] or _FILE.search(path) or place.exists() or place.parent.is_dir():
            return None
    return HubName(kind, found["repo"], found["revision"], found["inner"])


def fetched(config: ConfigT, weights: bool = True) -> ConfigT:
    """The config with everything that it names on the Hub in the cache of this machine, and pinned to its commit.

    A run that goes on keeps the commits in the `config.json` of its folder, whatever is newer on the Hub; so nothing
    need be asked there (`resume=never` asks anew).

    Args:
        config: of any job, checked.
        weights: False leaves a model's weights where they are, for a plan or an estimate.

    Raises:
        MissingPath: it cannot be had, with the reason and what to do.
    """
    kept = {} if getattr(config, "resume", None) == "never" or not hasattr(config, "run") else _kept(config)
    for key, kind in KEYS.items():
        for place, path in _found(config, key.split(".")):
            name = hub_name(path, kind)
            if name is None:
                continue
            if name.revision is None and (before := _same(kept, place, name)):
                name = before
            pinned = fetch(name, weights and not key.endswith("tokenizer"))
            config = _with(config, place, str(pinned))
    return config


def fetched_path(path: str | Path, kind: Kind, weights: bool = True) -> str:
    """A path as `fetched` gives those of a config, for functions that take one; what is no name on the Hub stays.

    Raises:
        MissingPath: it cannot be had, with the reason and what to do.
    """
    name = hub_name(str(path), kind)
    return str(path) if name is None else str(fetch(name, weights))


def found(config: ConfigT, weights: bool = True) -> ConfigT:
    """A train config as `fetched` gives it, and nothing else that its paths name is missing; before anything slow is
    imported. What a pattern matches is seen where it is read.

    Raises:
        MissingPath: nothing is there.
    """
    config = fetched(config, weights)
    if missing := list(_missing(config)):
        raise MissingPath("; ".join(missing))
    return config


def _missing(config: Any) -> Iterator[str]:
    """Each path of a train config that leads nowhere, in one line with its key."""
    for key in PATHS:
        for place, path in _found(config, key.split(".")):
            if KEYS[key] == "dataset" and has_magic(path):
                continue
            try:
                locate(path)
            except MissingPath as error:
                on_hub = hub_name(f"{HUB}{path}", KEYS[key]) is not None and not _FILE.search(path)
                yield f"{'.'.join(map(str, place))}: {error}" + (
                    f" ({HUB}{path} is the one on the Hub)" if on_hub else ""
                )


_fetched: dict[tuple[HubName, bool], HubName] = {}
"""Names that this process has asked for, with or without weights, and what they are pinned to."""


def fetch(name: HubName, weights: bool) -> HubName:
    """Brings it into the cache of huggingface_hub; the same with its commit. Asked once a process: the jobs of a sweep
    have the same, and functions that call each other.

    Raises:
        MissingPath: it cannot be had, or holds nothing that can be used.
    """
    if (before := _fetched.get((name, weights)) or _fetched.get((name, True))) is None:
        before = _fetch(name, weights)
        _fetched[name, weights] = _fetched[before, weights] = before
    return before


def _fetch(name: HubName, weights: bool) -> HubName:
    import huggingface_hub

    huggingface_hub.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        hide_progress()
    allowed = [pattern for pattern in ALLOWED[name.kind] if weights or pattern != WEIGHTS]
    if name.inner:
        allowed = [name.inner, f"{name.inner.rstrip('/')}/*"]
    try:
        folder = huggingface_hub.snapshot_download(
            name.repo,
            repo_type=name.kind,
            revision=name.revision,
            allow_patterns=allowed,
            ignore_patterns=[] if name.inner else IGNORED[name.kind],
            library_name="vicuna_lit",
        )
    except Exception as error:  # huggingface_hub raises many kinds, and those of its client
        raise MissingPath(f"{name.repo}: {_why(error, name)}") from error
    pinned = replace(name, revision=Path(folder).name)
    if (fault := _unusable(Path(folder), pinned, weights)) is not None:
        raise MissingPath(f"{name.repo}: {fault}")
    if pinned != name:
        print(f"hub       {name.repo} is {pinned}", file=sys.stderr)
    return pinned


def hides_progress() -> bool:
    """Whether downloads show no progress bars."""
    from huggingface_hub.utils import are_progress_bars_disabled

    return are_progress_bars_disabled()


def hide_progress() -> None:
    """Downloads show no progress bars from now on."""
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()


def _why(error: Exception, name: HubName) -> str:
    """The reason in one line, without the Hub's own text: it holds addresses, and may hold what was sent."""
    from huggingface_hub import constants, errors

    what = "model" if name.kind == "model" else "data set"
    match error:
        case errors.GatedRepoError():
            address = f"{constants.ENDPOINT}/{'datasets/' if name.kind == 'dataset' else ''}{name.repo}"
            why = f"its authors ask for an agreement: accept it on {address}, then `hf auth login`, or HF_TOKEN"
        case errors.RevisionNotFoundError():
            why = f"the Hub has this {what}, but no revision {name.revision}"
        case errors.RepositoryNotFoundError():
            why = f"no such file or folder, and no {what} of this name on the Hub that you may read; {LOGIN}"
        case errors.LocalEntryNotFoundError() | errors.OfflineModeIsEnabled():
            cut = "HF_HUB_OFFLINE=1 is set" if constants.HF_HUB_OFFLINE else "the Hub cannot be reached"
            why = (
                f"no such file or folder, nor is it whole in the cache of this machine, and {cut}. On a machine with a "
                f"network: {name.command}; then bring the folder that it names here and give that in its place"
            )
        case OSError(strerror=str() as said):
            why = f"cannot be fetched: {said}"
        case _:
            status = getattr(getattr(error, "response", None), "status_code", type(error).__name__)
            why = f"cannot be fetched: the Hub answered {status}; {name.command} may say more"
    return why


def _unusable(folder: Path, name: HubName, weights: bool) -> str | None:
    """Why nothing can be done with what was fetched, or None."""
    if name.inner:
        return None if (folder / name.inner).exists() else f"the Hub has it, but there is no {name.inner} in it"
    if name.kind == "dataset":
        return _no_data(folder, name)
    if not weights or any(folder.glob(WEIGHTS)):
        return None
    return (
        "no weights as safetensors, and no other format is fetched (pickles can run code); a .gguf file: "
        f"{name.command} <file>, then model.path=<that file>"
    )


def _no_data(folder: Path, name: HubName) -> str | None:
    files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    if not files:
        return "a data set without a JSON, JSON lines or Parquet file; vicuna-prepare and vicuna-train read those"
    if find_spec("pyarrow") is None and all(file.endswith(".parquet") for file in files):
        return "a data set of Parquet files, which need pyarrow: pip install 'vicuna_lit[parquet]'"
    splits = {found[1].lower(): file for file in files if (found := SPLIT.search(file))}
    if len(splits) < 2:
        return None
    example = replace(name, inner=splits.get("train", files[0]))
    return f"a data set with several splits ({', '.join(sorted(splits))}); name the files: data={example}"


def _kept(config: Any) -> dict[str, Any]:
    """The config of the run that the folder holds, if any; who reads it in earnest says what is wrong with it."""
    folder = Path(config.run.dir)
    with suppress(OSError, ValueError):
        return dict(json.loads((folder / "config.json").read_bytes()))
    with suppress(OSError, ValueError, KeyError, TypeError):
        return dict(json.loads((folder / "manifest.json").read_bytes())["config"])  # of vicuna-prepare
    return {}


def _same(kept: dict[str, Any], place: Place, name: HubName) -> HubName | None:
    """What stood in the same place, if it is the same repository."""
    value: Any = kept
    for step in place:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return None
    before = hub_name(value, name.kind) if isinstance(value, str) and value.startswith(HUB) else None
    return before if before and replace(before, revision=None) == name else None


def _found(value: Any, keys: Sequence[str], place: Place = ()) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Where the texts of a key lie in a config, and those texts."""
    if not keys:
        if isinstance(value, str):
            yield place, value
        return
    key, *below = keys
    if key == "*":
        for i, item in enumerate(value if isinstance(value, list | tuple) else ()):
            yield from _found(item, below, (*place, i))
    elif not isinstance(value, list | tuple | str):
        if getattr(value, "kind", "") in ("recorded", "human", "endpoint"):
            return  # their paths are files of reviews
        yield from _found(getattr(value, key, None), below, (*place, key))


def _with(value: Any, place: Place, text: str) -> Any:
    """A frozen config with another text in a place."""
    if not place:
        return text
    key, *below = place
    if isinstance(key, int):
        return tuple(_with(item, tuple(below), text) if i == key else item for i, item in enumerate(value))
    return value.model_copy(update={key: _with(getattr(value, key), tuple(below), text)})
