"""How the work is spread over devices: `base.py` says what each strategy answers, each file has one family of them.

`train/run.py` says where the parts of a new one go.
"""

from typing import Any

import lightning as L

from vicuna_lit.config.choices import DDPConfig, FSDPConfig, SingleConfig, ZeroConfig
from vicuna_lit.config.train import Computation
from vicuna_lit.models.automatic import on_gpu
from vicuna_lit.train.distributed import DistributedEnv
from vicuna_lit.train.strategies.base import TrainStrategy
from vicuna_lit.train.strategies.fsdp import FSDP
from vicuna_lit.train.strategies.replicated import DDP, Single
from vicuna_lit.train.strategies.zero import Zero, Zero3


def strategy_of(config: Computation) -> TrainStrategy:
    """The strategy that a config chooses."""
    match config.strategy:
        case SingleConfig():
            return Single(config)
        case DDPConfig():
            return DDP(config)
        case FSDPConfig():
            return FSDP(config)
        case ZeroConfig(stage=3):
            return Zero3(config)
        case ZeroConfig():
            return Zero(config)


def trainer_arguments(config: Computation, env: DistributedEnv) -> dict[str, Any]:
    """What Lightning's Trainer needs to know of the hardware.

    Lightning always computes in the dtype the model has: bf16 is the model's business (`SupervisedLM`).
    """
    strategy = strategy_of(config)
    return {
        "accelerator": "gpu" if on_gpu(config) else config.trainer.accelerator,
        "devices": env.local_size,
        "num_nodes": env.nodes,
        "use_distributed_sampler": False,
        "strategy": strategy.lightning(env),
        "plugins": strategy.plugins(),
    }


def keep_signals(trainer: L.Trainer) -> None:
    """Leaves signals to `preemption`.

    Lightning (2.6) would run a collective inside its SIGTERM handler, and broadcast a flag and wait for it before
    every micro-batch (its issue 21640). Both are private methods; a test counts what travels in a step.
    """
    trainer._signal_connector.register_signal_handlers = lambda: None
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None
