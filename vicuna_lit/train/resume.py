"""Whether a run may begin or go on in its folder: the settings and files that it has there, or a finished run.

`changed_settings` compares `config.json` there with the config: a difference in a key of `Recipe` is refused, one in
`MAY_CHANGE` is a line. `check_resume` asks the same of the files' hashes. `already_done` asks both of a finished run.
Once the data are read, `RunRecord` also asks whether the tokens and their plan are those of the checkpoint (`_check`).
"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from transformers import PreTrainedModel

from vicuna_lit.config.base import other_keys
from vicuna_lit.config.callbacks import OWN_CALLBACKS
from vicuna_lit.config.train import Computation, Recipe, TrainConfig
from vicuna_lit.data.source import Sources
from vicuna_lit.data.template_date import fixed_date
from vicuna_lit.file_hashes import Hashes, hashes_of, model_files, refuse_other_files
from vicuna_lit.models.export import STATE_BYTES, export_dtype, exported_bytes
from vicuna_lit.paths import nearest_beside
from vicuna_lit.run_folder import (
    CONFIG,
    MEND,
    PLACE,
    RUN,
    RunError,
    check_can_be_made,
    check_disk,
    check_replaceable,
    copy_note,
    lives_elsewhere,
    new_wandb_id,
    read_json,
    refuse_other_settings,
    write_hydra_files,
)
from vicuna_lit.train import starts
from vicuna_lit.train.checkpoint import format as checkpoint_files
from vicuna_lit.train.console import console
from vicuna_lit.train.result import Result, result_in
from vicuna_lit.whole_files import write_json

MAY_CHANGE = (*other_keys(TrainConfig, Recipe), OWN_CALLBACKS)
"""Between two starts of one run."""
NOTHING: Mapping[str, Any] = MappingProxyType({})


def settings(config: TrainConfig, extensions: Mapping[str, Any]) -> dict[str, Any]:
    """`config.json`: every value, and what a script adds that changes the result (`Extensions.identity`)."""
    return config.model_dump(mode="json") | dict(extensions)


def changed_settings(config: TrainConfig, folder: Path, extensions: Mapping[str, Any] = NOTHING) -> list[str]:
    """What differs from the settings of the run that goes on here, a line each.

    Raises:
        RunError: something differs that changes what is computed.
    """
    saved = read_json(folder, "config.json") or {}
    ways = ", or start this one anew with resume=never"
    return refuse_other_settings(folder, saved, settings(as_begun(config, folder), extensions), MAY_CHANGE, ways)


def check_resume(config: TrainConfig, folder: Path, hashes: Hashes, extensions: Mapping[str, Any]) -> None:
    """
    Args:
        hashes: what the run would read now, see `input_hashes`.

    Raises:
        RunError: a key of the recipe or the content of a file is not that of the run in the folder.
    """
    changed_settings(config, folder, extensions)
    if not (folder / RUN).exists():  # the tokens are compared with the checkpoint's fingerprint nevertheless
        console.print(f"[yellow]{RUN} has gone: whether the run's files are the same is not known[/]", highlight=False)
    anew = "run.dir=<another folder>, or resume=never starts anew"
    refuse_other_files(folder, hashes_at_start(folder), hashes, anew)


def already_done(config: TrainConfig, folder: Path, extensions: Mapping[str, Any] = NOTHING) -> Result | None:
    """The result in the folder, if it is of this very run, settings and files; the layout may be another.

    Raises:
        RunError: the folder holds another config's run, or the files that it read have changed; each is named.
        DataError, MissingPath: the result is there, and what it was computed from has gone.
    """
    if not _holds_a_result(folder):
        return None
    saved, wanted = read_json(folder, "config.json") or {}, settings(as_begun(config, folder), extensions)
    trainer = saved.get("trainer") or {}
    longer = any(trainer.get(key) != getattr(config.trainer, key) for key in ("max_steps", "epochs"))
    ways = f"; extends={folder} trains a finished run on, in a folder of its own" if longer else ""
    refuse_other_settings(folder, saved, wanted, MAY_CHANGE, ways)
    done = result_in(folder, "finished", "stopped")
    if done is None or (done.status == "stopped" and done.stop_after != config.stop_after):
        return None
    other = "run.dir=<another folder> trains on them as they are now"
    known = hashes_at_start(folder)
    if known is None and RUN in done.identity:
        raise RunError(f"{folder / RUN}: has gone, which says what the run read; {MEND}")
    refuse_other_files(folder, known, input_hashes(config), other)
    return done


def refused_in(folder: Path, config: TrainConfig, extensions: Mapping[str, Any] = NOTHING) -> str:
    """Why a run that is planned could not be kept in its folder; empty where it can, or goes on there."""
    try:
        check_can_be_made(folder)
        saved = read_json(folder, CONFIG) or {}
        if _holds_a_result(folder):
            refuse_other_settings(folder, saved, settings(as_begun(config, folder), extensions), MAY_CHANGE)
        elif config.resume != "never" and checkpoint_files.find(folder / "checkpoints").complete:
            changed_settings(config, folder, extensions)
    except RunError as error:
        return str(error)
    return ""


def other_callbacks(config: TrainConfig, folder: Path, extensions: Mapping[str, Any], done: Result) -> list[str]:
    """What to say where a result was found that was computed with other callbacks of a script than it has now."""
    changed = changed_settings(config, folder, extensions) if done.identity else []  # else it is not known
    return [line for line in changed if line.startswith(OWN_CALLBACKS)]


def _holds_a_result(folder: Path) -> bool:
    """Of whatever run; one that cannot be read may be another run's, too, and counts."""
    if read_json(folder, "config.json") is None:
        return False
    with suppress(RunError):
        return (read_json(folder, "result.json") or {}).get("status") in ("finished", "stopped")
    return True


def input_hashes(config: Computation) -> Hashes:
    """The sha256 of conversations, validation conversations, weights, tokenizer and template, as they are now.

    They decide a run besides its settings. The losses of the run that it extends stand for that one's weights.

    Raises:
        DataError, MissingPath: a path leads nowhere.
    """
    files = Sources(config).files_as_given
    for path in (config.model.path, config.model.tokenizer):
        files |= model_files(path) if path else {}
    return hashes_of(files | losses_of(config.extends))


def losses_of(extended: str | None) -> dict[str, Path]:
    """`metrics.csv` of a run that is extended, by its name among the files of the run that extends it."""
    return {f"{extended}/metrics.csv": Path(extended) / "metrics.csv"} if extended else {}


def hashes_at_start(folder: Path) -> Hashes | None:
    """What the run in a folder read when it began; None: it was begun by a version that did not write it down."""
    return (read_json(folder, "run.json") or {}).get("files")


def as_begun(config: TrainConfig, folder: Path) -> TrainConfig:
    """With what the run's first start decides: the date that its template writes, and its place in the order.

    Raises:
        RunError: the run that it extends is not there, or has not finished.
    """
    dated = config.template.kind != "text" or config.template.date is not None
    follows = config.extends is not None and config.taken_before is None
    saved = read_json(folder, "config.json") if dated or follows else None
    update: dict[str, Any] = {}
    if dated:
        own = [config.tokenizer_path] if config.template.kind == "tokenizer" else None
        update["template_date"] = fixed_date(config.template_date, saved, own)
    if config.extends is not None and config.taken_before is None:
        known = saved.get("taken_before") if saved and saved.get("extends") == config.extends else None
        update["taken_before"] = taken_by(config.extends) if known is None else known
    return config.model_copy(update=update) if update else config


def taken_by(extended: str) -> int:
    """Examples or conversations that a finished run and those before it have taken of the order.

    Raises:
        RunError: there is no such run, or it has not finished.
    """
    saved, done = finished_run(extended)
    # An earlier version did not write it down. Then the rest of a last step that was not full is left out.
    return done.taken or (saved.get("taken_before") or 0) + done.steps * saved["conversations_per_step"]


def finished_run(extended: str) -> tuple[dict[str, Any], Result]:
    """The config and the result of a run that another one extends.

    Raises:
        RunError: there is no such run, or it has not finished.
    """
    folder = Path(extended)
    saved = read_json(folder, "config.json")
    if saved is None:
        there = "holds no run (config.json)" if folder.is_dir() else f"no such folder{nearest_beside(folder)}"
        raise RunError(f"extends={extended}: {there}")
    if (done := result_in(folder)) is None:
        raise RunError(f"extends={extended}: this run has not finished; its own command goes on with it")
    return saved, done


def open_folder(
    config: TrainConfig,
    folder: Path,
    model: PreTrainedModel,
    read: Mapping[str, Any],
    known: str | None,
    extensions: Mapping[str, Any] = NOTHING,
) -> str:
    """Checks that the results will fit, and writes the resolved config; returns the run's W&B id.

    All starts of one run have the same id. Where the folder holds traces of another run (one that did not finish
    and left no checkpoint, or one that `resume=never` gives up), they are removed: they would be taken for a part
    of this one.

    Args:
        read: what names that which the run reads: `files` (the sha256 of each) and `fingerprint` (of the tokens).
        known: the id in the checkpoint that the run goes on from.
        extensions: `Extensions.identity`.
    """
    need = exported_bytes(model, export_dtype(config)) * 1.1 + 10e6
    for name in ("hf", "adapter"):
        check_replaceable(folder / name)
    for place in (folder, folder / "hf"):  # which may be a link to another disk
        check_disk(place, need, "the model")
    folder.mkdir(parents=True, exist_ok=True)
    saved = read_json(folder, RUN) or {}
    if known is None and config.resume != "never" and read.items() <= saved.items():
        with suppress(RunError):
            changed_settings(config, folder, extensions)
            known = saved.get("wandb_id")
    if copied := known is not None and lives_elsewhere(folder):
        console.print(copy_note(folder), markup=False, highlight=False)
    # A checkpoint may be older than the id: that of a copy is still the other run's.
    identity = new_wandb_id(folder, None if copied or known is None else saved.get("wandb_id", known))
    if known is None:
        checkpoint_files.remove_all(folder / "checkpoints")
        (folder / "times.csv").unlink(missing_ok=True)
        starts.forget(folder)
    for name in ("result.json", "validation.csv"):
        (folder / name).unlink(missing_ok=True)
    write_hydra_files(folder)
    write_json(folder / "config.json", settings(config, extensions), durable=True)
    write_json(folder / RUN, {"wandb_id": identity, PLACE: str(folder.resolve()), **read}, durable=True)
    return identity


def lacks_room(config: TrainConfig, folder: Path, model: PreTrainedModel) -> str | None:
    """What to print where the checkpoints will not fit; a save that fails does not end a run."""
    if not (config.checkpoint.every_steps or config.checkpoint.every_minutes):
        return None
    count = config.checkpoint.keep + 1
    try:
        need = count * STATE_BYTES * model.num_parameters(only_trainable=True)
        check_disk(
            folder / "checkpoints", need, f"{count} checkpoints (checkpoint.keep={count - 1}, one being written)"
        )
    except RunError as error:
        return str(error)
    return None
