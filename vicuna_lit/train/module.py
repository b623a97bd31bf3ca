"""The LightningModule: what one optimizer step computes, whatever the layout."""

import math
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from vicuna_lit.data.batch import Batch
from vicuna_lit.data.schedule import Plan
from vicuna_lit.train.config import OptimizerConfig
from vicuna_lit.train.heldout import HeldoutLoss
from vicuna_lit.train.model import SupervisedLM


class SupervisedModule(L.LightningModule):
    """Trains a `SupervisedLM` on the rows of a plan.

    A micro-batch's loss is the sum over its supervised tokens, divided by the number of supervised
    tokens in the whole step. Summed over micro-batches this is the gradient of one giant batch.

    After each optimizer step `step_loss` (nats per supervised token, over the whole step) and
    `step_grad_norm` (before clipping) and `step_lr` hold that step's figures.
    """

    def __init__(self, lm: SupervisedLM, optimizer: OptimizerConfig, plan: Plan):
        super().__init__()
        self.lm, self.optimizer_config, self.plan = lm, optimizer, plan
        self.heldout = HeldoutLoss()
        self._sum: Tensor | float = 0.0
        self.step_loss: Tensor | float = math.nan
        self.step_grad_norm: Tensor | float = math.nan
        self.step_lr = math.nan

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One micro-batch. Lightning divides by the accumulation; the factor undoes that."""
        share = self.lm(SupervisedLM.loss_sum, batch) / batch.denominator
        self._sum = self._sum + share.detach()
        if (batch_idx + 1) % self.plan.accumulation == 0:
            self.step_loss, self._sum = self._sum, 0.0
        return share * self.plan.accumulation

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """One row of held-out conversations."""
        self.heldout.add(batch, self.lm(SupervisedLM.token_losses, batch))

    def on_validation_epoch_start(self) -> None:
        """Starts a new held-out measurement."""
        self.heldout = HeldoutLoss()

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Measures the step's gradient norm and clips to it where the recipe says so."""
        self.step_lr = optimizer.param_groups[0]["lr"]
        limit = self.optimizer_config.clip_norm
        self.step_grad_norm = torch.nn.utils.clip_grad_norm_(self.lm.parameters(), math.inf if limit is None else limit)

    def configure_optimizers(self) -> Any:
        """AdamW; weight decay on matrices only; warm-up and decay over the steps of the plan."""
        c = self.optimizer_config
        trained = [p for p in self.lm.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": c.weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=c.lr, betas=c.betas, eps=c.eps)
        scheduler = LambdaLR(optimizer, lambda step: lr_factor(step, self.plan.steps, c))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def lr_factor(step: int, steps: int, config: OptimizerConfig) -> float:
    """The share of the peak rate at a step: linear warm-up from 0, then down to 0 (transformers' curves)."""
    warmup = math.ceil(config.warmup_ratio * steps)
    if step < warmup:
        return step / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    match config.schedule:
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        case "linear":
            return max(0.0, 1 - progress)
        case "constant":
            return 1.0
