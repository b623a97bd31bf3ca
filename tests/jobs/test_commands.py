"""A command that is forked from a warm process is the command: its end, output, folder, variables and signals."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.helpers import commands, forked_python

SAY = """
import atexit, os, sys, torch
print("out", sys.argv[1:], os.getcwd(), os.environ.get("SAID"), "HOME" in os.environ, __name__)
print("err", file=sys.stderr)
atexit.register(print, "at the end")
sys.exit(int(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_forked_command_says_and_returns_what_a_fresh_one_does(tmp_path):
    (tmp_path / "said.py").write_text(SAY)
    keys = ("PATH", *(key for key in os.environ if key.startswith(commands.READ_WHEN_IMPORTED)))
    environment = {key: os.environ[key] for key in keys if key in os.environ} | {"SAID": "so"}
    forked = commands.run("said", "3", "b", env=environment, cwd=tmp_path)
    fresh = commands.run("said", "3", "b", env=environment, cwd=tmp_path, fresh=True)
    assert (forked.returncode, forked.stdout, forked.stderr) == (fresh.returncode, fresh.stdout, fresh.stderr)
    assert forked.returncode == 3
    assert forked.stdout.endswith("False __main__\nat the end\n")


def test_a_forked_command_hears_its_signals_and_dies_of_them(tmp_path):
    (tmp_path / "waiting.py").write_text("import time\nprint('ready', flush=True)\ntime.sleep(60)\n")
    for number in (signal.SIGTERM, signal.SIGKILL):
        process = commands.start("waiting", cwd=tmp_path)
        while not process.said()[0]:
            time.sleep(0.01)
        assert process.poll() is None
        process.send_signal(number)
        assert process.wait(10) == -number
    (tmp_path / "wrong.py").write_text("raise ValueError('no')\n")
    wrong = commands.run("wrong", cwd=tmp_path)
    assert wrong.returncode == 1
    assert wrong.stderr.endswith("ValueError: no\n")


WORKER = """
import os, sys
print(os.getpid(), "torch" in sys.modules, flush=True)
sys.exit(len(input()))
"""


def test_what_stands_for_an_interpreter_is_one(tmp_path):
    """Streams, end and signals are those of the process behind it, which no one survives."""
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments/worker_here.py").write_text(WORKER)
    command = [commands.python(), "-u", "-m", "experiments.worker_here"]

    def started() -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path
        )
        assert process.stdout
        pid, forked = process.stdout.readline().split()
        assert forked == "True"
        return process, pid

    process, _ = started()
    assert process.communicate("seven77\n")[0] == "" and process.returncode == 7
    for number in (signal.SIGTERM, signal.SIGKILL):
        process, pid = started()
        process.send_signal(number)
        process.communicate()
        assert process.returncode == -number
        ends = time.monotonic() + 10
        while Path(f"/proc/{pid}").exists():
            assert time.monotonic() < ends
            time.sleep(0.01)


def test_what_is_not_ours_gets_a_real_interpreter():
    for arguments in (["-c", "1"], ["-m", "joblib.externals.loky"], ["-m", "vicuna_literature"], ["/tmp/a.py"], []):
        assert forked_python.what_to_run(arguments) is None
    asked = {"module": "vicuna_lit.cli.worker", "arguments": ["a.json"]}
    assert forked_python.what_to_run(["-u", "-m", "vicuna_lit.cli.worker", "a.json"]) == asked
    script = str(forked_python.ROOT / "experiments/benchmarks/scale/step.py")
    assert forked_python.what_to_run([script, "{}"]) == {"script": script, "arguments": ["{}"]}


def test_a_variable_that_was_read_already_is_refused(tmp_path):
    (tmp_path / "said.py").write_text("print('it ran')\n")
    done = commands.run("said", env=os.environ | {"HF_HUB_OFFLINE": "yes"}, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "HF_HUB_OFFLINE" in done.stderr and "needs a process of its own" in done.stderr
