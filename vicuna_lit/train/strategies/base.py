"""What every strategy answers. No choice here changes what is computed.

Every strategy averages gradients over ranks; `SupervisedModule.training_step` undoes that.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies.strategy import Strategy
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from vicuna_lit.config.train import Computation
from vicuna_lit.models.automatic import on_gpu
from vicuna_lit.models.causal_lm import SupervisedLM
from vicuna_lit.run_folder import RunError
from vicuna_lit.train.checkpoint.format import Shards, TensorShard
from vicuna_lit.train.distributed import DistributedEnv, all_reduce_sum
from vicuna_lit.train.gradients import clip_factor, scale, squared_norm
from vicuna_lit.train.optimizer import Bf16, Bf16Weights, InFp32


class TrainStrategy(ABC):
    """How the work is spread over devices: one class a strategy, one file a family of them.

    The state of a run is flat pieces, whatever the strategy makes of it: weights (fp32 masters where there are some)
    and optimizer state, under the same names everywhere: `weight/<name>`, `exp_avg/<name>`, …

    What others ask of it are its config's `facts`; what it does are the methods here.

    Args:
        config: of the run; its `strategy` has chosen this class.
    """

    def __init__(self, config: Computation):
        self.config, self.facts = config, config.strategy.facts

    @property
    def bf16(self) -> Bf16:
        """How the optimizer steps bf16 weights."""
        if self.facts.fp32_copies != "optimizer":
            return "elsewhere"
        return "masters" if self.config.master_weights else "alone"

    @abstractmethod
    def lightning(self, env: DistributedEnv) -> Strategy:
        """Lightning's object."""

    @abstractmethod
    def suits(self, strategy: Strategy) -> bool:
        """Whether it can work under one of Lightning's."""

    def check(self, strategy: Strategy) -> None:
        """Whether the trainer's strategy does what this one counts on: `fit` makes it, a script brings any.

        Raises:
            RunError: it does not.
        """
        if not self.suits(strategy):
            raise RunError(
                f"the config has strategy={self.facts.name}, the trainer {type(strategy).__name__}: "
                "gradients would be averaged or clipped otherwise. An own L.Trainer has one device or ddp, and the "
                "config strategy=single or ddp; vicuna_lit.fit has the others"
            )

    def plugins(self) -> list[Any]:
        """Further plugins of Lightning's Trainer."""
        return []

    def build_device(self, env: DistributedEnv) -> str:
        """The device that a process builds its model on; `meta`: it gets the first process's weights later.

        One process reads the weights, straight onto its GPU where the whole model is to lie there. Those in 4 bits are
        read by every process, since their scales are no weights. Random weights are drawn on the CPU, so that
        they are the same ones on every device.
        """
        if env.rank and self.facts.first_reads and not self.config.finetune.facts.in_4_bits:
            return "meta"
        if self.config.model.path is None or not on_gpu(self.config) or self.facts.sharded == "weights":
            return "cpu"
        return f"cuda:{torch.cuda.current_device()}"

    @abstractmethod
    def shard(self, lm: SupervisedLM, mesh: DeviceMesh | None) -> None:
        """Cuts the model, where neither Lightning nor its library does it; `mesh` is Lightning's, where it has one."""

    def clip(self, module: L.LightningModule, optimizer: Any, limit: float | None) -> Callable[[], Tensor | float]:
        """Clips the gradient to a norm. Returns what gives the norm before, once the optimizer has stepped.

        A trained weight that nothing of this step came to (an expert, or a head that an own loss does without) has a
        gradient of 0. Without one the optimizer would pass it over, count its steps for itself and keep no state of it,
        and a checkpoint could not be restored.

        On a GPU nothing waits for the norm.
        """
        for _, weight in trained_weights(module.lm):  # pyright: ignore[reportArgumentType]  # `SupervisedModule`'s
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight, dtype=weight.grad_dtype)
        local = self.local_gradients(module)
        norm = self.sum_of_squares(torch.stack([squared_norm(gradient) for gradient in local]).sum(), module).sqrt()
        if limit is not None:
            factor = clip_factor(norm, limit)
            if isinstance(optimizer, InFp32):
                optimizer.factor = factor
            else:
                scale(local, factor)
        return norm.detach  # a tensor: nothing waits for it here

    def local_gradients(self, module: L.LightningModule) -> list[Tensor]:
        """What this rank has of the step's gradient."""
        return [p.grad for p in module.parameters() if p.grad is not None]

    def sum_of_squares(self, square: Tensor, module: L.LightningModule) -> Tensor:
        """Of the whole gradient, from this rank's: the sum over all ranks' shards, where it is cut."""
        if self.facts.sharded in ("nothing", "state"):
            return square
        return all_reduce_sum(square.to(module.trainer.strategy.root_device))

    @abstractmethod
    def local_shards(self, lm: SupervisedLM, optimizer: Any) -> Iterator[TensorShard]:
        """What this rank holds of every trained weight and its optimizer state; talks to no other rank."""

    def restore(self, lm: SupervisedLM, optimizer: Any, shards: Shards, step: int) -> None:
        """Puts a checkpoint's state in place; every rank calls it.

        Raises:
            RunError: the checkpoint lacks something.
        """
        self.allocate_state(optimizer, step)
        for piece in self.local_shards(lm, optimizer):
            shards.read_into(piece)
        self.sync_from_masters(lm, optimizer)

    def allocate_state(self, optimizer: Any, step: int) -> None:
        """Optimizer state as it looks after `step` steps; the numbers come from the checkpoint."""
        rates = [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        trained = [weight for weight, _ in getattr(optimizer, "pairs", ())]
        for weight in trained or (p for group in optimizer.param_groups for p in group["params"]):
            weight.grad = torch.zeros_like(weight, dtype=weight.grad_dtype)
        optimizer.step()
        if isinstance(optimizer, Bf16Weights):
            optimizer.steps_done = step
        optimizer.zero_grad()
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        for state in optimizer.state.values():
            counted = state["step"]
            state["step"] = counted.fill_(step) if isinstance(counted, Tensor) else step

    @abstractmethod
    def sync_from_masters(self, lm: SupervisedLM, optimizer: Any) -> None:
        """Brings the weights that are computed with in line with their masters."""


def trained_weights(lm: SupervisedLM) -> Iterator[tuple[str, Any]]:
    """The trained weights with their names."""
    return ((name, weight) for name, weight in lm.named_parameters() if weight.requires_grad)


def tensors(weight: Tensor, state: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """The weight, and its state but for the step, which is the run's, each with its kind's name."""
    yield "weight", weight
    for key, value in state.items():
        if isinstance(value, Tensor) and key != "step":
            yield key, value
