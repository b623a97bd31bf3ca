"""Weights, gradients and optimizer state sharded by layer (torch's `fully_shard`, FSDP2)."""

from collections.abc import Iterator
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.strategies.strategy import Strategy
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from vicuna_lit.config.choices import FSDPConfig
from vicuna_lit.models.causal_lm import SupervisedLM
from vicuna_lit.models.export import partition
from vicuna_lit.models.mixers import gathered_in_bf16
from vicuna_lit.train.checkpoint.format import TensorShard
from vicuna_lit.train.distributed import DistributedEnv, backend
from vicuna_lit.train.strategies.base import TrainStrategy, tensors, trained_weights


class FSDP(TrainStrategy):
    """FSDP2; the sharded weights are the fp32 masters."""

    def lightning(self, env: DistributedEnv) -> Strategy:
        """Lightning's object."""
        assert isinstance(self.config.strategy, FSDPConfig)
        return ShardedStrategy(self.config.strategy.offload, env.size, backend(self.config))

    def suits(self, strategy: Strategy) -> bool:
        """Ours alone."""
        return isinstance(strategy, ShardedStrategy)

    def shard(self, lm: SupervisedLM, mesh: DeviceMesh | None) -> None:
        """One group of weights per decoder layer, and one at the root for embeddings, last norm and head.

        Under bf16-mixed the linear layers of an attention or MLP are a group of their own. They are gathered in bf16,
        in which they multiply anyhow, and their gradients summed over ranks in fp32: to the bit what gathering fp32
        gives.

        Only the first rank has read the weights; the others get their shards of them here, and never hold more.
        """
        config = self.config
        assert isinstance(config.strategy, FSDPConfig)
        assert mesh is not None
        mesh = mesh["data_parallel"]
        mixed = MixedPrecisionPolicy()
        if config.precision == "bf16-true" and config.master_weights:
            mixed = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        offload = CPUOffloadPolicy(pin_memory=torch.cuda.is_available()) if config.strategy.offload else OffloadPolicy()
        first = dist.get_rank() == 0
        read = {name: tensor.detach() for name, tensor in lm.state_dict().items()} if first else {}
        halved = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        for linear in gathered_in_bf16(lm.model, config):
            fully_shard(linear if len(linear) > 1 else linear[0], mesh=mesh, mp_policy=halved, offload_policy=offload)
        for module in (*lm.layers, lm):
            fully_shard(module, mesh=mesh, mp_policy=mixed, offload_policy=offload)
        on_gpu = mesh.device_type == "cuda"
        device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
        if not first:
            lm.to_empty(device="cpu" if config.strategy.offload else device)
        deal = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, cpu_offload=config.strategy.offload)
        set_model_state_dict(lm, read, options=deal)
        for buffer in lm.buffers():  # rotary frequencies are in no state dict
            buffer.data = buffer.to(device)
            dist.broadcast(buffer, 0)

    def local_gradients(self, module: L.LightningModule) -> list[Tensor]:
        """This rank's shards of the gradient."""
        gradients: list[Any] = super().local_gradients(module)
        return [g.to_local() if isinstance(g, DTensor) else g for g in gradients]

    def local_shards(self, lm: SupervisedLM, optimizer: Any) -> Iterator[TensorShard]:
        """This rank's rows of every weight. A forward pass, as a validation's, leaves the root's weights whole."""
        for module in lm.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
        for name, weight in trained_weights(lm):
            start = sum(partition(weight)[1][: dist.get_rank()])
            for what, value in tensors(weight, optimizer.state.get(weight, {})):
                assert isinstance(value, DTensor)
                yield TensorShard(f"{what}/{name}", start, value.to_local().detach().view(-1))

    def sync_from_masters(self, lm: SupervisedLM, optimizer: Any) -> None:
        """The weights are their own masters."""


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
