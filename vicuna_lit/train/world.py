"""The processes of a run: who they are, and how they are started.

Every process group is started by torch's elastic launcher: by `torchrun` itself, on one machine or many, or
by `launch` where `trainer.devices` asks for several. One group per run, so a sweep never mixes two.
"""

import atexit
import logging
import os
import socket
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from vicuna_lit.folder import RunError
from vicuna_lit.train.config import SingleConfig, TrainConfig


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
    atexit.register(_leave)
    if world.size > 1 and isinstance(config.strategy, SingleConfig):
        raise RunError(
            f"torchrun started {world.size} processes, but strategy=single is for one; strategy=ddp or fsdp?"
        )
    trainer = config.trainer.model_copy(update={"devices": world.local_size})
    return config.model_copy(update={"trainer": trainer}), world


def launch(config: TrainConfig) -> None:
    """Runs the config in `trainer.devices` processes of this machine, and waits.

    Raises:
        RunError: there are not so many GPUs here.
        ProcessesFailed: one of the processes failed; the others were stopped.
    """
    gpus = torch.cuda.device_count() if config.trainer.accelerator != "cpu" else 0
    if 0 < gpus < config.trainer.devices:
        raise RunError(
            f"trainer.devices={config.trainer.devices}, but this machine has {gpus} GPUs; trainer.devices={gpus} "
            "gives the same run, only slower"
        )
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    devices = config.trainer.devices
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // devices)))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.json"
        file.write_text(config.model_dump_json())
        group = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=devices,
            rdzv_backend="c10d",
            rdzv_endpoint=f"127.0.0.1:{_free_port()}",
            run_id=Path(folder).name,
            max_restarts=0,
            monitor_interval=0.2,
            local_addr="127.0.0.1",
        )
        try:
            elastic_launch(group, sys.executable)("-m", "vicuna_lit.train.worker", str(file))
        except ChildFailedError as error:
            raise ProcessesFailed(error.get_first_failure()[1].exitcode) from None


def _leave() -> None:
    """Ends the process group's threads: left alone, they abort the interpreter as it exits, now and then."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def sum_over_ranks(value: torch.Tensor) -> torch.Tensor:
    """The sum over all processes; the value itself where there is one."""
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(value)
    return value


def largest_of_ranks(value: int) -> int:
    """The largest over all processes; the value itself where there is one."""
    values: list[Any] = [value]
    if torch.distributed.is_initialized():
        values *= torch.distributed.get_world_size()
        torch.distributed.all_gather_object(values, value)
    return max(values)


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
