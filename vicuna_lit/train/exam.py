"""What the model is asked before, during and after training: held-out conversations and sample questions."""

from typing import Any

import lightning as L
import torch

from vicuna_lit.chat.engine import Chat
from vicuna_lit.data.batch import Batch
from vicuna_lit.data.datamodule import ConversationData
from vicuna_lit.train.attention import plain_attention
from vicuna_lit.train.heldout import HeldoutLoss
from vicuna_lit.train.logbook import Logbook, heldout_metrics
from vicuna_lit.train.model import SupervisedLM
from vicuna_lit.train.terminal import console

Replies = list[tuple[str, str]]


class Exam(L.Callback):
    """Takes the held-out loss and the sample replies. All ranks take part; the rows are dealt to them.

    What was found before training is part of a checkpoint, so a run that goes on reports it too.
    """

    def __init__(self, data: ConversationData, logbook: Logbook):
        self.data, self.logbook, self.config = data, logbook, data.config
        self.before: dict[str, float] | None = None
        self.after: dict[str, float] = {}
        self.replies_before: Replies = []
        self.replies_after: Replies = []

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Before the first step."""
        if self.before is None:
            self.before = self._heldout(trainer, pl_module.lm, "before")
            self.replies_before = self._answer(pl_module.lm)
        self.logbook.start_clock()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Every so many steps."""
        every, (step, micro) = self.config.heldout.every_steps, divmod(batch_idx + 1, pl_module.plan.accumulation)
        if every and not micro and step % every == 0 and step < pl_module.plan.steps:
            self._heldout(trainer, pl_module.lm, f"at step {step}")
            self.logbook.start_clock()

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """After the last step."""
        self.after = self._heldout(trainer, pl_module.lm, "after")
        self.replies_after = self._answer(pl_module.lm)

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"before": self.before, "replies_before": self.replies_before}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From the checkpoint."""
        self.before = state_dict["before"]
        self.replies_before = [(question, reply) for question, reply in state_dict["replies_before"]]

    def _heldout(self, trainer: L.Trainer, lm: SupervisedLM, when: str) -> dict[str, float]:
        if not len(self.data.heldout):
            return {}
        with console.status(f"held-out loss {when} training: {len(self.data.heldout)} conversations …"):
            loss = measure(lm, self.data, trainer.strategy.root_device)
        where = when if when.startswith("at") else f"{when} training"
        console.print(f"held-out loss {where}: {loss.loss:.4f}", highlight=False)
        metrics = heldout_metrics(loss)
        for logger in trainer.loggers:
            logger.log_metrics(metrics, trainer.global_step)
        return metrics

    def _answer(self, lm: SupervisedLM) -> Replies:
        training = lm.training
        lm.eval()
        replies = lm(lambda lm: _answers(lm, self.data)) if self.config.sample.questions else []
        lm.train(training)
        return replies


@torch.no_grad()
def measure(lm: SupervisedLM, data: ConversationData, device: torch.device) -> HeldoutLoss:
    """The loss of every supervised token of the held-out conversations, of all ranks."""
    heldout, training, rows = HeldoutLoss(), lm.training, data.heldout_rows()
    lm.eval()
    for i in range(len(rows)):
        batch: Batch = rows[i].to(device)
        heldout.add(batch, lm(SupervisedLM.token_losses, batch))
    lm.train(training)
    heldout.gather()
    return heldout


def _answers(lm: SupervisedLM, data: ConversationData) -> Replies:
    """The model's replies to the sample questions, turn after turn; the same on every rank."""
    out = []
    sample = data.config.sample
    with plain_attention(lm.model):
        for questions in sample.questions:
            chat = Chat(lm.model, data.encoder)
            out += [(question, chat.say(question, sample.max_new_tokens)) for question in questions]
    return out
