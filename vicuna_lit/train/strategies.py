"""How the work is spread over devices. No choice here changes what is computed.

Every strategy averages gradients over ranks; `SupervisedModule.training_step` undoes that.
"""

import argparse
import os
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch.accelerators.cuda import CUDAAccelerator
from lightning.pytorch.plugins.precision.deepspeed import DeepSpeedPrecision
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, ModelParallelStrategy, SingleDeviceStrategy
from lightning.pytorch.strategies.strategy import Strategy
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from vicuna_lit.paths import ModelError
from vicuna_lit.train.choices import DDPConfig, FSDPConfig, SingleConfig, ZeroConfig
from vicuna_lit.train.config import TrainConfig
from vicuna_lit.train.model import SupervisedLM
from vicuna_lit.train.world import World, backend, sum_over_ranks


def trainer_arguments(config: TrainConfig, world: World) -> dict[str, Any]:
    """What Lightning's Trainer needs to know of the hardware.

    Lightning always computes in the dtype the model has: bf16 is the model's business (`SupervisedLM`).
    """
    on_gpu = config.trainer.accelerator != "cpu" and torch.cuda.is_available()
    arguments: dict[str, Any] = {
        "accelerator": "gpu" if on_gpu else config.trainer.accelerator,
        "devices": world.local_size,
        "num_nodes": world.nodes,
        "use_distributed_sampler": False,
    }
    strategy: Strategy
    match config.strategy:
        case SingleConfig():
            strategy = SingleDeviceStrategy("cuda:0" if on_gpu else "cpu")
        case DDPConfig():
            strategy = DDPStrategy(process_group_backend=backend(config), gradient_as_bucket_view=True)
        case FSDPConfig(offload=offload):
            strategy = ShardedStrategy(offload, world.size, backend(config))
        case ZeroConfig():
            strategy = ZeroStrategy(deepspeed_config(config), backend(config))
            arguments["plugins"] = [_AsItIs("32-true")]
    return arguments | {"strategy": strategy}


def keep_signals(trainer: L.Trainer) -> None:
    """Leaves signals to `preemption`.

    Lightning (2.6) would run a collective inside its SIGTERM handler, and broadcast a flag and wait for it before
    every micro-batch (its issue 21640). Both are private methods; a test counts what travels in a step.
    """
    trainer._signal_connector.register_signal_handlers = lambda: None
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None


def shard(lm: SupervisedLM, config: TrainConfig, mesh: DeviceMesh) -> None:
    """FSDP2: one group of weights per decoder layer, and one at the root for embeddings, last norm and head.

    Only the first rank has read the weights; the others get their shards of them here, and never hold more.
    """
    assert isinstance(config.strategy, FSDPConfig)
    mixed = MixedPrecisionPolicy()
    if config.precision == "bf16-true" and config.master_weights:
        mixed = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    offload = CPUOffloadPolicy(pin_memory=torch.cuda.is_available()) if config.strategy.offload else OffloadPolicy()
    first = dist.get_rank() == 0
    read = {name: tensor.detach() for name, tensor in lm.state_dict().items()} if first else {}
    for module in (*lm.layers, lm):
        fully_shard(module, mesh=mesh, mp_policy=mixed, offload_policy=offload)
    device = torch.device("cuda", torch.cuda.current_device()) if mesh.device_type == "cuda" else torch.device("cpu")
    if not first:
        lm.to_empty(device="cpu" if config.strategy.offload else device)
    deal = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, cpu_offload=config.strategy.offload)
    set_model_state_dict(lm, read, options=deal)
    for buffer in lm.buffers():  # rotary frequencies are in no state dict
        buffer.data = buffer.to(device)
        dist.broadcast(buffer, 0)


class ShardedStrategy(ModelParallelStrategy):
    """FSDP2 over all processes; offloaded shards stay on the CPU."""

    def __init__(self, offload: bool, world_size: int, backend: str):
        super().__init__(data_parallel_size=world_size, tensor_parallel_size=1, process_group_backend=backend)
        self.offload = offload

    def model_to_device(self) -> None:
        """Moves what is not sharded; offloaded shards must not move."""
        if not self.offload:
            super().model_to_device()
            return
        for buffer in self.lightning_module.buffers() if self.lightning_module else ():
            buffer.data = buffer.to(self.root_device)


def deepspeed_config(config: TrainConfig) -> dict[str, Any]:
    """DeepSpeed's settings, all of them from ours; the accumulation comes from the step plan through Lightning."""
    assert isinstance(config.strategy, ZeroConfig)
    zero: dict[str, Any] = {
        "stage": config.strategy.stage,
        "overlap_comm": torch.cuda.is_available(),
        "contiguous_gradients": True,
    }
    if config.strategy.offload:
        pinned = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
        zero |= {"offload_optimizer": pinned, "offload_param": pinned}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_clipping": config.optimizer.clip_norm or 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": config.precision == "bf16-true"},
    }


class _AsItIs(DeepSpeedPrecision):
    """Leaves batches alone: they hold no floating-point numbers."""

    def convert_input(self, data: Any) -> Any:
        return data


class ZeroStrategy(DeepSpeedStrategy):
    """DeepSpeed as Lightning runs it, also on the CPU, and dividing the loss by the accumulation once.

    Lightning (2.6) refuses any accelerator but CUDA, though DeepSpeed runs ZeRO over gloo. Three
    methods lift that; on a GPU they do what Lightning's do.
    """

    def __init__(self, config: dict[str, Any], backend: str):
        if backend == "gloo":
            os.environ["DS_ACCELERATOR"] = "cpu"
        try:
            import deepspeed
        except ImportError as error:
            raise ModelError("strategy=zero… needs DeepSpeed: pip install 'vicuna_lit[deepspeed]'") from error
        deepspeed.logger.setLevel("ERROR")
        super().__init__(config=config, process_group_backend=backend)

    def setup_environment(self) -> None:
        """DDP's; DeepSpeedStrategy's refuses the CPU."""
        DDPStrategy.setup_environment(self)

    def setup_distributed(self) -> None:
        """As DeepSpeedStrategy's, without its check of GPU numbers on the CPU."""
        if isinstance(self.accelerator, CUDAAccelerator):
            super().setup_distributed()
            return
        reset_seed()
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    def _setup_model_and_optimizer(self, model: nn.Module, optimizer: Any, lr_scheduler: Any = None) -> Any:
        import deepspeed

        precise = {name: buffer.clone() for name, buffer in model.named_buffers()}
        index = self.root_device.index
        trained: Any = [p for p in model.parameters() if p.requires_grad]
        engine, wrapped, _, _ = deepspeed.initialize(
            args=argparse.Namespace(device_rank=-1 if index is None else index),
            config=self.config,
            model=model,
            model_parameters=trained,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            dist_init_required=False,
        )
        if self.zero_stage_3:  # the head's matrix is used outside the module that owns it
            lm: Any = model.lm
            deepspeed.zero.register_external_parameter(lm, lm.head)
        for name, buffer in model.named_buffers():  # DeepSpeed rounds them to bf16, the rotary frequencies too
            buffer.data = precise[name].to(buffer.device)
        return engine, wrapped

    def backward(self, closure_loss: Tensor, optimizer: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Lightning has divided the loss by the accumulation already."""
        return super().backward(closure_loss, optimizer, *args, scale_wrt_gas=False, **kwargs)


def clip(module: L.LightningModule, limit: float | None) -> Tensor | None:
    """Clips the gradient to a norm and returns the norm before; None where DeepSpeed clips in its own step.

    Squares are summed in fp64: in fp32, torch's own norm is off by up to 1e-5, another amount for every sharding.
    """
    strategy = module.trainer.strategy
    if isinstance(strategy, ZeroStrategy):
        return None
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    local = [g.to_local() if isinstance(g, DTensor) else g for g in gradients]
    square = torch.stack([torch.linalg.vector_norm(g, dtype=torch.float64).square() for g in local]).sum()
    if isinstance(strategy, ShardedStrategy):
        square = sum_over_ranks(square.to(strategy.root_device))
    norm = square.sqrt()
    if limit is not None:
        factor = min(1.0, limit / (float(norm) + 1e-6))
        for gradient in local:
            gradient.mul_(factor)
    return norm


def deepspeed_norm(module: L.LightningModule) -> float:
    """The norm that DeepSpeed took in its last step."""
    strategy = module.trainer.strategy
    assert isinstance(strategy, ZeroStrategy)
    return float(strategy.deepspeed_engine.get_global_grad_norm() or 0.0)
