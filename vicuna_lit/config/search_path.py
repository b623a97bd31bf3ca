"""Where the files of `conf/` are looked for: in ours, then in the folders of `hydra.searchpath`, as Hydra does.

The first folder that has a name counts, so a file of the user's cannot take the place of one of ours: that would be
silent, and is refused.
"""

import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from vicuna_lit.config.base import CONF_DIR, ConfigError

KEY = "hydra.searchpath"
OURS = (CONF_DIR,)
MOST_VALUES = 100_000
"""Of a file, once its aliases are written out, as Hydra does; ours have a hundred."""


def search_path(overrides: Sequence[str]) -> list[str]:
    """The override of the search path among these, if there is one; Hydra takes the first."""
    return [override for override in overrides if override.startswith(f"{KEY}=")][:1]


def with_folder(overrides: Sequence[str], folder: str) -> list[str]:
    """The overrides with a folder before the others of the search path, where `--config-dir` is in Hydra's order."""
    entries = [f"file://{Path(folder).absolute()}", *_entries(search_path(overrides))]
    quoted = ",".join("'" + entry.replace("'", "\\'") + "'" for entry in entries)
    return [f"{KEY}=[{quoted}]", *(o for o in overrides if not o.startswith(f"{KEY}="))]


def folders(overrides: Sequence[str]) -> tuple[Path, ...]:
    """Ours, then those of `hydra.searchpath` among the overrides; some may not be there."""
    return (*OURS, *map(_place, _entries(search_path(overrides))))


def problems(places: Sequence[Path]) -> list[str]:
    """A line for each folder that is not there, and for each file that Hydra would not read for its name."""
    missing = [place for place in places if not place.is_dir()]
    said = [f"{place}: no such folder (--config-dir, {KEY})" for place in missing]
    for i, place in enumerate(places):
        for file in () if i == 0 or place in missing else sorted(place.rglob("*.yaml")):
            name = file.relative_to(place)
            before = next((other / name for other in places[:i] if (other / name).is_file()), None)
            if before is not None and before.read_bytes() != file.read_bytes():
                said.append(f"{file}: Hydra reads {before} in its place, which has the same name; call it otherwise")
    return said


def refuse_endless(overrides: Sequence[str]) -> None:
    """Hydra writes aliases out, so a few lines of YAML can take it hours and gigabytes to read.

    Raises:
        ConfigError: a file of the user's is such a one.
    """
    files = (file for place in folders(overrides)[1:] if place.is_dir() for file in sorted(place.rglob("*.yaml")))
    if endless := [file for file in files if file.is_file() and _values(file) > MOST_VALUES]:
        much = f"over {MOST_VALUES:,} values, its aliases written out, or over a megabyte"
        raise ConfigError([f"{file}: is too much for a config ({much})" for file in endless])


def _values(file: Path) -> float:
    """How many values a file has; infinite where one stands within itself, 0 where it is no YAML: composing says so."""
    if file.stat().st_size > 10 * MOST_VALUES:
        return math.inf
    try:
        text = file.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)  # in C deep nesting overflows the stack
        return _count(root, {}) if root else 0
    except RecursionError:
        return math.inf
    except (yaml.YAMLError, UnicodeDecodeError, OSError):
        return 0


def _count(node: yaml.Node, known: dict[int, float]) -> float:
    """
    Args:
        known: the values below the nodes that were counted; an alias is the very node that it names.
    """
    if id(node) not in known:
        known[id(node)] = math.inf  # within itself
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        known[id(node)] = 1 + sum(
            _count(n, known) for one in inner for n in (one if isinstance(one, tuple) else (one,))
        )
    return known[id(node)]


def options(group: str, places: Sequence[Path] = OURS) -> list[str]:
    """The choices of a group."""
    return sorted({file.stem for place in places for file in (place / group).glob("*.yaml")})


def groups(places: Sequence[Path] = OURS) -> list[str]:
    """Groups by name, those inside others aside."""
    return sorted({folder.name for place in places if place.is_dir() for folder in place.iterdir() if folder.is_dir()})


def _entries(override: Sequence[str]) -> list[str]:
    try:
        given = [OverridesParser.create().parse_override(one).value() for one in override]
    except HydraException:
        return []  # composing says it
    if any(not isinstance(value, list) for value in given):
        raise ConfigError([f"{override[0]}: is a list of places, {KEY}=[file://<folder>]"])
    return [str(entry) for value in given if isinstance(value, list) for entry in value]


def _place(entry: str) -> Path:
    scheme, _, path = entry.rpartition("://")
    if scheme != "pkg":
        return Path(path)
    package, *inside = path.replace("/", ".").split(".")
    spec = find_spec(package) if package.isidentifier() else None
    homes = spec.submodule_search_locations if spec else None
    return Path(homes[0], *inside) if homes else Path(entry)
