"""Commands in processes of their own, forked from one that has imported what they need.

To import torch, lightning and transformers takes a process eight seconds, and a short command two. So one server a test
session imports them, and forks a process for each command: it has its own pid, environment, folder and output, runs
`python -m <module>`, and ends as an interpreter ends. What a test says about the start of a process (what is imported
when, signals before that, variables that libraries read when they are imported) needs a real one: `run(…, fresh=True)`.

The processes that a command starts itself are interpreters, unless the test says otherwise: `workers=True`, or
`python()` in the place of an interpreter. Those are forked too.
"""

import gc
import json
import os
import runpy
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import suppress
from fcntl import LOCK_EX, flock
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.helpers.forked_python import ask

IMPORTED = (
    "torch", "lightning", "transformers", "transformers.models.llama.modeling_llama", "openai", "matplotlib.pyplot",
    "tests.helpers.runs", "vicuna_lit.train.run", "vicuna_lit.train.run_record", "vicuna_lit.evaluate.run",
    "vicuna_lit.prepare.run", "vicuna_lit.compare.report", "vicuna_lit.cli.app",
)  # fmt: skip
FOLDER = "VICUNA_LIT_TESTS"
"""The variable with the session's folder: `<pid of the session>-…`; pytest's workers have it from their controller."""
READ_WHEN_IMPORTED = ("HF_HOME", "HF_HUB_", "LD_", "MKL_", "PYTHON", "TORCH_", "TRANSFORMERS_")
"""Variables that must be those of the server: a command that begins with another value refuses to run."""
READ_LATER = {"PYTHONPATH", "PYTHONUNBUFFERED", "TORCH_NCCL_ASYNC_ERROR_HANDLING"}
"""Or do not matter to a fork."""
ROOT = Path(__file__).parents[2]
Asked = dict[str, Any]
"""`module` or `script`, `arguments`, `env`, `cwd`, and `python`: what it takes for its interpreter, or None."""


class Command:
    """A started command, as `subprocess.Popen` has it; its output goes to files, so nobody must read while it runs."""

    def __init__(self, pid: int, connection: socket.socket, arguments: list[str], out: Path, err: Path) -> None:
        self.pid, self.args, self.returncode = pid, arguments, None
        self._connection, self._out, self._err = connection, out, err

    def poll(self) -> int | None:
        """Its exit code, or None while it runs."""
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code; `subprocess.TimeoutExpired` if it does not end in time."""
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it printed to both streams, once it has ended."""
        self.wait(timeout)
        return self.said()

    def said(self) -> tuple[str, str]:
        """What it has printed by now."""
        return self._out.read_text(errors="replace"), self._err.read_text(errors="replace")

    def send_signal(self, number: int) -> None:
        """Nothing if it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._connection], [], [], timeout)[0]:
            code = self._connection.recv(16)
            assert code, "the server of commands has gone"
            self.returncode = int(code)
            self._connection.close()
        return self.returncode


def start(module: str, *arguments: str, env: dict[str, str] | None = None, cwd: Path | None = None,
          together: bool = False, workers: bool = False) -> Command:  # fmt: skip
    """Starts `python -m <module> <arguments>`.

    Args:
        env: its whole environment; None is this process's.
        together: its errors go where its output goes.
        workers: the processes that it starts are forked as well; see `python`.
    """
    environment = dict(os.environ if env is None else env)
    connection = _server()
    out = Path(os.environ[FOLDER], f"{uuid.uuid4()}.out")
    err = out if together else out.with_suffix(".err")
    asked = dict(module=module, arguments=arguments, env=environment, cwd=str(cwd or Path.cwd()))
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    streams = [os.open(os.devnull, os.O_RDONLY), *(os.open(file, flags, 0o600) for file in (out, err))]
    pid = ask(connection, asked | dict(python=python() if workers else None), streams)
    for stream in streams:
        os.close(stream)
    return Command(pid, connection, [module, *arguments], out, err)


def python() -> str:
    """What stands for an interpreter, with the server running: `forked_python.py` forks what it is asked to run."""
    _server().close()
    return str(Path(os.environ[FOLDER], "bin", "python"))


def path() -> dict[str, str]:
    """The variable by which a shell script's `python` is `python()`."""
    return {"PATH": f"{Path(python()).parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"}


def run(module: str, *arguments: str, fresh: bool = False, env: dict[str, str] | None = None,
        cwd: Path | None = None, timeout: float | None = None,
        workers: bool = False) -> subprocess.CompletedProcess[str]:  # fmt: skip
    """Runs `python -m <module> <arguments>`; see `start`.

    Args:
        fresh: in a process that has imported nothing.
    """
    command = [sys.executable, "-m", module, *arguments]
    if fresh:
        return subprocess.run(command, capture_output=True, text=True, env=env, cwd=cwd, timeout=timeout)
    process = start(module, *arguments, env=env, cwd=cwd, workers=workers)
    try:
        out, err = process.communicate(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return subprocess.CompletedProcess(command, process.wait(), out, err)


def _server() -> socket.socket:
    """A connection to the session's server, which the first who needs it starts."""
    folder = Path(os.environ.get(FOLDER) or new_session())
    with (folder / "lock").open("w") as lock:
        flock(lock, LOCK_EX)
        if not (folder / "socket").exists():
            interpreter = folder / "bin" / "python"
            interpreter.parent.mkdir()
            real, forked = shlex.quote(sys.executable), shlex.quote(str(ROOT / "tests/helpers/forked_python.py"))
            interpreter.write_text(f'#!/bin/sh\nexec {real} -IS {forked} "$0" {real} "$@"\n')
            interpreter.chmod(0o700)
            code = "from tests.helpers.commands import serve; serve()"
            environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{os.getenv('PYTHONPATH', '')}"}
            log = folder / "log"
            files = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
            files += [(os.POSIX_SPAWN_OPEN, stream, log, os.O_WRONLY | os.O_CREAT, 0o600) for stream in (1, 2)]
            pid = os.posix_spawn(
                sys.executable, [sys.executable, "-c", code], environment, file_actions=files, setsid=True
            )
            while not (folder / "socket").exists():
                assert not os.waitpid(pid, os.WNOHANG)[0], log.read_text()
                time.sleep(0.01)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(folder / "socket"))
    return connection


def new_session() -> str:
    """Makes the folder of this session, and says so to the processes that it starts."""
    os.environ[FOLDER] = tempfile.mkdtemp(prefix=f"{os.getpid()}-")
    return os.environ[FOLDER]


def serve() -> None:
    """Imports, then forks for whoever asks, until the session has ended; returns in no process but a command's."""
    for name in IMPORTED:
        import_module(name)
    gc.collect()
    gc.freeze()  # a collection in a fork would copy every page
    threads = list(Path("/proc/self/task").iterdir())
    assert len(threads) == 1, "a fork would lose the threads that an import has started"
    folder = Path(os.environ[FOLDER])
    session = int(folder.name.partition("-")[0])
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "early"))
    listener.listen(64)
    (folder / "early").rename(folder / "socket")
    while Path(f"/proc/{session}").exists():
        if select.select([listener], [], [], 2)[0]:
            connection = listener.accept()[0]
            if not os.fork():
                listener.close()
                _look_after(connection)
                return
            connection.close()
        _reap()


def _reap() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _look_after(connection: socket.socket) -> None:
    """Forks once more: this process says how the other ended, and ends it where nobody waits any longer."""
    said, streams = b"", []
    while not said.endswith(b"\n"):
        more, given, _, _ = socket.recv_fds(connection, 1 << 16, 3)
        if not more:  # whoever asked has gone
            os._exit(0)
        said, streams = said + more, streams + given
    child = os.fork()
    if not child:
        connection.close()
        _become(json.loads(said), streams)
        return
    for stream in streams:  # a pipe ends when its last writer does
        os.close(stream)
    connection.sendall(f"{child}\n".encode())
    ended = os.pidfd_open(child)
    if connection in select.select([ended, connection], [], [])[0] and not select.select([ended], [], [], 0)[0]:
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with suppress(OSError):
        connection.sendall(str(code).encode())
    os._exit(0)


def _become(asked: Asked, streams: list[int]) -> None:
    """What a fresh interpreter of that command line is, but for what is imported."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started without it
    for stream, given in enumerate(streams):
        os.dup2(given, stream)
        os.close(given)
    odd = [key for key in {*asked["env"], *os.environ} - READ_LATER
           if key.startswith(READ_WHEN_IMPORTED) and asked["env"].get(key, "") != os.environ.get(key, "")]  # fmt: skip
    if odd:
        sys.exit(f"{odd}: libraries read them when they are imported; this test needs a process of its own")
    os.environ.clear()
    os.environ.update(asked["env"])
    os.chdir(asked["cwd"])
    if asked["python"]:
        sys.executable = asked["python"]
    if script := asked.get("script"):
        sys.path[0] = str(Path(script).parent)
        sys.argv = [script, *asked["arguments"]]
        runpy.run_path(script, run_name="__main__")
        return
    sys.path[0] = asked["cwd"]
    sys.argv = ["-m", *asked["arguments"]]
    runpy._run_module_as_main(asked["module"])  # pyright: ignore[reportAttributeAccessIssue]
