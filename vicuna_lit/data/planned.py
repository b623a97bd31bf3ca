"""The conversations of a run, tokenised and planned; what a dry run needs, and Lightning's data module is built on."""

from typing import Any

from vicuna_lit.config.train import Computation
from vicuna_lit.data.dataset import DataReport
from vicuna_lit.data.encoder import Encoder
from vicuna_lit.data.mixture import JoinedExamples, drawn, statistics, total
from vicuna_lit.data.plan import Plan, give_back_memory, plan_run, plan_steps
from vicuna_lit.data.source import Sources
from vicuna_lit.data.tokenizer import make_encoder
from vicuna_lit.hub import fetched


class PlannedData:
    """Reads and tokenises on `read()`; afterwards `plan`, `train`, `validation` and their reports are there.

    Args:
        encoder: None: of the config.
        rank, world_size: of this process.
    """

    train: JoinedExamples
    validation: JoinedExamples
    reports: dict[str, DataReport]
    """By the name of the source; an empty name where there is but one. So are those of the validation set."""
    validation_reports: dict[str, DataReport]
    plan: Plan
    validation_plan: Plan

    def __init__(self, config: Computation, encoder: Encoder | None = None, rank: int = 0, world_size: int = 1):
        super().__init__()
        config = fetched(config, weights=False)
        self.config, self.encoder = config, encoder or make_encoder(config)
        self.rank, self.world_size = rank, world_size
        self.source = Sources(config)
        self._planned_for: int | None = None

    def read(self) -> None:
        """Reads everything once, and plans it for the processes that there are; it may be called again.

        Raises:
            DataError: no usable conversation.
        """
        if self._planned_for == self.world_size:
            return
        if self._planned_for is None:
            self.train, self.reports = self.source.examples(self.encoder, validation=False)
            self.validation, self.validation_reports = self.source.examples(self.encoder, validation=True)
        c = self.config
        self.plan = plan_run(c, self.train.sizes, self.world_size)
        if len(self.validation):
            self.validation_plan = plan_steps(
                self.validation.lengths,
                self.validation.supervised,
                conversations_per_step=len(self.validation),
                tokens_per_device=max(c.tokens_per_device, int(self.validation.lengths.max())),
                world_size=self.world_size,
                packing=c.packing,
            )
        self._planned_for = self.world_size
        give_back_memory()

    @property
    def report(self) -> DataReport:
        """What became of all records to train on."""
        return total(self.reports.values())

    @property
    def drawn(self) -> dict[str, dict[str, Any]]:
        """What the run takes of each source, see `mixture.drawn`."""
        return drawn(self.train, self.plan)

    def statistics(self) -> dict[str, Any]:
        """Counts of both sets (`mixture.statistics`) and what is drawn of each source, for `result.json` and W&B."""
        train, validation = statistics(self.train, self.reports), statistics(self.validation, self.validation_reports)
        for source, taken in self.drawn.items() if self.config.data.sources else ():
            train["sources"][source]["drawn"] = taken
        return {"train": train, "validation": validation}

    def example_ids(self, step: int) -> list[str]:
        """The ids of the conversations in an optimizer step, from 1."""
        return [self.train.id_of(i) for rank in self.plan.rows[step - 1] for row in rank for i in row]
