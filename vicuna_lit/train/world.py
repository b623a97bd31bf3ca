"""The processes of a run: who they are, how they are started, and how they agree.

They are started by `torchrun`, on one machine or many, or by `launch` where `trainer.devices` asks for several:
torch's launcher kills them 30 seconds after a signal and hides their exit codes, so it cannot tell a preempted
run from a failed one. One group per run, so a sweep never mixes two.
"""

import atexit
import ctypes
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed

from vicuna_lit.folder import RunError
from vicuna_lit.train.choices import SingleConfig
from vicuna_lit.train.config import TrainConfig
from vicuna_lit.train.preemption import PREEMPTED, Preempted, notice

LAST_WORDS = 5.0
"""Seconds that the other processes have once one has failed."""


class ProcessesFailed(RunError):
    """The processes of a run ended with `code`; they have said why themselves."""

    def __init__(self, code: int):
        self.code = code
        super().__init__(f"the run's processes ended with exit code {code}; their messages stand above")


@dataclass(frozen=True)
class World:
    """This process among the run's processes."""

    rank: int = 0
    size: int = 1
    local_size: int = 1
    """Processes on this machine."""

    @classmethod
    def of_environment(cls) -> "World | None":
        """As torchrun says, or None where it did not start this process."""
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            return None
        return cls(*(int(os.environ[key]) for key in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")))

    @property
    def nodes(self) -> int:
        """Machines."""
        return self.size // self.local_size


def join(config: TrainConfig) -> tuple[TrainConfig, World]:
    """The world of this process; under torchrun `trainer.devices` becomes what torchrun started.

    Raises:
        RunError: several processes, but a strategy for one.
    """
    world = World.of_environment()
    if world is None:
        return config, World(size=config.trainer.devices, local_size=config.trainer.devices)
    if world.size > 1 and isinstance(config.strategy, SingleConfig):
        raise RunError(
            f"torchrun started {world.size} processes, but strategy=single is for one; strategy=ddp or fsdp?"
        )
    _end_with_parent()
    if not isinstance(config.strategy, SingleConfig) and not torch.distributed.is_initialized():
        atexit.register(_leave)
        torch.distributed.init_process_group(backend(config))
    trainer = config.trainer.model_copy(update={"devices": world.local_size})
    return config.model_copy(update={"trainer": trainer}), world


def launch(config: TrainConfig) -> None:
    """Runs the config in `trainer.devices` processes of this machine, and waits.

    Raises:
        RunError: there are not so many GPUs here.
        Preempted: the processes were told to stop, and have saved what they could.
        ProcessesFailed: one of the processes failed; the others were stopped.
    """
    gpus = torch.cuda.device_count() if config.trainer.accelerator != "cpu" else 0
    if 0 < gpus < config.trainer.devices:
        raise RunError(
            f"trainer.devices={config.trainer.devices}, but this machine has {gpus} GPUs; trainer.devices={gpus} "
            "gives the same run, only slower"
        )
    devices = config.trainer.devices
    notice.speaks = False
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.json"
        file.write_text(config.model_dump_json())
        shared = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(_free_port()),
            "WORLD_SIZE": str(devices),
            "LOCAL_WORLD_SIZE": str(devices),
            "GROUP_RANK": "0",
            "TORCHELASTIC_RUN_ID": Path(folder).name,
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // devices))),
        }
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "vicuna_lit.train.worker", str(file)],
                env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                start_new_session=True,  # a terminal's Ctrl-C comes to this process, which passes it on once
            )
            for rank in range(devices)
        ]
        code = _wait(processes, 2 * config.checkpoint.grace_seconds + LAST_WORDS)
    if code == PREEMPTED or (code and notice.given):
        raise Preempted
    if code:
        raise ProcessesFailed(code)


def _wait(processes: list[subprocess.Popen[bytes]], grace_seconds: float) -> int:
    """The exit code of the first process that ended with another than 0, or 0.

    Signals are passed on. The others get the same time to end that a preemption gives them.
    """
    passed_on, code, ends = 0, 0, math.inf
    while any(process.poll() is None for process in processes):
        failed = [c for process in processes if (c := process.poll())]
        if failed and not code:
            code = failed[0]
            _send(processes, signal.SIGTERM)
            ends = time.monotonic() + (grace_seconds if code == PREEMPTED else LAST_WORDS)
        if notice.signals > passed_on:
            passed_on = notice.signals
            _send(processes, signal.SIGTERM)
            ends = min(ends, time.monotonic() + grace_seconds)
        if time.monotonic() > ends:
            _send(processes, signal.SIGKILL)
        time.sleep(0.05)
    return code or next((c for process in processes if (c := process.poll())), 0)


def _send(processes: list[subprocess.Popen[bytes]], number: int) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


def _end_with_parent() -> None:
    """A launcher that is killed outright takes its processes with it; they would train on beside the next ones."""
    with suppress(OSError, AttributeError):  # Linux only
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _leave() -> None:
    """Ends the process group's threads: left alone, they abort the interpreter as it exits, now and then."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def backend(config: TrainConfig) -> str:
    """Tensors on a GPU travel by NCCL; flags and objects, and all else, by gloo."""
    on_gpu = config.trainer.accelerator != "cpu" and torch.cuda.is_available()
    return "cpu:gloo,cuda:nccl" if on_gpu else "gloo"


def any_rank(*flags: bool) -> list[bool]:
    """Each flag as it is if any process has set it; all processes call it."""
    if not torch.distributed.is_initialized():
        return list(flags)
    together = torch.tensor(flags, dtype=torch.int32)
    torch.distributed.all_reduce(together, torch.distributed.ReduceOp.MAX)
    return [bool(flag) for flag in together]


def of_first_rank(value: Any) -> Any:
    """The first process's value, on every process."""
    values = [value]
    if torch.distributed.is_initialized():
        torch.distributed.broadcast_object_list(values, 0)
    return values[0]


def of_all_ranks(value: Any) -> list[Any]:
    """Every process's value, by rank, on every process."""
    values: list[Any] = [value]
    if torch.distributed.is_initialized():
        values *= torch.distributed.get_world_size()
        torch.distributed.all_gather_object(values, value)
    return values


def sum_over_ranks(value: torch.Tensor) -> torch.Tensor:
    """The sum over all processes; the value itself where there is one."""
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(value)
    return value


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
