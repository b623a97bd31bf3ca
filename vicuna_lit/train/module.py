"""The LightningModule: what one optimizer step computes, whatever the layout."""

import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import lightning as L
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler, StochasticWeightAveraging
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from vicuna_lit.config.train import Computation
from vicuna_lit.data.batch import Batch
from vicuna_lit.data.encoder import Encoder
from vicuna_lit.data.plan import Plan
from vicuna_lit.data.tokenizer import make_encoder
from vicuna_lit.hub import fetched
from vicuna_lit.models.automatic import on_gpu, resolved
from vicuna_lit.models.causal_lm import SupervisedLM, build_model
from vicuna_lit.models.decoder import beside_matrices
from vicuna_lit.run_folder import RunError
from vicuna_lit.train.distributed import all_reduce_sum
from vicuna_lit.train.gradients import sum_in_fp32
from vicuna_lit.train.optimizer import build_optimizer, lr_factor
from vicuna_lit.train.own_loss import own_loss
from vicuna_lit.train.seeding import seeded
from vicuna_lit.train.strategies import strategy_of
from vicuna_lit.train.validation_loss import ValidationLoss

Module = TypeVar("Module", bound="SupervisedModule")


class SupervisedModule(L.LightningModule):
    """Trains a `SupervisedLM` on the rows of a plan.

    A micro-batch's loss is the sum over its supervised tokens, divided by the number of supervised tokens in the whole
    step, over all micro-batches and ranks; Σ w · nll / Σ w, where turns have weights. The plan knows that number before
    training (`Plan.denominators`), and every batch brings it (`Batch.denominator`): nothing is communicated for it.
    Summed over micro-batches and ranks this is the gradient of one giant batch; `training_step` says who divides where.

    After each optimizer step `step_loss` (nats per supervised token, over the whole step and all ranks) and
    `step_lr` hold that step's figures, and `grad_norm()` the norm before clipping. Lightning's callbacks and loggers
    see `train/loss` and `train/grad_norm` of each step, and `val/loss` of each validation.

    It trains under `fit`, and under anybody's `L.Trainer(max_epochs=1)` with the same losses (one device, or ddp).
    Override `loss` for another one.

    Args:
        plan: None: the one of the trainer's data.
        start: optimizer steps that are done already. Lightning sees the rest of the plan alone, and counts its
            batches from 0; what follows from the step (rows, learning rate, figures) counts them all.
    """

    plan: Plan

    def __init__(self, lm: SupervisedLM, config: Computation, plan: Plan | None = None, start: int = 0):
        super().__init__()
        self.lm, self.config, self.start = lm, config, start
        self.strategy = strategy_of(config)
        if plan is not None:
            self.plan = plan
        self.validation = ValidationLoss(config.data.validated_sources)
        """Of the validation that is under way, or was the last."""
        self.closes_step = False
        self._sum: Tensor = torch.zeros(())
        self._norm: Callable[[], Tensor | float] = partial(float, "nan")
        self.step_loss: Tensor | float = math.nan
        self.step_lr = math.nan

    def configure_model(self) -> None:
        """Shards the weights where the strategy asks for it."""
        self.strategy.shard(self.lm, self.device_mesh)

    @classmethod
    def of(cls: type[Module], config: Computation, encoder: Encoder | None = None) -> Module:
        """With the config's model; random weights are those of its seed.

        On a GPU `gradient_checkpointing=auto` becomes `full`: choosing a level needs the plan, which is made later.

        Raises:
            ModelError, TemplateError, MissingPath: the model or the tokenizer cannot be had.
            RunError: the config `extends` another run.
        """
        if config.extends is not None:
            raise RunError("extends: vicuna_lit.fit alone takes over another run's state; extends=null")
        config = fetched(config)
        encoder = encoder or make_encoder(config)
        with seeded(config.seed):
            model = build_model(config, encoder)
        config = resolved(config, model, on_gpu(config))
        if config.gradient_checkpointing == "auto":
            config = config.model_copy(update={"gradient_checkpointing": "full"})
        return cls(SupervisedLM.of(model, config), config)

    def setup(self, stage: str) -> None:
        """Takes the plan of the data.

        Raises:
            RunError: the trainer has settings that are the config's to make.
        """
        warnings.filterwarnings("ignore", "It is recommended to use `self.log")  # on all ranks the figures are the same
        if not hasattr(self, "plan"):
            self.plan = self.trainer.datamodule.plan  # pyright: ignore[reportAttributeAccessIssue]  # Lightning's
        if stage == "fit":
            self._refuse_own_weights()
            self._refuse_other_steps(self.trainer)
            self.strategy.check(self.trainer.strategy)

    def _refuse_own_weights(self) -> None:
        """The optimizer has the model's weights alone, and so have checkpoints and the export."""
        if type(self).configure_optimizers is not SupervisedModule.configure_optimizers:
            return
        of_model = {id(weight) for weight in self.lm.parameters()}
        own = [name for name, w in self.named_parameters() if w.requires_grad and id(w) not in of_model]
        if own:
            raise RunError(
                f"{type(self).__name__} has weights of its own, which nothing would train or save: "
                f"{', '.join(own[:3])}; requires_grad=False for those that stay as they are, or configure_optimizers "
                "of your own under an own L.Trainer"
            )

    def _refuse_other_steps(self, trainer: Any) -> None:
        if trainer.max_epochs != 1:
            raise RunError("L.Trainer(max_epochs=1): the plan holds all epochs, as trainer.epochs of the config says")
        if trainer.gradient_clip_val is not None:
            raise RunError("L.Trainer(gradient_clip_val=None): optimizer.clip_norm of the config clips")
        if not str(trainer.precision).startswith("32"):
            raise RunError(f"L.Trainer(precision={trainer.precision!r}): leave it out, the config's precision counts")
        for callback in trainer.callbacks:
            if isinstance(callback, GradientAccumulationScheduler | StochasticWeightAveraging):
                raise RunError(
                    f"{type(callback).__name__} counts in epochs, and the plan is one that holds all of them; leave it "
                    "out: accumulation follows from tokens_per_device, the learning rate from optimizer.schedule"
                )

    def on_fit_start(self) -> None:
        """The accumulation is the plan's."""
        trainer: Any = self.trainer
        trainer.accumulate_grad_batches = self.plan.accumulation
        trainer.fit_loop.epoch_loop._batches_that_stepped = self.start  # what loggers take for the step

    def on_train_start(self) -> None:
        """Rejects a start that Lightning itself has resumed, and one that ends within a step.

        Raises:
            RunError: so.
        """
        batches, each = self.trainer.num_training_batches, self.plan.accumulation
        if batches % each:  # Lightning would step on what there is of the last gradient
            raise RunError(
                f"the trainer ends after {batches} batches, within an optimizer step, which has {each}: a multiple of "
                f"{each} for limit_train_batches (overfit_batches, fast_dev_run), or trainer.max_steps of the config"
            )
        if self.trainer.fit_loop.epoch_loop.batch_progress.current.ready:
            raise RunError("a checkpoint of Lightning's does not know the rows that are done: vicuna_lit.fit resumes")

    def loss(self, batch: Batch) -> Tensor:
        """The row's loss, summed over its supervised tokens; `training_step` divides by those of the whole step.

        It is computed within `SupervisedLM.forward`, where the hooks of sharded weights run.

        Where turns have weights, `batch.target_weights` says how often each token counts, and the divisor is their sum.
        A validation takes the cross-entropy of each token once, whatever this is. Random numbers in here are a function
        of the seed, the step and the micro-batch (`drawn_at`), the same on every rank.
        """
        return self.lm(SupervisedLM.row_loss, batch)

    @property
    def has_own_loss(self) -> bool:
        """Whether a subclass computes the loss: it may draw random numbers, and leave weights out."""
        return type(self).loss is not SupervisedModule.loss

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One micro-batch.

        Lightning divides the loss by the accumulation (DeepSpeed does not once more: `scale_wrt_gas=False` in
        `strategies/zero.py`). Gradients are averaged over the ranks: by torch's DDP and FSDP, by DeepSpeed, or under
        ddp for bf16 weights and own losses by `average_over_ranks`. The factor below undoes both, so what is left is
        the sum over the step divided by the step's supervised tokens. `step_loss` is that sum, added up over
        micro-batches and ranks.
        """
        self.closes_step = self.step_done(batch_idx) is not None
        micro_batch = self.start * self.plan.accumulation + batch_idx
        share = (own_loss(self, batch, micro_batch) if self.has_own_loss else self.loss(batch)) / batch.denominator
        self._sum = self._sum.to(share.device) + share.detach()
        if self.closes_step:
            self.step_loss, self._sum = all_reduce_sum(self._sum), torch.zeros(())
        return share * (self.plan.accumulation * self.plan.world_size)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """The step's figures for Lightning's callbacks and loggers; nothing waits for a GPU."""
        if self.closes_step:
            self.log("train/loss", self.step_loss, on_step=True, on_epoch=False)
            self.log("train/grad_norm", self._norm(), on_step=True, on_epoch=False)

    def on_validation_epoch_start(self) -> None:
        """Begins anew."""
        self.validation = ValidationLoss(self.config.data.validated_sources)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The loss of every supervised token of a row."""
        self.validation.add(batch, self.lm(SupervisedLM.token_losses, batch))

    def on_validation_epoch_end(self) -> None:
        """All ranks' tokens together; Lightning's own means would weigh rows, not tokens.

        What is logged here is for callbacks and own loggers; in W&B those of `ValidationCallback` replace it.
        """
        self.validation.gather()
        if self.validation.tokens:
            self.log_dict(self.validation.metrics())

    def step_done(self, batch_idx: int) -> int | None:
        """The optimizer step of the run, from 1, that this batch of Lightning's ends; None within a step."""
        step, rest = divmod(batch_idx + 1, self.plan.accumulation)
        return None if rest else self.start + step

    def last_step(self, batch_idx: int) -> int:
        """The last step that was done when this batch is."""
        return self.start + (batch_idx + 1) // self.plan.accumulation

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Measures the step's gradient norm, and clips it to `optimizer.clip_norm` where that is set."""
        self.step_lr = optimizer.param_groups[0]["lr"]
        self._norm = self.strategy.clip(self, optimizer, self.config.optimizer.clip_norm)

    def grad_norm(self) -> float:
        """The gradient's norm over all weights in the last step, before clipping."""
        return float(self._norm())

    def configure_optimizers(self) -> Any:
        """The optimizer of the config; warm-up and decay over the steps of the plan."""
        c = self.config.optimizer
        trained = [p for p in self.lm.parameters() if p.requires_grad]
        bf16 = self.strategy.bf16
        if bf16 != "elsewhere" and (self.plan.accumulation > 1 or not self.strategy.facts.one_process):
            sum_in_fp32(trained)
        optimizer = build_optimizer(trained, c, bf16, self.config.seed, beside_matrices(self.lm))
        scheduler = LambdaLR(optimizer, lambda step: lr_factor(self.start + step, self.plan.steps, c))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
