"""What a micro-batch allocates: as it is estimated from tensors without content, and with real ones."""

from collections import Counter
from functools import partial
from typing import Any

import torch

from vicuna_lit.data.batch import Batch
from vicuna_lit.estimate.ledger import MemoryTracker
from vicuna_lit.estimate.simulate import _labelled, _phases
from vicuna_lit.estimate.strategies import StrategyMemory
from vicuna_lit.models.causal_lm import SupervisedLM, build_model
from vicuna_lit.models.loss import loss_sum

ROW = ((100, 60, 40), 150)
"""Tokens of each conversation, and how many of them all are supervised."""


def estimated_and_real(config: Any) -> tuple[Counter[str], Counter[str]]:
    """Bytes of each part at the highest moment, both ways."""
    fake = SupervisedLM.of(build_model(config, None, "meta"), config)
    phases = _phases(fake, ROW, StrategyMemory(Counter(), {}), (len(fake.layers), 0), "cpu")
    torch.manual_seed(0)
    lm, ledger = SupervisedLM.of(build_model(config, None), config), MemoryTracker()
    ids = torch.randint(0, 999, (1, sum(ROW[0])))
    positions = torch.cat([torch.arange(n) for n in ROW[0]])[None]
    ledger.ignore(ids, positions, *lm.parameters(), *lm.buffers())
    with _labelled(ledger), ledger:
        lm(partial(_loss, ledger=ledger), Batch(ids, ids, positions, ROW[0], 1)).backward()
    said, found = (max(peaks.values(), key=Counter.total) for peaks in (phases, ledger.peaks))
    return said, found


def _loss(lm: SupervisedLM, batch: Batch, ledger: MemoryTracker) -> torch.Tensor:
    hidden = lm.hidden(batch)
    with ledger.within("head and logits"):
        chosen = torch.arange(ROW[1])
        return loss_sum(hidden[0].index_select(0, chosen), lm.head, chosen, lm.lm_head_kind)
