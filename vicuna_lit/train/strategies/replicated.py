"""One process, or the whole model on every device (torch's DistributedDataParallel)."""

from collections.abc import Iterator
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy
from lightning.pytorch.strategies.strategy import Strategy
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from vicuna_lit.models.automatic import on_gpu
from vicuna_lit.models.causal_lm import SupervisedLM
from vicuna_lit.run_folder import RunError
from vicuna_lit.train.checkpoint.format import TensorShard
from vicuna_lit.train.distributed import DistributedEnv, average_over_ranks, backend
from vicuna_lit.train.optimizer import MasterWeights
from vicuna_lit.train.strategies.base import TrainStrategy, tensors, trained_weights


class Single(TrainStrategy):
    """One process on one device."""

    def lightning(self, env: DistributedEnv) -> Strategy:
        """Lightning's object."""
        return SingleDeviceStrategy("cuda:0" if on_gpu(self.config) else "cpu")

    def suits(self, strategy: Strategy) -> bool:
        """One device, or copies."""
        copies = isinstance(strategy, DDPStrategy) and not isinstance(strategy, DeepSpeedStrategy)
        return copies or isinstance(strategy, SingleDeviceStrategy)

    def check(self, strategy: Strategy) -> None:
        """
        Raises:
            RunError: torch's DistributedDataParallel would sum gradients in bf16, which rounds them otherwise for each
                number of devices.
        """
        super().check(strategy)
        plain_ddp = isinstance(strategy, DDPStrategy) and not isinstance(strategy, Fp32SumsStrategy)
        if plain_ddp and self.config.precision == "bf16-true":
            raise RunError(
                "L.Trainer(strategy='ddp') sums gradients of bf16 weights in bf16: vicuna_lit.fit with strategy=ddp "
                "sums them in fp32, or precision=bf16-mixed"
            )

    def shard(self, lm: SupervisedLM, mesh: DeviceMesh | None) -> None:
        """The model stays whole."""

    def local_shards(self, lm: SupervisedLM, optimizer: Any) -> Iterator[TensorShard]:
        """Everything, on every rank."""
        masters = {id(weight): master for weight, master in getattr(optimizer, "pairs", ())}
        for name, weight in trained_weights(lm):
            master = masters.get(id(weight), weight)
            for what, value in tensors(master, optimizer.state.get(master, {})):
                yield TensorShard(f"{what}/{name}", 0, value.detach().view(-1), everywhere=True)

    @torch.no_grad()
    def sync_from_masters(self, lm: SupervisedLM, optimizer: Any) -> None:
        """Rounds the masters."""
        if isinstance(optimizer, MasterWeights):
            for weight, master in optimizer.pairs:
                weight.copy_(master)


class DDP(Single):
    """Gradients are averaged by DistributedDataParallel; those of bf16 weights, and of own losses, by `clip`."""

    def lightning(self, env: DistributedEnv) -> Strategy:
        """Lightning's object."""
        if self.config.precision == "bf16-true":
            return Fp32SumsStrategy(process_group_backend=backend(self.config))
        return CopiesStrategy(process_group_backend=backend(self.config), gradient_as_bucket_view=True)

    def local_gradients(self, module: L.LightningModule) -> list[Tensor]:
        """All of the gradient, averaged over ranks."""
        gradients = super().local_gradients(module)
        strategy = module.trainer.strategy
        if isinstance(strategy, CopiesStrategy) and strategy.averages_late:
            average_over_ranks(gradients)
        return gradients


class CopiesStrategy(DDPStrategy):
    """ddp whose first process alone has read the weights; torch's DistributedDataParallel sends them to the others."""

    def model_to_device(self) -> None:
        """Makes room where there are no weights yet."""
        assert self.lightning_module is not None
        lm: Any = self.lightning_module.lm
        if any(parameter.is_meta for parameter in lm.parameters()):
            lm.to_empty(device=self.root_device)
            lm.model.tie_weights()
        super().model_to_device()

    @property
    def averages_late(self) -> bool:
        """Whether `DDP.local_gradients` averages gradients once a step, and torch's DistributedDataParallel does not.

        It would wait for a gradient of each weight, and a loss of the user's own may leave some out.
        """
        module: Any = self.lightning_module
        return module.has_own_loss

    def configure_ddp(self) -> None:
        """All processes begin with the first one's weights."""
        if not self.averages_late:
            super().configure_ddp()
            return
        assert self.model is not None
        for tensor in (*self.model.parameters(), *self.model.buffers()):
            dist.broadcast(tensor.detach(), 0)


class Fp32SumsStrategy(CopiesStrategy):
    """ddp for bf16 weights, whose gradients are sums in fp32.

    torch's DistributedDataParallel reduces gradients in the weights' dtype, in buckets of its own. Nothing is wrapped
    here, so there are no buckets either; the transfer does not overlap with the step's last backward pass.
    """

    @property
    def averages_late(self) -> bool:
        """Always."""
        return True
