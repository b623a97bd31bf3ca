"""What was claimed before a sweep started, and what came out."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, ValidationError

from vicuna_lit.compare.conclusions import conclude
from vicuna_lit.compare.run import Run
from vicuna_lit.compare.runs import Sweep
from vicuna_lit.compare.table import REPEATS, baseline_of, is_named, named, setting_of, settings
from vicuna_lit.config.base import Config
from vicuna_lit.run_folder import RunError
from vicuna_lit.whole_files import write, write_json

FILE, RECORD = "claim.yaml", "claim.json"
"""In a sweep's folder: what the user wrote, to the letter, and its sha256 with the time at which it was kept."""


class Claim(Config):
    """`claim.yaml`, as the user writes it."""

    metric: Literal["val_loss"]
    settings: Annotated[dict[str, Literal["better", "worse", "equal"]], Field(min_length=1)]
    """What each setting is, against the baseline."""
    baseline: str | None = None
    """None: the setting that the command names first."""
    margin: Annotated[float, Field(gt=0)] | None = None
    """Nats that make no difference."""


@dataclass(frozen=True)
class Kept:
    """A claim in a sweep's folder."""

    claim: Claim
    sha256: str
    date: str
    """When it was kept, before the first run: ISO 8601, UTC."""


def keep_claim(
    file: Path, folder: Path, jobs: Sequence[Mapping[str, str]], whole: bool = True, writes: bool = True
) -> None:
    """Reads a claim before a sweep starts, and keeps it in the sweep's folder.

    Args:
        jobs: what was chosen for each job of the sweep, or for the first of them.
        whole: these are all of its jobs; otherwise it may have settings that are not among them.
        writes: otherwise it is checked alone.

    Raises:
        RunError: in one line: the claim makes no sense for this sweep, or comes too late.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise RunError(f"claim={file}: {error.strerror or error}") from None
    _check(_parsed(content, file), jobs, file, whole)
    sha256, record = hashlib.sha256(content).hexdigest(), _record(folder)
    if record and record["sha256"] != sha256:
        raise RunError(f"claim={file}: {folder} keeps another one of {record['date']}; hydra.sweep.dir=<folder>")
    if record or not writes:
        return
    if any(folder.glob("*/config.json")):
        raise RunError(f"claim={file}: {folder} holds runs already, a claim comes first; hydra.sweep.dir=<folder>")
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / FILE, [content])
    write_json(folder / RECORD, {"sha256": sha256, "date": datetime.now(UTC).isoformat(timespec="seconds")})


def kept_claim(folder: Path) -> Kept | None:
    """The claim of a sweep; None where there was none.

    Raises:
        RunError: it is not what was kept before the sweep.
    """
    if (record := _record(folder)) is None:
        return None
    file = folder / FILE
    content = file.read_bytes() if file.is_file() else b""
    if hashlib.sha256(content).hexdigest() != record["sha256"]:
        raise RunError(f"{file}: is not what was kept before the sweep; without {RECORD} the sweep has no claim")
    return Kept(_parsed(content, file), **record)


def _record(folder: Path) -> dict[str, str] | None:
    file = folder / RECORD
    try:
        found = json.loads(file.read_bytes())
        return {"sha256": str(found["sha256"]), "date": str(found["date"])}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{file}: cannot be read: {error!r}") from None


def claimed(sweep: Sweep, margin: float | None, baseline: str | None) -> tuple[float | None, str | None]:
    """The margin and the baseline to compare with: those asked for, or else those of the claim.

    Raises:
        RunError: see `kept_claim`.
    """
    if (kept := kept_claim(sweep.folder)) is None:
        return margin, baseline
    return (kept.claim.margin if margin is None else margin), baseline or kept.claim.baseline


def claim_in_words(sweep: Sweep) -> list[str]:
    """What was claimed of each setting beside what came out, a line each; empty without a claim.

    Raises:
        RunError: see `kept_claim`.
    """
    if (kept := kept_claim(sweep.folder)) is None:
        return []
    claim, found = kept.claim, settings(sweep, baseline=kept.claim.baseline)
    others = [setting for setting in found if not setting.baseline]
    said = list(zip(others, conclude(found, claim.margin), strict=False))
    base = next((setting.label for setting in found if setting.baseline), "the baseline")
    lines = [f"Claimed before the sweep, {kept.date} (claim.yaml, sha256 {kept.sha256[:12]}):"]
    unfinished = _unfinished(sweep)
    first = dict(zip(sweep.keys_but(REPEATS), baseline_of(sweep, REPEATS, claim.baseline) or (), strict=False))
    without = next((f"the baseline {why}" for choices, why in unfinished if choices == first), "it was not compared")
    for name, direction in claim.settings.items():
        verdict = next((c.verdict for setting, c in said if is_named(setting.choices, name)), None)
        why = next((f"it {why}" for choices, why in unfinished if is_named(choices, name)), without)
        within = f" within {claim.margin:g}" if direction == "equal" else ""
        lines.append(f"  {name} is {_WORDS[direction]} {base}{within}: {_came_out(direction, verdict, why)}")
    open_ = [s.label for s, _ in said if not any(is_named(s.choices, name) for name in claim.settings)]
    return lines + ([f"  not claimed before: {'; '.join(open_)}."] if open_ else [])


_WORDS = {"better": "better than", "worse": "worse than", "equal": "equal to"}


def _came_out(direction: str, verdict: str | None, why: str) -> str:
    """
    Args:
        why: nothing came out, where nothing did.
    """
    if verdict == direction:
        return "it came out so."
    if verdict in _WORDS:
        return f"it came out {verdict}."
    if verdict == "unclear":
        return "the runs cannot tell."
    return "it was not compared." if verdict else f"{why}."


def _unfinished(sweep: Sweep) -> list[tuple[dict[str, str], str]]:
    """The settings of which no run has finished, and what became of them."""
    keys, of_setting = sweep.keys_but(REPEATS), dict[tuple[str, ...], list[Run]]()
    for run in sweep.runs:
        of_setting.setdefault(sweep.choices(run, keys), []).append(run)
    found = []
    for choices, runs in of_setting.items():
        if not any(run.status == "finished" for run in runs):
            steps = [run.result.get("steps") for run in runs if run.status == "stopped"]
            why = f"was stopped early, after step {steps[0]}" if steps else "has no finished run"
            found.append((dict(zip(keys, choices, strict=True)), why))
    return found


def _parsed(content: bytes, file: Path) -> Claim:
    try:
        values = yaml.safe_load(content)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RunError(f"{file}: is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise RunError(f"{file}: wants keys: metric, settings, baseline, margin")
    if isinstance(values.get("settings"), dict):  # YAML takes `512: better` for a number
        values["settings"] = {str(name): what for name, what in values["settings"].items()}
    if isinstance(values.get("baseline"), int | float):
        values["baseline"] = str(values["baseline"])
    try:
        claim = Claim.model_validate(values)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
        raise RunError(f"{file}: {'; '.join(problems)}") from None
    if claim.margin is None and "equal" in claim.settings.values():
        raise RunError(f"{file}: equal within which margin? margin: <nats>, such as 0.002")
    return claim


def _check(claim: Claim, jobs: Sequence[Mapping[str, str]], file: Path, whole: bool) -> None:
    """Whether each setting that the claim names is one of the sweep's, and not its baseline."""
    there: list[dict[str, str]] = []
    for job in jobs:
        choices = setting_of(job)
        there += [choices] if choices not in there else []
    said = "; ".join(map(named, there))
    if len(there) < 2:
        raise RunError(f"{file}: the sweep has one setting ({said or 'nothing is swept'}), so nothing is compared")
    places: list[int] = []
    for name in [*claim.settings, *([claim.baseline] if claim.baseline else [])]:
        found = [i for i, choices in enumerate(there) if is_named(choices, name)]
        if len(found) > 1 or (not found and whole):
            raise RunError(f"{file}: {name}: {len(found) or 'none'} of the sweep's settings; there are: {said}")
        places += found
    if len(set(places)) < len(places) or (claim.baseline is None and 0 in places):
        base = claim.baseline or f"{named(there[0])}, the first"
        raise RunError(f"{file}: a setting stands there twice, or is the baseline itself ({base})")
