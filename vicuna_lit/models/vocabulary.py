"""Rows for tokens that a model has never seen (`model.add_tokens`)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vicuna_lit.config.train import Computation
from vicuna_lit.data.encoder import Encoder
from vicuna_lit.data.tokenizer import Tokenizer, tokenizer_of
from vicuna_lit.models.architecture import read_config
from vicuna_lit.paths import ModelError, locate_model

CHUNK = 4096
"""Rows that are summed at one time."""


class NewRows(NamedTuple):
    """Which rows are new, and the other tokens' rows, of which they begin as the mean."""

    ids: tuple[int, ...]
    """Of the new tokens."""
    others: tuple[int, ...]
    """Of the other tokens. Rows that fill a vocabulary up to a round number belong to none."""
    before: int
    """Rows without the new ones."""
    vocabulary: int
    """Rows with them; as many as before where the vocabulary was filled up, and had the room."""

    @classmethod
    def of(cls, config: Computation, encoder: Encoder | None, hf: Any) -> "NewRows | None":
        """Those of a config; None where it adds no token that needs a row.

        Args:
            encoder: None: the config's tokenizer is looked at, where it is known.
            hf: the model's configuration, with the new rows.

        Raises:
            ModelError: adapters are all that is trained.
        """
        named, path = config.model.add_tokens or (), config.model.path
        if not named:
            return None
        known = Tokenizer(encoder.tokenizer, encoder.new_ids) if encoder else None
        if known is None and config.tokenizer_path and path is not None:
            known = tokenizer_of(config)
        count = len(known.new) if known else len(named)
        before = hf.vocab_size - count if path is None else read_config(locate_model(path)).vocab_size
        ids: dict[str, int] = known.tokenizer.get_vocab() if known else {}
        rows = sorted(
            {*known.new, *(ids[t] for t in named if ids[t] >= before)} if known else range(before, hf.vocab_size)
        )
        if not rows:
            return None
        if config.finetune.facts.adapters:
            raise _frozen(config, rows, "finetune=full, or finetune=partial with them in finetune.train")
        others = {id for id in ids.values() if id < before}.difference(rows)
        return cls(tuple(rows), tuple(sorted(others)), before, hf.vocab_size)

    def refuse_frozen(self, model: PreTrainedModel, config: Computation) -> None:
        """
        Raises:
            ModelError: a new row would stay what it is at first, the same as every other new one.
        """
        if any(not table.requires_grad for table in _tables(model)):
            names = {id(p): name for name, p in model.named_parameters()}
            frozen = ", ".join(names[id(table)] for table in _tables(model) if not table.requires_grad)
            raise _frozen(config, self.ids, f"finetune=full, or finetune=partial with {frozen} in finetune.train")

    @torch.no_grad()
    def put_into(self, model: PreTrainedModel) -> None:
        """Makes the tables long enough, and each new row the mean of the other tokens' rows.

        The means are summed in fp64, on the CPU and row by row: the same to the bit on every device.

        Raises:
            ModelError: the model has another table by token, which would have to grow too.
        """
        known = {id(table) for table in _tables(model)}
        others = (m for m in model.modules() if isinstance(m, nn.Embedding) and id(m.weight) not in known)
        if any(m.num_embeddings == self.before for m in others):
            raise ModelError(f"model.add_tokens: {type(model).__name__} has a second table by token; not supported")
        gpu = [place for place in {table.device for table in _tables(model)} if place.type == "cuda"]
        with torch.random.fork_rng(gpu):  # transformers draws rows, which are then replaced
            if self.vocabulary > self.before:
                model.resize_token_embeddings(self.vocabulary, mean_resizing=False)
        head: Any = model.get_output_embeddings()
        for table in (*_tables(model), getattr(head, "bias", None)):
            if table is not None:
                table[list(self.ids)] = _mean(table, self.others).to(table)


def _frozen(config: Computation, rows: Sequence[int], way_out: str) -> ModelError:
    return ModelError(
        f"model.add_tokens: finetune={config.finetune.kind} would leave the rows of {len(rows)} new tokens as they "
        f"begin, all alike; train the embeddings and the head: {way_out}"
    )


def _tables(model: PreTrainedModel) -> list[nn.Parameter]:
    """The weights of the embeddings and of the head; one where they are tied."""
    parts: tuple[Any, ...] = (model.get_input_embeddings(), model.get_output_embeddings())
    return list({id(part.weight): part.weight for part in parts}.values())


def _mean(table: Tensor, rows: tuple[int, ...]) -> Tensor:
    """fp64, of some rows. NumPy adds the rows of a matrix one after another, whatever the number of threads."""
    total = np.zeros(table.shape[1:])
    for start in range(0, len(rows), CHUNK):
        part = table[list(rows[start : start + CHUNK])].detach().cpu().double().numpy()
        total += np.add.reduce(part, axis=0)
    return torch.from_numpy(np.asarray(total / len(rows)))
