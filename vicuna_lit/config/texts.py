"""Paths and texts on a command line: whatever stands in them, Hydra's grammar is not the user's concern."""

import hashlib
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vicuna_lit.config.base import Config, leaves

MOST_OF_A_FOLDER = 189
"""Bytes of a folder's name; most file systems allow 255."""
_PLAIN = re.compile(r"[A-Za-z0-9_./:+%@-]*")
"""What Hydra takes as it stands."""
_NO_TEXT = re.compile(r"[+-]?(?:[\d_]*\.?[\d_]+(?:e[+-]?\d+)?|[\d_]+\.(?:e[+-]?\d+)?|inf|nan)|true|false", re.I)
"""What Hydra reads as a number or a truth value."""
_HYDRAS = re.compile(r"""\s*(?:['"\[{]|(?:null|\?\?\?)$|\w+\()|.*\$\{""", re.S)
"""Quoted, nested, a function of Hydra's, or with an interpolation: left to it."""


def quoted(text: str) -> str:
    """A text as Hydra reads it: only backslashes before a quote mean something else there."""
    return "'" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text) + "'"


def typed(overrides: Sequence[str]) -> str:
    """Overrides as a shell takes them: one that Hydra wants quoted stands in the other kind of quotes."""
    return " ".join(f'"{o}"' if "'" in o and not set(o) & set('"$`\\!') else shlex.quote(o) for o in overrides)


def shortened(name: str, most: int, given: str | None = None) -> str:
    """A name of at most so many bytes; what is cut off stands in a digest, so that two names stay two.

    Args:
        given: what the name was made of; None: itself.
    """
    if len(name.encode()) <= most:
        return name
    digest = hashlib.sha256((given or name).encode()).hexdigest()[:8]
    return f"{name.encode()[: most - 9].decode(errors='ignore')}_{digest}"


def folder_name(text: str) -> str:
    """A job's choices as the name of one folder, whatever stands in them."""
    return shortened(re.sub(r"[^\w.,=+-]+", "_", text), MOST_OF_A_FOLDER, text)


def unquoted(value: str) -> str:
    """What Hydra reads where a whole value is quoted; others as they are."""
    if len(value) < 2 or value[0] not in ("'", '"') or value[-1] != value[0]:
        return value
    return re.sub(rf"(\\*)({value[0]}|$)", lambda m: m[1][: len(m[1]) // 2] + m[2], value[1:-1])


def readable(job_config: type[Config], override: str, multirun: bool) -> str:
    """An override whose value is a path or a text, quoted where it needs it; others as they are.

    Under multirun a comma separates the values of a sweep, unless what stands around it is one path that exists.
    """
    key, equals, value = override.partition("=")
    name = key.lstrip("+~")
    if not equals or not (name in ("hydra.sweep.dir", "hydra.run.dir") or takes_text(job_config, name)):
        return override
    inner = value.strip()[1:-1]
    only = name in ("hydra.sweep.dir", "hydra.run.dir") or takes_text(job_config, name, alone=True)
    if value.strip()[:1] == "[" and value.strip()[-1:] == "]" and not re.search(r"""['"\[\]{}]|\$\{""", inner):
        items = [item.strip() for item in parts(inner)]
        return override if all(_is_plain(item, only) for item in items) else f"{key}=[{','.join(map(quoted, items))}]"
    return f"{key}={several(value, multirun, only)}"


def several(value: str, multirun: bool, only: bool = True) -> str:
    """One text, or under multirun those of a sweep, each as Hydra reads it.

    Args:
        only: it can be nothing but a text, also where it looks like a number: a run may be called 7.
    """
    if _HYDRAS.match(value):
        return value
    texts = parts(value) if multirun else [value]
    return ",".join(text if _is_plain(text, only) else quoted(text) for text in texts)


def _is_plain(text: str, only: bool) -> bool:
    return bool(_PLAIN.fullmatch(text)) and not (only and _NO_TEXT.fullmatch(text))


def parts(value: str) -> list[str]:
    """What stands between the commas; a path with commas in it that exists is one."""
    out, rest = [], value.split(",")
    while rest:
        count = next((n for n in range(len(rest), 1, -1) if is_there(",".join(rest[:n]))), 1)
        out.append(",".join(rest[:count]))
        rest = rest[count:]
    return out


def is_there(path: str) -> bool:
    """Whether a file or folder has this path, which may be any text."""
    try:
        return Path(path.strip()).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # too long for a name, no such user, a null character
        return False


def takes_text(config: type[Config], key: str, alone: bool = False) -> bool:
    """Whether a dotted key of a job's config may be a text of any kind, alone or in a list.

    Args:
        alone: and neither a number nor a truth value.
    """
    found: list[Any] = [config]
    for name in key.split("."):
        fields = [c.model_fields.get(name) for c in found if isinstance(c, type) and issubclass(c, Config)]
        found = [leaf for field in fields if field is not None for leaf in leaves(field.annotation)]
    if alone and any(kind in (int, float, bool, Any) for kind in found):
        return False
    return str in found or any(getattr(kind, "__name__", "") == "FolderSource" for kind in found)
