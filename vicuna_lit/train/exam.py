"""What the model is asked before, during and after training: held-out conversations and sample questions."""

from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import torch

from vicuna_lit.chat.engine import Chat
from vicuna_lit.data.batch import Batch
from vicuna_lit.data.datamodule import ConversationData
from vicuna_lit.train.attention import plain_attention
from vicuna_lit.train.heldout import HeldoutLoss
from vicuna_lit.train.history import History
from vicuna_lit.train.model import SupervisedLM
from vicuna_lit.train.terminal import console
from vicuna_lit.train.times import Times

Replies = list[tuple[str, str]]


class Exam(L.Callback):
    """Takes the held-out loss and the sample replies. All ranks take part; the rows are dealt to them.

    What was found is part of a checkpoint, so a run that goes on reports it too. A step is saved before its exam,
    so a run that goes on from there takes the exam first.

    Args:
        found: `state()` of the run so far.
        pause: called between two questions with (trainer, module, step); it may end the run.
    """

    def __init__(
        self,
        data: ConversationData,
        history: History,
        times: Times,
        found: dict[str, Any] | None,
        pause: Callable[[L.Trainer, Any, int], None],
    ):
        self.data, self.history, self.times, self.pause, self.config = data, history, times, pause, data.config
        self.heldout: dict[int, dict[str, float]] = {}
        """By step; 0 is before training."""
        self.before: Replies | None = None
        if found:
            self.heldout = {int(step): metrics for step, metrics in found["heldout"].items()}
            self.before = [(question, reply) for question, reply in found["before"]]
        self.after: Replies = []

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"heldout": self.heldout, "before": self.before}

    @property
    def best(self) -> int | None:
        """The step with the lowest held-out loss, the first not counted."""
        return min((step for step in self.heldout if step), key=lambda s: self.heldout[s]["heldout/loss"], default=None)

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Before the first step, or where the run was stopped."""
        start, last = pl_module.start, pl_module.plan.steps
        self.times.lap("start")
        if self.before is None:
            self._take(trainer, pl_module, 0, "before training")
            self.before = self._answer(trainer, pl_module, 0)
        elif start < last and self._due(start):
            self._take(trainer, pl_module, start, f"at step {start}")
        self.times.lap("exam")
        self.times.close(start)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Every so many steps; after the last, `finish` does."""
        step = pl_module.step_done(batch_idx)
        if step is not None and step < pl_module.plan.steps and self._due(step):
            self.times.lap("step")
            self._take(trainer, pl_module, step, f"at step {step}")
            self.times.lap("exam")

    def finish(self, trainer: L.Trainer, module: Any) -> None:
        """After the last step."""
        last = module.plan.steps
        self._take(trainer, module, last, "after training")
        self.after = self._answer(trainer, module, last)

    def _due(self, step: int) -> bool:
        every = self.config.heldout.every_steps
        return bool(every and step and step % every == 0)

    def _take(self, trainer: L.Trainer, module: Any, step: int, when: str) -> None:
        if not len(self.data.heldout):
            return
        with console.status(f"held-out loss {when}: {len(self.data.heldout)} conversations …"):
            loss = self._measure(trainer, module, step)
        console.print(f"held-out loss {when}: {loss.loss:.4f}", highlight=False)
        self.heldout[step] = loss.metrics()
        self.history.add(step, self.heldout[step])

    @torch.no_grad()
    def _measure(self, trainer: L.Trainer, module: Any, step: int) -> HeldoutLoss:
        """The loss of every supervised token of the held-out conversations, of all ranks."""
        lm: SupervisedLM = module.lm
        heldout, training, rows = HeldoutLoss(), lm.training, self.data.heldout_rows()
        lm.eval()
        for i in range(len(rows)):
            self.pause(trainer, module, step)
            batch: Batch = rows[i].to(trainer.strategy.root_device)
            heldout.add(batch, lm(SupervisedLM.token_losses, batch))
        lm.train(training)
        heldout.gather()
        return heldout

    def _answer(self, trainer: L.Trainer, module: Any, step: int) -> Replies:
        """The model's replies to the sample questions, turn after turn; the same on every rank."""
        lm: SupervisedLM = module.lm
        training, sample, replies = lm.training, self.config.sample, []
        lm.eval()
        for questions in sample.questions:
            self.pause(trainer, module, step)
            replies += lm(_replies, Chat(lm.model, self.data.encoder), questions, sample.max_new_tokens)
        lm.train(training)
        return replies


def _replies(lm: SupervisedLM, chat: Chat, questions: Sequence[str], max_new_tokens: int) -> Replies:
    with plain_attention(lm.model):
        return [(question, chat.say(question, max_new_tokens)) for question in questions]
