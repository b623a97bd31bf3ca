"""DeepSpeed's ZeRO, stages 1 to 3, on GPUs and over gloo."""

import argparse
import os
from collections.abc import Callable, Iterator
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch.accelerators.cuda import CUDAAccelerator
from lightning.pytorch.plugins.precision.deepspeed import DeepSpeedPrecision
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy
from lightning.pytorch.strategies.strategy import Strategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from vicuna_lit.config.choices import ZeroConfig
from vicuna_lit.config.train import Computation
from vicuna_lit.models.causal_lm import SupervisedLM
from vicuna_lit.models.export import partition
from vicuna_lit.paths import ModelError
from vicuna_lit.train.checkpoint.format import TensorShard
from vicuna_lit.train.distributed import DistributedEnv, backend
from vicuna_lit.train.strategies.base import TrainStrategy, tensors, trained_weights


class Zero(TrainStrategy):
    """Stages 1 and 2: the whole weights on every device. DeepSpeed keeps fp32 copies, and clips in its own step."""

    def lightning(self, env: DistributedEnv) -> Strategy:
        """Lightning's object."""
        return ZeroStrategy(deepspeed_config(self.config), backend(self.config))

    def suits(self, strategy: Strategy) -> bool:
        """Ours alone: Lightning's divides the loss by the accumulation twice."""
        return isinstance(strategy, ZeroStrategy)

    def plugins(self) -> list[Any]:
        """Batches stay as they are."""
        return [_AsItIs("32-true")]

    def shard(self, lm: SupervisedLM, mesh: DeviceMesh | None) -> None:
        """DeepSpeed cuts the weights by itself."""

    def clip(self, module: L.LightningModule, optimizer: Any, limit: float | None) -> Callable[[], Tensor | float]:
        """DeepSpeed clips in its own step, and has taken the norm then."""
        strategy: Any = module.trainer.strategy
        return lambda: float(strategy.deepspeed_engine.get_global_grad_norm() or 0.0)

    def flat_groups(self, zero: Any) -> list[Tensor]:
        """This rank's part of all trained weights in fp32, a flat tensor for each group of the optimizer."""
        return list(zero.single_partition_of_fp32_groups)

    def local_shards(self, lm: SupervisedLM, optimizer: Any) -> Iterator[TensorShard]:
        """This rank's part of a group's flat fp32 tensor holds a stretch of a weight, or nothing."""
        for name, weight in trained_weights(lm):
            mapping = weight._hp_mapping
            if mapping is None:
                continue
            place, start = mapping.hp_fragment_address, mapping.lp_fragment_address.start
            flat = self.flat_groups(optimizer)[mapping.param_group_index]
            for what, value in tensors(flat, optimizer.optimizer.state.get(flat, {})):
                yield TensorShard(f"{what}/{name}", start, value.detach()[place.start : place.start + place.numel])

    def allocate_state(self, optimizer: Any, step: int) -> None:
        """AdamW's state of the flat tensors."""
        for flat in self.flat_groups(optimizer):
            counted = torch.tensor(float(step), device=flat.device)
            moments = {key: torch.zeros_like(flat) for key in ("exp_avg", "exp_avg_sq")}
            optimizer.optimizer.state[flat] = {"step": counted, **moments}

    @torch.no_grad()
    def sync_from_masters(self, lm: SupervisedLM, optimizer: Any) -> None:
        """Rounds and gathers the flat tensors."""
        optimizer.update_lp_params()


class Zero3(Zero):
    """Stage 3: every weight is cut flat, the last part padded."""

    def flat_groups(self, zero: Any) -> list[Tensor]:
        """This rank's part of all trained weights in fp32, a flat tensor for each group of the optimizer."""
        return list(zero.fp32_partitioned_groups_flat)

    def local_shards(self, lm: SupervisedLM, optimizer: Any) -> Iterator[TensorShard]:
        """This rank's stretch of every weight."""
        rank, flats = dist.get_rank(), self.flat_groups(optimizer)
        for name, weight in trained_weights(lm):
            group, offset, _ = optimizer.grad_position[optimizer.get_param_id(weight)]
            flat, sizes = flats[group], partition(weight)[1]
            for what, value in tensors(flat, optimizer.optimizer.state.get(flat, {})):
                piece = value.detach()[offset : offset + sizes[rank]]
                yield TensorShard(f"{what}/{name}", sum(sizes[:rank]), piece)

    @torch.no_grad()
    def sync_from_masters(self, lm: SupervisedLM, optimizer: Any) -> None:
        """Rounds this rank's part; weights that are small enough to stay whole are gathered again."""
        flats = self.flat_groups(optimizer)
        for _, weight in trained_weights(lm):
            group, offset, length = optimizer.grad_position[optimizer.get_param_id(weight)]
            weight.ds_tensor.copy_(flats[group][offset : offset + length])
        if gathered := optimizer.persistent_parameters:
            gathered[0].partition(gathered)
            gathered[0].all_gather(gathered)


def deepspeed_config(config: Computation) -> dict[str, Any]:
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
        if self.zero_stage_3:  # the head's weights are used outside the module that owns them
            lm: Any = model.lm
            for parameter in lm.model.get_output_embeddings().parameters():
                deepspeed.zero.register_external_parameter(lm, parameter)
        for name, buffer in model.named_buffers():  # DeepSpeed rounds them to bf16, the rotary frequencies too
            buffer.data = precise[name].to(buffer.device)
        return engine, wrapped

    def backward(self, closure_loss: Tensor, optimizer: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Lightning has divided the loss by the accumulation already."""
        return super().backward(closure_loss, optimizer, *args, scale_wrt_gas=False, **kwargs)
