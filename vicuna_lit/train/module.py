"""The LightningModule: what one optimizer step computes, whatever the layout."""

import math
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from vicuna_lit.data.batch import Batch
from vicuna_lit.data.schedule import Plan
from vicuna_lit.train.config import TrainConfig
from vicuna_lit.train.model import SupervisedLM
from vicuna_lit.train.optimizer import build_optimizer, lr_factor
from vicuna_lit.train.strategies import clip, deepspeed_norm, shard
from vicuna_lit.train.world import sum_over_ranks


class SupervisedModule(L.LightningModule):
    """Trains a `SupervisedLM` on the rows of a plan.

    A micro-batch's loss is the sum over its supervised tokens, divided by the number of supervised
    tokens in the whole step. Summed over micro-batches and ranks this is the gradient of one giant batch.

    After each optimizer step `step_loss` (nats per supervised token, over the whole step and all ranks) and
    `step_lr` hold that step's figures, and `grad_norm()` the norm before clipping.

    Args:
        start: optimizer steps that are done already. Lightning sees the rest of the plan alone, and counts its
            batches from 0; what follows from the step (rows, learning rate, figures) counts them all.
    """

    def __init__(self, lm: SupervisedLM, config: TrainConfig, plan: Plan, start: int = 0):
        super().__init__()
        self.lm, self.config, self.plan, self.start = lm, config, plan, start
        self.closes_step = False
        self._sum: Tensor = torch.zeros(())
        self._norm: Tensor | None = None
        self.step_loss: Tensor | float = math.nan
        self.step_lr = math.nan

    def configure_model(self) -> None:
        """Shards the weights where the strategy asks for it."""
        if self.device_mesh is not None:
            shard(self.lm, self.config, self.device_mesh["data_parallel"])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One micro-batch.

        Lightning divides the loss by the accumulation, the strategies by the ranks; the factor undoes both.
        """
        self.closes_step = self.step_done(batch_idx) is not None
        share = self.lm(SupervisedLM.loss_sum, batch) / batch.denominator
        self._sum = self._sum.to(share.device) + share.detach()
        if self.closes_step:
            self.step_loss, self._sum = sum_over_ranks(self._sum), torch.zeros(())
        return share * (self.plan.accumulation * self.plan.world_size)

    def step_done(self, batch_idx: int) -> int | None:
        """The optimizer step of the run, from 1, that this batch of Lightning's ends; None within a step."""
        step, rest = divmod(batch_idx + 1, self.plan.accumulation)
        return None if rest else self.start + step

    def last_step(self, batch_idx: int) -> int:
        """The last step that was done when this batch is."""
        return self.start + (batch_idx + 1) // self.plan.accumulation

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Measures the step's gradient norm and clips to it where the recipe says so."""
        self.step_lr = optimizer.param_groups[0]["lr"]
        self._norm = clip(self, self.config.optimizer.clip_norm)

    def grad_norm(self) -> float:
        """The gradient's norm over all weights in the last step, before clipping."""
        return deepspeed_norm(self) if self._norm is None else float(self._norm)

    def configure_optimizers(self) -> Any:
        """The optimizer of the config; warm-up and decay over the steps of the plan."""
        c = self.config.optimizer
        trained = [p for p in self.lm.parameters() if p.requires_grad]
        optimizer = build_optimizer(trained, c, master_weights=self._wraps_masters())
        scheduler = LambdaLR(optimizer, lambda step: lr_factor(self.start + step, self.plan.steps, c))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _wraps_masters(self) -> bool:
        """FSDP keeps fp32 shards and DeepSpeed fp32 copies by themselves."""
        return self.config.master_weights and self.config.strategy.kind in ("single", "ddp")
