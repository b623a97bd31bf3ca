"""A subclass's loss of a row: what it draws follows from the step, and no process waits for one that passes it over."""

from typing import Any

from torch import Tensor

from vicuna_lit.data.batch import Batch
from vicuna_lit.run_folder import RunError
from vicuna_lit.train.seeding import drawn_at


def own_loss(module: Any, batch: Batch, micro_batch: int) -> Tensor:
    """The loss of a `SupervisedModule` that has its own, summed over the row.

    Args:
        micro_batch: of the run, from 0.

    Raises:
        RunError: it has passed the row over, where the other processes wait for this one's part of the weights.
    """
    calls: list[None] = []
    with module.lm.register_forward_pre_hook(lambda *_: calls.append(None)), drawn_at(module.config.seed, micro_batch):
        found = module.loss(batch)
    facts = module.config.strategy.facts
    if not calls and facts.sharded == "weights":
        raise RunError(
            f"{type(module).__name__}.loss has passed a row over without self.lm(…), and under strategy={facts.name} "
            "all processes would wait for each other, for hours: return 0 * self.lm(vl.SupervisedLM.logits, "
            "batch).sum() for such a row, or choose strategy=ddp"
        )
    return found
