"""A fault of the machine has an exit code of its own; a folder is one process's; W&B's death costs W&B only."""

import errno
import json
import os
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pytest
import wandb

from vicuna_lit.cli import train as cli
from vicuna_lit.cli.app import guarded
from vicuna_lit.config.compose import ConfigError, load
from vicuna_lit.data.model_folder import told_as_model_error
from vicuna_lit.evaluate.run import evaluate_models
from vicuna_lit.inference.reply_cache import Cache
from vicuna_lit.machine import BAD_INPUT, MACHINE_FAULT, OUT_OF_MEMORY, exit_code, is_machine_fault
from vicuna_lit.paths import ModelError
from vicuna_lit.run_folder import MachineError, RunError, locked

ANSWERS = '{"question_id": 1, "turns": ["The sum is 12."]}\n'


def raised_from(cause: Exception) -> Exception:
    try:
        raise ModelError("no model could be loaded") from cause
    except ModelError as error:
        return error


@pytest.mark.parametrize("reason", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB\nof")])
def test_memory_that_ran_out_is_said_of_the_folder_that_took_it(reason, capsys):
    def job() -> None:
        with told_as_model_error("hf: no model could be loaded"):
            raise reason

    with pytest.raises(SystemExit) as end:
        guarded(job, "runs/a")
    assert end.value.code == OUT_OF_MEMORY
    assert "error: out of memory: hf: no model could be loaded: " in capsys.readouterr().err


def test_what_a_message_cites_does_not_steer_the_terminal(capsys):
    def job() -> None:
        raise RunError("the server says \x1b]0;title\x07\x9b2J\rok")

    with pytest.raises(SystemExit):
        guarded(job, "runs/a")
    assert capsys.readouterr().err == "error: the server says ␛]0;title␇\\x9b2J␍ok\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/a"), MACHINE_FAULT),
        (OSError(errno.EMFILE, "Too many open files"), MACHINE_FAULT),
        (OSError(errno.EIO, "Input/output error"), MACHINE_FAULT),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), MACHINE_FAULT),
        (FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"), MACHINE_FAULT),
        (RuntimeError("unable to mmap 1024 bytes from file </a>: Cannot allocate memory (12)"), MACHINE_FAULT),
        (RuntimeError("DataLoader worker (pid 9) exited unexpectedly"), MACHINE_FAULT),
        (BrokenProcessPool("A process in the process pool was terminated abruptly"), MACHINE_FAULT),
        (MachineError("a worker died"), MACHINE_FAULT),
        (raised_from(OSError(errno.ENOSPC, "No space left on device")), MACHINE_FAULT),
        (MemoryError(), OUT_OF_MEMORY),
        (FileNotFoundError(errno.ENOENT, "No such file", "/a"), BAD_INPUT),
        (PermissionError(errno.EACCES, "Permission denied", "/a"), BAD_INPUT),
        (OSError("/a does not appear to have a file named config.json"), BAD_INPUT),
        (raised_from(ValueError("no space left on device")), BAD_INPUT),
    ],
)
def test_a_fault_of_the_machine_has_an_exit_code_of_its_own(error, code, capsys):
    def job() -> None:
        raise error

    with pytest.raises(SystemExit) as end:
        guarded(job, "runs/a")
    assert end.value.code == exit_code(error) == code
    said = capsys.readouterr().err
    assert said.splitlines()[-1].startswith("error: ")
    assert ("runs/a: what is done is kept; the same command goes on" in said) == (code != BAD_INPUT)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (
            RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:43913. GLHF!"),
            MACHINE_FAULT,
        ),
        (RuntimeError("NCCL error: a network error or a remote process exiting prematurely"), MACHINE_FAULT),
        (RuntimeError("CUDA out of memory"), OUT_OF_MEMORY),
    ],
)
def test_a_process_whose_other_has_ended_says_so_in_one_line(error, code, tmp_path, monkeypatch, capsys):
    """Its traceback would bury what the other has printed."""

    def job(_config: Any) -> None:
        raise error

    monkeypatch.setattr(cli, "_job", job)
    monkeypatch.setattr(cli, "AFTER_THE_OTHER", 0)
    assert cli.run(load("train", f"run.dir={tmp_path}/run")) == code
    said = capsys.readouterr().err
    assert said.startswith("error: ") and (said.count("\n") == 1) == ("another process" in said)


def test_an_error_of_ours_is_no_fault_of_the_machine():
    assert not is_machine_fault(KeyError("x"))
    with pytest.raises(KeyError):
        guarded(lambda: {}["x"], "runs/a")


def test_a_disk_that_is_full_beneath_the_cache_is_the_machines_fault(tmp_path):
    cache = Cache(tmp_path / "replies.sqlite")
    cache._db.execute("PRAGMA max_page_count = 1")
    with pytest.raises(MachineError, match="cannot be used: database or disk is full"):
        cache.keep("key", {"text": "x" * 100_000}, {})


@pytest.fixture
def answers(tmp_path) -> list[str]:
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text(ANSWERS)
    (tmp_path / "q.jsonl").write_text(
        json.dumps({"question_id": 1, "category": "math", "turns": ["5 + 7?"], "reference": ["The sum is 12."]}) + "\n"
    )
    return [
        f"models=[{tmp_path}/a.jsonl,{tmp_path}/b.jsonl]",
        f"questions={tmp_path}/q.jsonl",
        f"run.dir={tmp_path}/run",
    ]


HOLD = "import sys, time; from pathlib import Path; from vicuna_lit.run_folder import locked\n"
HOLD += "with locked(Path(sys.argv[1])):\n print('held', flush=True); time.sleep(600)"


def test_a_second_process_in_the_folder_of_any_job_is_refused(tmp_path, answers):
    from vicuna_lit.cli.chat import _chat
    from vicuna_lit.prepare.run import prepare_data

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.sleep", lambda _: None)
        command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as other:
            assert other.stdout and other.stdout.readline() == "held\n"
            clock = iter(range(0, 10**6, 10))
            patch.setattr("vicuna_lit.run_folder.time.monotonic", lambda: next(clock))
            for job in (
                lambda: evaluate_models(load("evaluate", *answers, "wandb.mode=disabled")),
                lambda: prepare_data(load("prepare", f"raw={tmp_path}/a.jsonl", f"run.dir={tmp_path}/run")),
                lambda: _chat(load("chat", "model=x", f"run.dir={tmp_path}/run")),
            ):
                with pytest.raises(RunError, match="another process is running here"):
                    job()
            other.kill()
    with locked(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (f"wandb.tags=[{'x' * 65}]", "has 65 characters; W&B takes 1 to 64"),
        ("wandb.tags=['']", "has 0 characters"),
        ("wandb.project=a/b", "takes none of / "),
        (f"wandb.project={'x' * 129}", "has 129 characters; W&B takes 1 to 128"),
        ("wandb.entity='me?'", "takes none of / "),
    ],
)
@pytest.mark.parametrize("job", ["train", "evaluate"])
def test_what_wandb_would_refuse_is_refused_in_the_config(job, override, message):
    with pytest.raises(ConfigError, match="wandb") as error:
        load(job, *(["models=[a,b]"] if job == "evaluate" else []), override)
    assert message in str(error.value)


def test_no_login_is_said_before_anything_is_asked(tmp_path, answers, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(RunError, match=r"wandb\.mode=online: nobody is logged in on this machine"):
        evaluate_models(load("evaluate", *answers, "wandb.mode=online"))
    assert not (tmp_path / "run").exists()


def test_a_wandb_that_dies_costs_wandb_only_and_an_error_of_ours_is_seen(tmp_path, answers, monkeypatch, capsys):
    from wandb.sdk.mailbox.mailbox import MailboxClosedError

    from vicuna_lit.evaluate import tracking

    for error in (MailboxClosedError("the mailbox is closed"), BrokenPipeError(32, "Broken pipe")):

        def dead(*_: object, died: Exception = error, **__: object) -> None:
            raise died

        monkeypatch.setattr(wandb, "init", dead)
        found = evaluate_models(load("evaluate", *answers, "wandb.mode=offline"))
        assert found.table and (tmp_path / "run/table.json").exists()
        said = capsys.readouterr().out
        assert f"W&B does not start: {error}" in said

    def ours(*_: object) -> None:
        raise TypeError("a mistake of ours")

    monkeypatch.setattr(tracking, "headline", ours)
    with pytest.raises(TypeError, match="a mistake of ours"):
        evaluate_models(load("evaluate", *answers, "wandb.mode=offline"))
