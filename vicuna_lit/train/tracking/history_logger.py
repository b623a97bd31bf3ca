"""What Lightning's callbacks and an own module log by `self.log`, in the run's W&B history."""

import re
from typing import Any

from lightning.pytorch.loggers import Logger

from vicuna_lit.run_folder import RunError
from vicuna_lit.train.tracking.wandb_run import History


class HistoryLogger(Logger):
    """A logger of Lightning's that adds to the rows of `History`.

    Lightning counts steps from 0, the history from 1. Figures that `SupervisedModule` logs stay as the run writes them:
    Lightning's are the same in fp32. Those of a validation go to the step that it is of, and the run's own, which come
    after it, replace them. Another figure under a name of the run's would take the place of the run's: it is refused.

    Args:
        logged: takes the last value of each figure that the run does not write itself.
    """

    WRITTEN = ("train/loss", "train/grad_norm", "epoch")
    OF_VALIDATION = re.compile("val/loss($|_by_)")
    TAKEN = re.compile(
        r"trainer/global_step|train/(lr|epoch|supervised_tokens)|data/(fill|padding_tokens|masks)"
        r"|speed/(supervised_tokens_per_second|tokens_per_second|model_tflops_per_second|mfu)"
        r"|memory/(step_peak|reserved)_gib|samples/(replies|changes)|time/(\w+_seconds|lost)"
    )
    """What the run alone writes into a row."""

    def __init__(self, history: History, logged: dict[str, float]):
        super().__init__()
        self.history, self.logged = history, logged

    @property
    def name(self) -> str:
        """Of the logger."""
        return "history"

    @property
    def version(self) -> str:
        """There is one."""
        return ""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Adds the figures that are not written yet to the step's row.

        Raises:
            RunError: one has a name of the run's own.
        """
        if taken := [name for name in metrics if self.TAKEN.fullmatch(name)]:
            raise RunError(f"self.log({taken[0]!r}, …): the run writes a figure of this name; give yours another one")
        own = {name: value for name, value in metrics.items() if name not in self.WRITTEN}
        self.logged |= {name: float(value) for name, value in own.items() if not self.OF_VALIDATION.match(name)}
        if own and step is not None:
            self.history.add(step + 1 if self.history.validating is None else self.history.validating, own)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The config is logged where the run begins."""
