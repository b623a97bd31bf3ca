"""An interpreter for what a tested command starts itself: `commands.python()` is a file that runs this one.

It stands between whoever started it and the process that the session's server has forked: the other has its streams
and gets its signals, and it ends as the other ends. What is not ours, and other ways to start an interpreter (`-c`),
get a real one. It imports little, since one is started for each process.
"""

import ctypes
import json
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).parents[2]
OURS = ("vicuna_lit.", "experiments.", "torch.distributed.run", "submitit.core._submit")
PASSED_ON = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
DIES_WITH_PARENT = 1
"""prctl's PR_SET_PDEATHSIG."""


def ask(connection: socket.socket, asked: dict[str, Any], streams: list[int]) -> int:
    """Asks the server of commands for a process with these streams; returns its pid."""
    said = json.dumps(asked).encode() + b"\n"
    sent = socket.send_fds(connection, [said], streams)
    connection.sendall(said[sent:])
    pid = b""
    while not pid.endswith(b"\n"):  # byte by byte: its exit code may be next
        byte = connection.recv(1)
        assert byte, "the server of commands has gone"
        pid += byte
    return int(pid)


def what_to_run(arguments: list[str]) -> dict[str, Any] | None:
    """The module or script of an interpreter's arguments, or None where a real one is needed."""
    if arguments[:1] == ["-u"]:  # torchrun's
        arguments = arguments[1:]
    if arguments[:1] == ["-m"] and len(arguments) > 1 and f"{arguments[1]}.".startswith(OURS):
        return {"module": arguments[1], "arguments": arguments[2:]}
    script = Path(*arguments[:1]).absolute()
    if script.suffix == ".py" and script.is_relative_to(ROOT / "experiments"):
        return {"script": str(script), "arguments": arguments[1:]}
    return None


def main(python: str, real: str, arguments: list[str]) -> NoReturn:
    """Runs what it is asked to run, and ends as it ends."""
    asked = what_to_run(arguments)
    if asked is None:
        os.execv(real, [real, *arguments])
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
    ctypes.CDLL(None).prctl(DIES_WITH_PARENT, signal.SIGKILL)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(Path(python).parents[1] / "socket"))
    pid = ask(connection, asked | dict(env=dict(os.environ), cwd=str(Path.cwd()), python=python), [0, 1, 2])

    def pass_on(number: int, _: object) -> None:
        with suppress(ProcessLookupError):  # it has just ended
            os.kill(pid, number)

    for number in PASSED_ON:
        signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
    said = connection.recv(16)
    code = int(said) if said else 1
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
