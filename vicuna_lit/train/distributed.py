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
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed

from vicuna_lit.config.choices import shipped_strategies
from vicuna_lit.config.train import Layout, TrainConfig
from vicuna_lit.models.automatic import on_gpu
from vicuna_lit.run_folder import RunError, read_json, write_hydra_files
from vicuna_lit.tracking.about import COMMAND, command
from vicuna_lit.train.preemption import PREEMPTED, Preempted, stop_signal
from vicuna_lit.train.result import Result, result_in

PATIENCE = timedelta(hours=2)
"""How long a collective waits for the slowest process: for its shard to be written, its validation to end. NCCL's own
ten minutes would end such a run."""
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
WHY = "why"
"""The file beside a process's config in which the first one leaves what it has said of an expected error."""
LEAST_BYTES = 2**28
"""What a process with torch and transformers has for itself at the least."""
LAST_WORDS = 5.0
"""Seconds that the other processes have once one has failed."""


class ProcessesFailed(RunError):
    """The processes of a run ended with `code`; they have said why themselves.

    Args:
        why: what the first of them said where its error was an expected one.
    """

    def __init__(self, code: int, why: str = ""):
        self.code, self.why = code, why
        super().__init__(f"the run's processes ended with exit code {code}; their messages stand above")


@dataclass(frozen=True)
class DistributedEnv:
    """This process among the run's processes."""

    rank: int = 0
    size: int = 1
    local_size: int = 1
    """Processes on this machine."""

    @classmethod
    def of_environment(cls) -> "DistributedEnv | None":
        """As torchrun says, or None where it did not start this process."""
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            return None
        return cls(*(int(os.environ[key]) for key in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")))

    @property
    def nodes(self) -> int:
        """Machines."""
        return self.size // self.local_size


def join(config: TrainConfig) -> tuple[TrainConfig, DistributedEnv]:
    """The place of this process; under torchrun `trainer.devices` becomes what torchrun started.

    Raises:
        RunError: several processes, but a strategy for one.
    """
    env = DistributedEnv.of_environment()
    if env is None:
        return config, DistributedEnv(size=config.trainer.devices, local_size=config.trainer.devices)
    if env.size > 1 and config.strategy.facts.one_process:
        several = ", ".join(one.name for one in shipped_strategies() if not one.one_process)
        raise RunError(
            f"torchrun started {env.size} processes, but strategy={config.strategy.facts.name} is for one; "
            f"for several: strategy={several}"
        )
    _end_with_parent()
    if not config.strategy.facts.one_process and not torch.distributed.is_initialized():
        atexit.register(_leave)
        if on_gpu(config):  # else the first collective of every process would open a context on the first GPU
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        torch.distributed.init_process_group(backend(config), timeout=PATIENCE)
    trainer = config.trainer.model_copy(update={"devices": env.local_size})
    return config.model_copy(update={"trainer": trainer}), env


@contextmanager
def deterministic_kernels(deterministic: bool) -> Iterator[None]:
    """Inside the block torch takes only kernels that give the same bits each time, where that is asked for."""
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory  # pyright: ignore
    sets_workspace = deterministic and WORKSPACE not in os.environ
    if sets_workspace:
        os.environ[WORKSPACE] = ":4096:8"  # cuBLAS reads it when it is first used
    if deterministic:
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore  (costs time, and hides nothing)
    try:
        yield
    finally:
        if sets_workspace:
            os.environ.pop(WORKSPACE, None)
        torch.use_deterministic_algorithms(before[0])
        torch.utils.deterministic.fill_uninitialized_memory = before[1]  # pyright: ignore


@contextmanager
def plain_torch() -> Iterator[None]:
    """Inside the block torch is as a new process has it, whatever a notebook has set: autocast, another dtype, TF32 and
    another choice of attention kernels (a chat makes one) would change losses, a default device or inference mode would
    break the run. Other processes of a run have none of it.
    """
    dtype = torch.get_default_dtype()
    matrices = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul  # pyright: ignore[reportAttributeAccessIssue]
    of_each = [kind.fp32_precision for kind in matrices]
    try:
        of_all = torch.get_float32_matmul_precision()
    except RuntimeError:  # a kind has one of its own, by torch's newer names
        of_all = None
    torch.set_default_dtype(torch.float32)
    if of_all != "highest":
        torch.set_float32_matmul_precision("highest")
    try:
        with ExitStack() as plain:
            for device in ("cpu", "cuda"):
                if torch.is_autocast_enabled(device):
                    plain.enter_context(torch.autocast(device, enabled=False))
            if torch.get_default_device().type != "cpu":
                plain.enter_context(torch.device("cpu"))
            plain.enter_context(_every_attention())
            plain.enter_context(torch.inference_mode(False))
            plain.enter_context(torch.enable_grad())
            yield
    finally:
        torch.set_default_dtype(dtype)
        if of_all not in (None, "highest"):
            torch.set_float32_matmul_precision(of_all)
        for kind, precision in zip(matrices, of_each, strict=True) if of_all != "highest" else ():
            kind.fp32_precision = precision


@contextmanager
def _every_attention() -> Iterator[None]:
    """Inside the block torch chooses among all kernels of `scaled_dot_product_attention`."""
    cuda: Any = torch.backends.cuda  # for a CPU's, too
    before = {kind: getattr(cuda, f"{kind}_sdp_enabled")() for kind in ("flash", "mem_efficient", "math", "cudnn")}
    try:
        for kind in before:
            getattr(cuda, f"enable_{kind}_sdp")(True)
        yield
    finally:
        for kind, enabled in before.items():
            getattr(cuda, f"enable_{kind}_sdp")(enabled)


def launch(config: TrainConfig, environment: dict[str, str] | None = None) -> Result:
    """Runs the config in `trainer.devices` processes of this machine, waits, and reads the result from its folder.

    Args:
        environment: of the processes, besides this one's.

    Raises:
        RunError: there are not so many GPUs here, or not the memory for so many processes.
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
    room = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if (least := devices * LEAST_BYTES) > room:
        raise RunError(
            f"trainer.devices={devices}: so many processes take {least / 2**30:,.0f} GiB before they hold a model, and "
            f"this machine has {room / 2**30:,.0f}; trainer.devices=<fewer> gives the same run"
        )
    stop_signal.announces = False
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.json"
        file.write_text(config.model_dump_json(), encoding="utf-8")
        write_hydra_files(Path(folder))
        shared = _environment(Path(folder).name, devices, environment or {})
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "vicuna_lit.cli.worker", str(file)],
                env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                start_new_session=True,  # a terminal's Ctrl-C comes to this process, which passes it on once
            )
            for rank in range(devices)
        ]
        code = _wait(processes, 2 * config.checkpoint.grace_seconds + LAST_WORDS)
        said = Path(folder, WHY)
        why = said.read_text(encoding="utf-8") if said.is_file() else ""
    if code == PREEMPTED or (code and stop_signal.requested):
        stopped = read_json(Path(config.run.dir), "result.json") or {}
        raise Preempted(stopped.get("steps", 0))
    if code:
        raise ProcessesFailed(code, why)
    done = result_in(Path(config.run.dir), "finished", "stopped")
    assert done is not None
    return done


def _environment(name: str, devices: int, besides: dict[str, str]) -> dict[str, str]:
    """What torchrun tells its processes, but for their ranks."""
    return {
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // devices)),
        COMMAND: command(),
        **os.environ,
        **besides,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(devices),
        "LOCAL_WORLD_SIZE": str(devices),
        "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": name,
    }


def _wait(processes: list[subprocess.Popen[bytes]], most_seconds: float) -> int:
    """The exit code of the first process that ended with another than 0, or 0.

    Each signal is passed on. From then, or from the first that was preempted, all have `most_seconds` to end.
    """
    passed_on, code, ends = 0, 0, math.inf
    while any(process.poll() is None for process in processes):
        failed = [c for process in processes if (c := process.poll())]
        if failed and not code:
            code = failed[0]
            _send(processes, signal.SIGTERM)
            ends = time.monotonic() + (most_seconds if code == PREEMPTED else LAST_WORDS)
        if stop_signal.signals > passed_on:
            passed_on = stop_signal.signals
            _send(processes, signal.SIGTERM)
            ends = min(ends, time.monotonic() + most_seconds)
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


def backend(layout: Layout) -> str:
    """Tensors on a GPU travel by NCCL; flags and objects, and all else, by gloo."""
    return "cpu:gloo,cuda:nccl" if on_gpu(layout) else "gloo"


def any_rank(*flags: bool) -> list[bool]:
    """Each flag as it is if any process has set it; all processes call it."""
    if not torch.distributed.is_initialized():
        return list(flags)
    together = torch.tensor(flags, dtype=torch.int32)
    torch.distributed.all_reduce(together, torch.distributed.ReduceOp.MAX)
    return [bool(flag) for flag in together]


def broadcast_object(value: Any) -> Any:
    """The first process's value, on every process."""
    values = [value]
    if torch.distributed.is_initialized():
        torch.distributed.broadcast_object_list(values, 0)
    return values[0]


def all_gather_object(value: Any) -> list[Any]:
    """Every process's value, by rank, on every process."""
    values: list[Any] = [value]
    if torch.distributed.is_initialized():
        values *= torch.distributed.get_world_size()
        torch.distributed.all_gather_object(values, value)
    return values


def all_reduce_sum(value: torch.Tensor) -> torch.Tensor:
    """The sum over all processes; the value itself where there is one."""
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(value)
    return value


def average_over_ranks(tensors: list[torch.Tensor]) -> None:
    """Puts each tensor's mean over all processes in its place."""
    on_the_way: list[Any] = [torch.distributed.all_reduce(tensor, async_op=True) for tensor in tensors]
    for tensor, arrives in zip(tensors, on_the_way, strict=True):
        arrives.wait()
        tensor.div_(torch.distributed.get_world_size())


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
