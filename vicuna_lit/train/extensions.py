"""What a user adds to a run, by script or by name, and the part of it that a checkpoint keeps."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning as L
import orjson
import torch
import yaml
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, LearningRateMonitor, ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import Profiler, PyTorchProfiler, SimpleProfiler

from vicuna_lit.config.base import CONF_DIR
from vicuna_lit.config.callbacks import (
    OWN_CALLBACKS,
    CallbacksConfig,
    EarlyStoppingConfig,
    LRMonitorConfig,
    ProfilerConfig,
)
from vicuna_lit.config.compose import nearest
from vicuna_lit.config.train import TrainConfig
from vicuna_lit.records.conversation import Conversation, to_record
from vicuna_lit.run_folder import GIVEN, MODULE, MODULE_HASH, MODULE_VALUES, RunError
from vicuna_lit.train.module import SupervisedModule
from vicuna_lit.train.notes import SHIPPED
from vicuna_lit.train.own_code import described, values_of, written
from vicuna_lit.train.tracking.history_logger import HistoryLogger
from vicuna_lit.whole_files import write

NOTHING_HELD_OUT = "no conversation is held out: data.validation_path=<file>, or a larger data.validation_fraction"

OF_A_VALIDATION = ("val/loss", "val/loss_by_turn/1", "val/loss_by_position/0-127", "val/loss_by_source/<name>")
"""Figures of a validation, the first of each kind."""
FITS_OWN = {
    Checkpoint: "saves by itself, and keeps the best step: checkpoint.every_steps, validation.every_steps",
    ProgressBar: "shows its steps by itself",
}
"""Callbacks of Lightning's that `fit` has no place for."""


@dataclass(frozen=True)
class Extensions:
    """Callbacks, loggers and a module that a user's script gives to `fit`, and the callbacks that the config names.

    Raises:
        RunError: a callback or the module keeps a state that no checkpoint here holds: a run that goes on would begin
            it anew.
    """

    callbacks: tuple[L.Callback, ...] = ()
    loggers: tuple[Logger, ...] = ()
    module: type[SupervisedModule] = SupervisedModule
    named: tuple[L.Callback, ...] = ()
    """By the config; made by `and_configured`."""

    @classmethod
    def given(cls, callbacks: Any, loggers: Any, module: Any) -> "Extensions":
        """Of what a script gives, several or the one that `L.Trainer` would take as well.

        Raises:
            RunError: one is of another kind, or does what `fit` does itself.
        """
        callbacks, loggers = (tuple(one) if isinstance(one, Iterable) else (one,) for one in (callbacks, loggers))
        for what, kind, found in (("callbacks", L.Callback, callbacks), ("loggers", Logger, loggers)):
            for one in found:
                if isinstance(one, type):
                    raise RunError(f"fit({what}=…): {one.__name__} is a class; give an object of it, {one.__name__}(…)")
                if not isinstance(one, kind):
                    raise RunError(f"fit({what}=…): {one!r:.60} is none of Lightning's {what}")
        if not (isinstance(module, type) and issubclass(module, SupervisedModule)):
            raise RunError(f"fit(module=…): a subclass of vl.SupervisedModule is wanted, and {module!r:.60} is none")
        for kind, how in FITS_OWN.items():
            if same := [type(one).__name__ for one in callbacks if isinstance(one, kind)]:
                raise RunError(f"fit(callbacks=…): leave {same[0]} out; fit {how}")
        return cls(callbacks, loggers, module)

    def __post_init__(self) -> None:
        ours = (L.Callback.on_save_checkpoint, SupervisedModule.on_save_checkpoint)
        for kind in (*map(type, self.callbacks), self.module):
            if kind.on_save_checkpoint not in ours:
                raise RunError(
                    f"{kind.__name__} keeps its state in Lightning's own checkpoints (on_save_checkpoint), which fit "
                    "does not write: return it from a callback's state_dict(), or train with an own L.Trainer "
                    "(docs/python.md)"
                )

    @property
    def all_callbacks(self) -> tuple[L.Callback, ...]:
        """The script's and the config's."""
        return (*self.callbacks, *self.named)

    @property
    def for_trainer(self) -> tuple[L.Callback, ...]:
        """All callbacks, and before them what looks whether their figures are logged."""
        return (MonitorsAreThere(self.all_callbacks), *self.all_callbacks)

    def and_configured(self, config: CallbacksConfig) -> "Extensions":
        """With the callbacks that the config names; an own one of the same kind counts in its place."""
        named: list[L.Callback] = []
        for name in type(config).model_fields:
            match getattr(config, name):
                case EarlyStoppingConfig() as settings:
                    named.append(EarlyStopping(**settings.model_dump()))
                case LRMonitorConfig() as settings:
                    named.append(LearningRateMonitor("step", **settings.model_dump()))
                case ProfilerConfig() | None:
                    pass  # `profiler_of` makes the profiler
                case other:
                    raise TypeError(
                        f"callbacks={name}: Extensions.and_configured has no case for {type(other).__name__}"
                    )
        kinds = {type(callback) for callback in self.callbacks}
        return replace(self, named=tuple(one for one in named if type(one) not in kinds))

    @property
    def described(self) -> str:
        """In words, for the screen and the report; empty where nothing is added."""
        values = ", ".join(f"{name} {text}" for name, text in self.identity.get(MODULE_VALUES, {}).items())
        own = f"{_name(self.module)}{f' ({values})' if values else ''}"
        parts = {
            "module": [own] if self.module is not SupervisedModule else [],
            "callbacks": [type(one).__name__ for one in self.all_callbacks],
            "loggers": [type(one).__name__ for one in self.loggers],
        }
        return "; ".join(f"{what} {', '.join(names)}" for what, names in parts.items() if names)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Of what changes the result and stands in no key of the config, for `config.json`.

        That is a module that is not ours (its name, a hash of what is written in it and of the values that it reads
        around it, see `own_code.written`, and these values to be read), and a script's `EarlyStopping`. A script's
        callbacks may change the result, or look on alone: other ones are said, and not refused.

        Raises:
            RunError: a module's source cannot be read, as that of a class from Python's prompt (a notebook's can).
        """
        return self._stopping() | self._module() | self._callbacks()

    def _callbacks(self) -> dict[str, Any]:
        return {OWN_CALLBACKS: [described(one) for one in self.callbacks]} if self.callbacks else {}

    def _stopping(self) -> dict[str, Any]:
        what = ("monitor", "patience", "min_delta", "mode", "stopping_threshold", "divergence_threshold")
        own = [one for one in self.callbacks if isinstance(one, EarlyStopping)]
        values = [{key: getattr(one, key) for key in what} | {"min_delta": abs(one.min_delta)} for one in own]
        return {"early_stopping": values} if own else {}

    def _module(self) -> dict[str, Any]:
        if self.module is SupervisedModule:
            return {}
        own = self.module.__mro__[: self.module.__mro__.index(SupervisedModule)]
        try:
            source = written(*own)
        except (OSError, TypeError, SyntaxError) as error:
            raise RunError(
                f"fit(module={_name(self.module)}): its source cannot be read ({error}), as of a class that was typed "
                "at Python's prompt. It is a part of what the run is, so that no other loss passes for this one: put "
                "the class into a file or a notebook"
            ) from None
        name = f"{self.module.__module__}.{self.module.__qualname__}"
        digest = hashlib.sha256(source.encode()).hexdigest()
        values = {MODULE_VALUES: found} if (found := values_of(*own)) else {}
        return {MODULE: name, MODULE_HASH: digest} | values

    def open_loggers(self) -> None:
        """Lets the script's loggers begin what they write to. A `WandbLogger` that begins later would be given the W&B
        run that is open then, which is the run's own."""
        for logger in self.loggers:
            getattr(logger, "experiment", None)

    def refuse_other_processes(self, devices: int) -> None:
        """
        Raises:
            RunError: a script has given something that cannot be sent to processes which `fit` starts.
        """
        if replace(self, named=()) != Extensions():
            raise RunError(
                f"own callbacks, loggers and modules cannot be sent to processes that this one starts: run the script "
                f"by `torchrun --nproc-per-node {devices}`, then each process runs it"
            )

    def refuse_unknown_monitors(self) -> None:
        """Before anything is loaded: a Lightning callback that waits for a figure which the run has not, and which no
        code of the user's may log.

        Raises:
            RunError: with the names that there are.
        """
        ours = all(type(one).__module__.startswith("lightning.") for one in self.all_callbacks)
        if self.module is not SupervisedModule or not ours:
            return
        for one in self.all_callbacks:
            monitor = getattr(one, "monitor", None)
            if isinstance(monitor, str) and not HistoryLogger.OF_VALIDATION.match(monitor):
                raise _waits_for_nothing(one, OF_A_VALIDATION)

    def check_early_stopping(self, every_steps: int | str | None, conversations: int) -> None:
        """Without validations an `EarlyStopping` would never end the run.

        Args:
            every_steps: `validation.every_steps`.
            conversations: that are held out.

        Raises:
            RunError: it says what to set.
        """
        stopping = [one for one in self.all_callbacks if isinstance(one, EarlyStopping)]
        if not any(not one._check_on_train_epoch_end for one in stopping):
            return
        if every_steps is None:
            raise RunError("EarlyStopping looks at each validation: validation.every_steps=<steps>")
        if not conversations:
            raise RunError(f"EarlyStopping looks at each validation, and {NOTHING_HELD_OUT}")

    def reason_of_end(self) -> str:
        """Of a run that ended before its last planned step."""
        said = [one.stopping_reason_message for one in self.all_callbacks if isinstance(one, EarlyStopping)]
        told = [text.removesuffix(" Signaling Trainer to stop.") for text in said if text]
        return f"EarlyStopping: {told[0]}" if told else "a callback asked for it"

    def state(self) -> dict[str, Any]:
        """Of the callbacks, as JSON values."""
        states = {callback.state_key: callback.state_dict() for callback in self.all_callbacks}
        return {key: {"of": _as_json(state)} for key, state in states.items() if state}

    def restore(self, states: dict[str, Any]) -> None:
        """Gives the callbacks their state back."""
        for callback in self.all_callbacks:
            if callback.state_key in states:
                callback.load_state_dict(_as_torch(states[callback.state_key]["of"]))


class MonitorsAreThere(L.Callback):
    """Looks before an `EarlyStopping` does, at the first validation, whether its figure has been logged: by whom it may
    be, where there is code of the user's, is not known before.

    Args:
        callbacks: that it stands before.
    """

    def __init__(self, callbacks: Iterable[L.Callback]):
        self.waiting = [one for one in callbacks if isinstance(one, EarlyStopping) and one.strict]

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """
        Raises:
            RunError: with the names that there are.
        """
        for one in self.waiting:
            if one.monitor not in trainer.callback_metrics and not one._check_on_train_epoch_end:
                raise _waits_for_nothing(one, list(trainer.callback_metrics))


def _waits_for_nothing(callback: Any, names: Sequence[str]) -> RunError:
    what = f"{type(callback).__name__}(monitor={callback.monitor!r})"
    said = f"no validation has a figure of this name{nearest(callback.monitor, names)}; there are {', '.join(names)}"
    return RunError(f"{what}: {said}; an own module or callback adds others, by self.log in on_validation_epoch_end")


def _name(kind: type) -> str:
    """As the user has written it, without the function around it."""
    return kind.__qualname__.rpartition("<locals>.")[2]


def with_data(config: TrainConfig, data: Any) -> TrainConfig:
    """The config with conversations of a script as its data: they are kept in the run's folder, named by their hash.

    Other conversations are thus another run, and a run that was stopped goes on with these. The quickstart's held-out
    conversations say nothing of them: in their place a share of these is held out, as of a file.

    Args:
        data: conversations, or records in any form that `vicuna_lit.read` takes from a file.

    Raises:
        RunError: it is no list of records, a record is no JSON value, or the folder cannot be written.
    """
    table = hasattr(data, "columns") and not hasattr(data, "column_names")  # a set of `datasets` gives its rows
    if isinstance(data, str | bytes | Path | Mapping) or table:
        raise RunError(f"fit(data=…): a {type(data).__name__} is no list of conversations; {_ways(data)}")
    try:
        lines = [_line(number, one) for number, one in enumerate(data, 1)]
    except TypeError as error:
        raise RunError(f"fit(data=…): a record cannot be kept as JSON: {error}") from None
    if not lines:
        raise RunError("fit(data=…): there is no conversation in it")
    digest = hashlib.sha256(b"".join(lines)).hexdigest()[:16]
    path = Path(config.run.dir) / GIVEN / f"{digest}.jsonl"  # hidden: a folder with other files is no run's
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write(path, lines)
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error}; run.dir=<another folder>") from None
    given = config.data.model_copy(update={"path": str(path), "sources": ()})
    if (config.data.validation_path or "").startswith(SHIPPED):
        usual = yaml.safe_load((CONF_DIR / "data" / "files.yaml").read_bytes())["validation_fraction"]
        share = config.data.validation_fraction or usual
        given = given.model_copy(update={"validation_path": None, "validation_fraction": share})
    return config.model_copy(update={"data": given})


def _ways(data: Any) -> str:
    """How what is given in place of a list of records becomes one, or is read from where it lies."""
    if isinstance(data, str | bytes | Path):
        return "a file is named in the config: data.path"
    if isinstance(data, Mapping):
        return f"data=[…] with it inside, or one of its values: {', '.join(map(repr, data)):.80}"
    rows = "to_dicts()" if hasattr(data, "to_dicts") else "to_dict('records')"
    return f"its rows are: data=<it>.{rows}"


def _line(number: int, one: Any) -> bytes:
    if isinstance(one, Conversation):
        one = to_record(one)
    if not isinstance(one, dict) and not (isinstance(one, list) and one and all(isinstance(t, dict) for t in one)):
        kind = type(one).__name__
        raise RunError(f"fit(data=…): record {number} is a {kind}, neither a Conversation nor a dict: {one!r:.60}")
    return orjson.dumps(one, default=_plain) + b"\n"


def _plain(value: Any) -> Any:
    """NumPy's arrays and numbers, which rows of Parquet files hold, as Python's."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"Type is not JSON serializable: {type(value).__name__}")


def profiler_of(config: CallbacksConfig, folder: Path) -> Profiler | None:
    """Of the trainer; it writes `fit-profile.txt` to the folder, for the whole run or some of its steps."""
    if config.profiler is None:
        return None
    if config.profiler.kind == "simple":
        return SimpleProfiler(folder, "profile")
    return PyTorchProfiler(folder, "profile")


def _as_json(value: Any) -> Any:
    """With tensors as dicts of their numbers.

    Raises:
        RunError: a callback's state holds something that JSON cannot.
    """
    match value:
        case torch.Tensor():
            return {"tensor": value.tolist(), "dtype": str(value.dtype).removeprefix("torch.")}
        case dict():
            return {str(key): _as_json(item) for key, item in value.items()}
        case list() | tuple():
            return [_as_json(item) for item in value]
        case None | bool() | int() | float() | str():
            return value
        case _:
            kind = type(value).__name__
            raise RunError(f"a callback's state holds a {kind}, which a checkpoint cannot: {value!r:.60}")


def _as_torch(value: Any) -> Any:
    match value:
        case {"tensor": numbers, "dtype": dtype}:
            return torch.tensor(numbers, dtype=getattr(torch, dtype))
        case dict():
            return {key: _as_torch(item) for key, item in value.items()}
        case list():
            return [_as_torch(item) for item in value]
        case _:
            return value
