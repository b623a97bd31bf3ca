"""What the model is asked before, during and after training: held-out conversations and sample questions.

The way of a validation loss to W&B: `_take` → `validate` (Lightning's loop) → `SupervisedModule.validation_step`
(`ValidationLoss.add`, of this rank's rows) → `on_validation_epoch_end` (`ValidationLoss.gather`: the token losses of
all ranks) → `ValidationLoss.metrics` (`val/loss`, by turn, position and source) → `History.add`, which holds the
step's row; it is sent once, where the next step begins (`MetricsCallback.on_train_batch_start` calls `History.over`) or
the run ends (`RunRecord.finish`). Ranks but the first have a `History` that writes nothing. What the module logs of it
for Lightning's callbacks reaches the same row through `HistoryLogger`, and is replaced there. Rows that an interruption
took from W&B come back from the checkpoint (`RunRecord.fill_history`). The validation before training goes past `_take`
where another run has taken it of the same model and conversations (`train/loss_before.py`).
"""

from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import numpy as np

from vicuna_lit.data.datamodule import ConversationDataModule
from vicuna_lit.evaluate.questions import first_of_each, read_questions
from vicuna_lit.inference.generate import Chat
from vicuna_lit.models.attention import plain_attention
from vicuna_lit.models.causal_lm import SupervisedLM
from vicuna_lit.models.experts import counted_experts
from vicuna_lit.paths import ModelError
from vicuna_lit.train.console import console
from vicuna_lit.train.distributed import broadcast_object
from vicuna_lit.train.finite import check_validation
from vicuna_lit.train.loss_before import LossBeforeCache
from vicuna_lit.train.times import Times
from vicuna_lit.train.tracking.wandb_run import History, replies_table

Replies = list[tuple[str, str]]


class ValidationCallback(L.Callback):
    """Takes the validation loss and the sample replies. All ranks take part; the rows are dealt to them.

    What was found is part of a checkpoint, so a run that goes on reports it too. A step is saved before its validation,
    so a run that goes on from there takes the validation first. Where `stop_after` stops, the checkpoint gets it too.

    Args:
        resumed: `state()` in the checkpoint that the run resumes from.
        stop_if_told: called between two questions with (trainer, module, step); it may end the run.
        cache: where the validation before the first step is kept, on the first rank; None: nowhere.
    """

    def __init__(
        self,
        data: ConversationDataModule,
        history: History,
        times: Times,
        resumed: dict[str, Any] | None,
        stop_if_told: Callable[[L.Trainer, Any, int], None],
        cache: LossBeforeCache | None = None,
    ):
        self.data, self.history, self.times, self.config = data, history, times, data.config
        self.stop_if_told, self._cache = stop_if_told, cache
        self.shows = True
        """Whether losses are printed."""
        self._at = 0
        self._every = self.config.validation.interval(data.plan.steps)
        self.losses: dict[int, dict[str, float]] = {}
        """By step; 0 is before training."""
        self.conversations: dict[int, list[float]] = {}
        """`ValidationLoss.by_conversation` of the best step and of the newest one."""
        self.replies: dict[int, Replies] = {}
        """The same; all questions in order."""
        samples = self.config.samples
        bundled = first_of_each(read_questions(), samples.per_category) if samples.per_category else []
        self.questions = [*samples.questions, *(question.turns for question in bundled)]
        if resumed:
            self.losses = {int(step): metrics for step, metrics in resumed["losses"].items()}
            self.conversations = {int(step): sums for step, sums in resumed.get("conversations", {}).items()}
            self.replies = {int(s): [(q, reply) for q, reply in said] for s, said in resumed["replies"].items()}

    def state(self) -> dict[str, Any]:
        """For the checkpoint; of the replies the first and the newest."""
        ends = {min(self.replies), max(self.replies)} if self.replies else set()
        return {
            "losses": self.losses,
            "conversations": self.conversations,
            "replies": {step: self.replies[step] for step in sorted(ends)},
        }

    @property
    def best(self) -> int | None:
        """The step with the lowest validation loss; step 0, before training, is left out."""
        return min((step for step in self.losses if step), key=lambda s: self.losses[s]["val/loss"], default=None)

    def lacks(self, step: int) -> bool:
        """Whether the loss after a step between the first and the last is due, and was not taken."""
        return _due(self._every, step) and step not in self.losses and len(self.data.validation) > 0

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Before the first step, or where the run was stopped."""
        start, last = pl_module.start, pl_module.plan.steps
        self.times.lap("start")
        if not self.replies:
            self._before_training(trainer, pl_module)
            self.replies[0] = self._answer(trainer, pl_module, 0)
        elif start < last:
            self._between(trainer, pl_module, start)
        self.times.lap("validation")
        spans = self.times.close(start)
        names = {} if len(self.data.validation) else {"validation": "sample replies"}  # the span has both
        said = ", ".join(
            f"{names.get(what, what.rpartition('/')[2])} {seconds:.1f} s"
            for what, seconds in spans.items()
            if seconds >= 0.05
        )
        self._say(f"before the first step: {said}")

    def _say(self, text: str) -> None:
        if self.shows:
            console.print(text, highlight=False)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Every so many steps; after the last, `finish` does."""
        step = pl_module.step_done(batch_idx)
        asked = (self._every, self.config.samples.every)
        if step is not None and step < pl_module.plan.steps and any(_due(every, step) for every in asked):
            self.times.lap("step")
            self._between(trainer, pl_module, step)
            self.times.lap("validation")

    def on_validation_batch_start(self, trainer: L.Trainer, pl_module: Any, *_: Any, **__: Any) -> None:
        """Between two rows the run may be told to stop."""
        self.stop_if_told(trainer, pl_module, self._at)

    def finish(self, trainer: L.Trainer, module: Any, last: int) -> None:
        """After the last step."""
        if last not in self.losses:  # where a callback has ended the run after a look at it
            self._take(trainer, module, last, "after training")
        if last not in self.replies:
            self.replies[last] = self._answer(trainer, module, last)

    def _between(self, trainer: L.Trainer, module: Any, step: int) -> None:
        if self.lacks(step):
            self._take(trainer, module, step, f"at step {step}")
        if _due(self.config.samples.every, step) and step not in self.replies:
            before = self.replies[max(s for s in self.replies if s < step)]
            self.replies[step] = self._answer(trainer, module, step)
            if self.history.run is not None:
                change = ("samples/changes", before, self.replies[step], self.history.run.samples)
                self.history.add(step, self.history.run.do("replies", lambda _: replies_table(*change)) or {})

    def _before_training(self, trainer: L.Trainer, module: Any) -> None:
        """Found again where another run has taken it of the same model and conversations."""
        if known := broadcast_object(self._cache and self._cache.read()):
            self._say(f"validation loss before training: {known['val/loss']:.4f}, kept from a run before")
            self.losses[0] = known
            self.history.add(0, known)
            return
        self._take(trainer, module, 0, "before training")
        if self._cache is not None and 0 in self.losses:
            self._cache.keep(self.losses[0])

    def _take(self, trainer: L.Trainer, module: Any, step: int, when: str) -> None:
        if not len(self.data.validation):
            return
        with (
            console.status(f"validation loss {when}: {len(np.unique(self.data.validation.records))} conversations …"),
            counted_experts(module.lm.model) as load,
            self.history.validation_of(step),
        ):
            self._at = step
            validate(trainer)
            load.gather()
        self._say(f"validation loss {when}: {module.validation.loss:.4f}")
        check_validation(step, module.validation.loss)
        self.losses[step] = module.validation.metrics() | load.metrics()
        self.history.add(step, self.losses[step])
        if sums := module.validation.by_conversation(self.data.validation.records):
            kept = self.conversations | ({step: sums} if step else {})
            self.conversations = {s: kept[s] for s in sorted(kept) if s in (self.best, step)}

    def _answer(self, trainer: L.Trainer, module: Any, step: int) -> Replies:
        """The model's replies to the sample questions, turn after turn; the same on every rank."""
        lm: SupervisedLM = module.lm
        training, most, replies = lm.training, self.config.samples.max_new_tokens, []
        lm.eval()
        for questions in self.questions:
            self.stop_if_told(trainer, module, step)
            replies += lm(_replies, Chat(lm.model, self.data.encoder), questions, most)
        lm.train(training)
        return replies


def validate(trainer: L.Trainer) -> None:
    """Runs Lightning's validation loop in the middle of a fit, as its training loop does.

    Lightning counts the batches since the start of this process to find when; a run that was resumed counts its steps.
    """
    first = trainer._logger_connector._first_loop_iter
    trainer.validating = True
    trainer.fit_loop.epoch_loop.val_loop.run()
    trainer.training = True
    trainer._logger_connector._first_loop_iter = first


def _due(every: int | None, step: int) -> bool:
    """Nothing is due before the first step."""
    return bool(every and step and step % every == 0)


def _replies(lm: SupervisedLM, chat: Chat, questions: Sequence[str], max_new_tokens: int) -> Replies:
    """Each question with its reply, or with why there is none: a full context is no reason to end a training."""
    said = []
    with plain_attention(lm.model):
        for question in questions:
            try:
                said.append((question, chat.say(question, max_new_tokens)))
            except ModelError as error:
                said.append((question, f"[no reply: {error}]"))
    return said
