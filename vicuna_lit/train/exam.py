"""What the model is asked before, during and after training: held-out conversations and sample questions."""

from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import torch

from vicuna_lit.chat.engine import Chat
from vicuna_lit.data.batch import Batch
from vicuna_lit.data.datamodule import ConversationData
from vicuna_lit.evaluate.questions import first_of_each, read_questions
from vicuna_lit.train.attention import plain_attention
from vicuna_lit.train.heldout import HeldoutLoss
from vicuna_lit.train.history import History, replies_table
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
        self.replies: dict[int, Replies] = {}
        """The same; all questions in order."""
        asked = self.config.evaluate
        bundled = first_of_each(read_questions(), asked.per_category) if asked.per_category else []
        self.questions = [*asked.questions, *(question.turns for question in bundled)]
        if found:
            self.heldout = {int(step): metrics for step, metrics in found["heldout"].items()}
            self.replies = {int(s): [(q, reply) for q, reply in said] for s, said in found["replies"].items()}

    def state(self) -> dict[str, Any]:
        """For the checkpoint; of the replies the first and the newest."""
        ends = {min(self.replies), max(self.replies)} if self.replies else set()
        return {"heldout": self.heldout, "replies": {step: self.replies[step] for step in sorted(ends)}}

    @property
    def best(self) -> int | None:
        """The step with the lowest held-out loss, the first not counted."""
        return min((step for step in self.heldout if step), key=lambda s: self.heldout[s]["heldout/loss"], default=None)

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Before the first step, or where the run was stopped."""
        start, last = pl_module.start, pl_module.plan.steps
        self.times.lap("start")
        if not self.replies:
            self._take(trainer, pl_module, 0, "before training")
            self.replies[0] = self._answer(trainer, pl_module, 0)
        elif start < last:
            self._between(trainer, pl_module, start)
        self.times.lap("exam")
        self.times.close(start)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Every so many steps; after the last, `finish` does."""
        step = pl_module.step_done(batch_idx)
        asked = (self.config.heldout.every_steps, self.config.evaluate.every)
        if step is not None and step < pl_module.plan.steps and any(_due(every, step) for every in asked):
            self.times.lap("step")
            self._between(trainer, pl_module, step)
            self.times.lap("exam")

    def finish(self, trainer: L.Trainer, module: Any) -> None:
        """After the last step."""
        last = module.plan.steps
        self._take(trainer, module, last, "after training")
        self.replies[last] = self._answer(trainer, module, last)

    def _between(self, trainer: L.Trainer, module: Any, step: int) -> None:
        if _due(self.config.heldout.every_steps, step):
            self._take(trainer, module, step, f"at step {step}")
        if _due(self.config.evaluate.every, step):
            before = self.replies[max(s for s in self.replies if s < step)]
            self.replies[step] = self._answer(trainer, module, step)
            self.history.add(step, {"samples/changes": replies_table(before, self.replies[step])})

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
        training, most, replies = lm.training, self.config.evaluate.max_new_tokens, []
        lm.eval()
        for questions in self.questions:
            self.pause(trainer, module, step)
            replies += lm(_replies, Chat(lm.model, self.data.encoder), questions, most)
        lm.train(training)
        return replies


def _due(every: int | None, step: int) -> bool:
    """Nothing is due before the first step."""
    return bool(every and step and step % every == 0)


def _replies(lm: SupervisedLM, chat: Chat, questions: Sequence[str], max_new_tokens: int) -> Replies:
    with plain_attention(lm.model):
        return [(question, chat.say(question, max_new_tokens)) for question in questions]
