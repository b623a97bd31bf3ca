"""A run in W&B that costs the job nothing but itself.

Whatever W&B, its own process, the network or the disk below it do, the job goes on: what fails is said once, counted,
and named at the end. W&B is imported where it is used: a job with `wandb.mode=disabled` does without it.
"""

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from vicuna_lit.config.base import PACKAGE, RunConfig
from vicuna_lit.config.tracking import WandbConfig
from vicuna_lit.run_folder import wandb_name
from vicuna_lit.tracking.about import git_diff
from vicuna_lit.tracking.server import one_line, refused, unheard
from vicuna_lit.tracking.watch import WATCH, end_process

INIT_SECONDS, FINISH_SECONDS = 30.0, 120.0
"""That an online run has to begin, and to upload what is left at its end; `wandb.settings` may say others."""
GONE = ("HandleAbandonedError", "MailboxClosedError")
"""Of W&B: its service process does not answer any more."""
T = TypeVar("T")
Say = Callable[[str], None]


class Session:
    """What a job has of its W&B run. No method raises, and what is called first is done first.

    Args:
        run: of W&B; None: it could not be opened.
        say: prints a line.
        data: the folder into which W&B copies files that it will upload.
    """

    def __init__(self, run: Any, say: Say, data: Path):
        self.run, self._say, self._data = run, say, data
        self.failed = 0
        """Calls that W&B did not take."""
        self.samples = "text"
        """What goes there of conversations: `wandb.samples`."""
        self._said: set[str] = set()
        self._thread: ThreadPoolExecutor | None = None
        self._soon: Future[None] | None = None
        """The last of what that thread has to do."""

    @property
    def id(self) -> str | None:
        """W&B's."""
        return run.id if (run := self.run) else None

    @property
    def online(self) -> bool:
        """Whether it is uploaded as it goes."""
        return (run := self.run) is not None and run.settings.mode == "online"

    @property
    def url(self) -> str | None:
        """Its page; None where it has none (yet)."""
        return run.url if (run := self.run) is not None and self.online else None

    @property
    def folder(self) -> Path | None:
        """What `wandb sync` takes."""
        return Path(run.settings.sync_dir) if (run := self.run) else None

    def do(self, what: str, act: Callable[[Any], T], may_last: bool = True) -> T | None:
        """Calls `act(run)`; None where W&B did not take it.

        Args:
            may_last: not a matter of moments.
        """
        self._wait()
        with own_environment(self._data):
            return self._try(what, act, may_last)

    def _wait(self) -> None:
        """For the rows that are on their way."""
        if self._soon is not None:
            self._soon.result()
            self._soon = None

    def _try(self, what: str, act: Callable[[Any], T], may_last: bool) -> T | None:
        if self.run is None:
            self.failed += 1
            return None
        try:
            with WATCH.over(may_last):
                return act(self.run)
        except Exception as error:
            self._fail(what, error)
            return None

    def log(self, row: dict[str, Any], step: int | None = None, commit: bool | None = None) -> None:
        """Writes a row of the history."""
        self.do("a row of its history", lambda run: run.log(row, step=step, commit=commit), may_last=False)

    def log_soon(self, row: dict[str, int | float], step: int) -> None:
        """Writes a row of the history from a thread of its own, since W&B's client makes its caller wait.

        Args:
            row: numbers alone: for tables and files the environment is changed, which all threads share.
        """

        def write(run: Any) -> None:
            run.log(row, step=step, commit=True)

        self._thread = self._thread or ThreadPoolExecutor(1, "rows for W&B")
        self._soon = self._thread.submit(self._try, "a row of its history", write, False)

    def summarize(self, figures: dict[str, Any]) -> None:
        """Writes into the run's summary."""
        self.do("its summary", lambda run: run.summary.update(figures), may_last=False)

    def alert(self, title: str, text: str) -> None:
        """Sends a message to whom W&B knows."""
        self.do("an alert", lambda run: run.alert(title, text, level="ERROR"), may_last=False)

    def finish(self, exit_code: int = 0) -> None:
        """Ends the run, and says what W&B has not taken."""
        folder = self.folder
        self._wait()
        before = self.failed
        if self.run is not None:
            self.do("its end", lambda run: run.finish(exit_code=exit_code))
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None
        if folder and self.failed == before and (why := refused(folder)):
            self.failed += 1
            self._say(f"W&B's server has refused what came after: {why}")
        if self.failed:
            upload = f"; `wandb sync {folder}` uploads what it has" if folder and folder.is_dir() else ""
            self._say(f"W&B missed {self.failed} of the run's calls; the run's folder holds it all{upload}")

    def _fail(self, what: str, error: Exception) -> None:
        self.failed += 1
        is_gone = isinstance(error, ConnectionError) or type(error).__name__ in GONE
        if what not in self._said:
            self._said.add(what)
            because = (is_gone and WATCH.reason()) or one_line(error)
            self._say(f"W&B did not take {what}: {because}; the run goes on")
        if is_gone:
            self.run = None
            end_process(kill=False)  # else its hook at the interpreter's end would fail, with a traceback


@contextmanager
def own_environment(data: Path) -> Iterator[None]:
    """Inside the block W&B stages artifacts in `data`, unless WANDB_DATA_DIR says where, and suggests no product."""
    ours = {"WANDB_DATA_DIR": str(data), "WANDB_DISABLE_WEAVE": "true"}
    added = {key: value for key, value in ours.items() if key not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for key in added:
            os.environ.pop(key, None)


def open_session(
    config: WandbConfig, named: RunConfig, folder: Path, identity: str, values: dict[str, Any], say: Say
) -> Session | None:
    """Opens a job's run, online where it is asked for and can be, else offline; None with `wandb.mode=disabled`.

    A run of the user's that is open in this process stays open, and is not written to.

    Args:
        folder: the job's; W&B's files go there unless `wandb.dir` says where.
        identity: W&B's id of the run; all starts of a job have the same.
        values: the run's config, nested.
    """
    if config.mode == "disabled":
        return None
    place = (Path(config.dir) if config.dir else folder).absolute()
    place.mkdir(parents=True, exist_ok=True)
    data, problem, run = place / "wandb" / "data", None, None
    arguments = {
        **{key: getattr(config, key) for key in ("project", "entity", "group", "job_type", "tags", "notes")},
        **dict(name=run_name(config, named), id=identity, dir=str(place), config=values),
    }
    with own_environment(data), WATCH.over():
        if config.mode == "online" and (problem := unheard()) is None:
            run, problem = _begin("online", config, arguments, place)
        offline_because = problem
        if run is None:
            run, problem = _begin("offline", config, arguments, place)
    session = Session(run, say, data)
    session.samples = config.samples
    WATCH.to_the_end()
    if run is None:
        say(f"W&B does not start: {offline_because or problem}; the run goes on without it")
    elif offline_because:
        say(f"W&B: {offline_because}; the run goes on offline: `wandb sync {session.folder}` uploads it later")
    elif session.online:
        say(f"W&B: {session.url}\n  there go {what_leaves(config)}")
    session.do("its config", lambda run: run.config.update(values, allow_val_change=True))
    if not config.settings.get("disable_git") and (diff := git_diff()):
        session.do("the code's diff", lambda run: _save_diff(run, diff))
    return session


def _save_diff(run: Any, diff: bytes) -> None:
    """Under W&B's own name for it: its own reader of git knows no worktrees, and asks for `save_code`."""
    file = Path(run.dir) / "diff.patch"
    file.write_bytes(diff)
    run.save(str(file), base_path=run.dir, policy="now")


def run_name(config: WandbConfig, named: RunConfig) -> str:
    """A job of a sweep keeps what tells it from the others, and from jobs of other sweeps over the same keys."""
    sweep = config.name or config.group if named.swept else None
    return wandb_name(f"{sweep}: {named.name}" if sweep else config.name or named.name)


def what_leaves(config: WandbConfig) -> str:
    """What an online run sends, in words."""
    texts = {
        "text": "sample conversations and replies (wandb.samples=ids or none keeps them here)",
        "ids": "ids of conversations, without their texts",
        "none": "no conversations",
    }[config.samples]
    printed = ", what is printed" if config.console != "off" else ""
    weights = ", the weights" if getattr(config, "log_model", None) == "upload" else ""
    code = "" if config.settings.get("disable_git") else ", the commit and its diff"
    return f"settings, figures, paths, host name, use of the machine{code}{printed}{weights}; {texts}"


def _begin(mode: Any, config: WandbConfig, arguments: dict[str, Any], place: Path) -> tuple[Any, str | None]:
    """A run of W&B, or why there is none; nothing of one that failed stays."""
    import wandb

    ours = {"silent": True, "console": config.console, "git_root": str(PACKAGE.parent)}
    if mode == "online":
        ours |= {"init_timeout": INIT_SECONDS, "finish_timeout": FINISH_SECONDS, "finish_timeout_raises": True}
        if getattr(config, "log_model", None) == "upload":
            del ours["finish_timeout"]  # weights take as long as they take
    before = set(place.glob("wandb/*run-*"))
    try:
        settings = wandb.Settings(**ours | config.settings)
        run = wandb.init(mode=mode, resume="allow", reinit="create_new", settings=settings, **arguments)
        for handler in logging.getLogger("wandb").handlers:  # else a full disk is a traceback for each line of its log
            handler.handleError = lambda record: None
        return run, None
    except Exception as error:
        gone = _end_service(arguments["id"])
        for left in set(place.glob("wandb/*run-*")) - before:
            shutil.rmtree(left, ignore_errors=True)
        return None, one_line(error) + ("" if gone else "; another run is open in this process")


def _end_service(identity: str) -> bool:
    """Ends W&B's process where no run of the user's needs it: it holds the id of a run that failed to begin, would
    refuse the next one of that id, and would go on asking the server at the end of this process."""
    with suppress(Exception):
        from wandb.sdk import wandb_setup

        known: Any = wandb_setup.singleton()
        if any(run.id != identity for run in known._active_runs):
            return False
    end_process(kill=True)
    return True
