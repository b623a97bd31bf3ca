"""A classifier of texts in a Hugging Face folder as a scorer of prepare: on the CPU, safetensors alone, no code."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from vicuna_lit.data.model_folder import told_as_model_error
from vicuna_lit.data.tokenizer import pretrained_kwargs
from vicuna_lit.paths import ModelError, locate_model

BATCH = 16
"""Pieces that are scored together."""
LONGEST = 512
"""Tokens of a piece where the model says nothing, or more."""
BESIDE_POSITIONS = 2
"""Positions that families after RoBERTa leave unused."""


class Classifier:
    """A text's probability of some labels: of its worst piece, where it is longer than the model reads at once.

    Pieces of one length go together, so none is padded: a text's score does not depend on its neighbours' lengths.
    """

    def __init__(self, path: str, labels: Sequence[str] | None):
        """
        Args:
            path: the folder.
            labels: whose probabilities make the score; None: the only one of a model with one or two.

        Raises:
            MissingPath: nothing is there.
            ModelError: it is no such folder, or has no such label.
        """
        place = locate_model(path)
        if not any(place.glob("*.safetensors")):
            raise ModelError(f"{place}: holds no weights (*.safetensors)")
        self._model, self._tokenizer = _loaded(place)
        settings = self._model.config
        if settings.problem_type == "regression":
            raise ModelError(
                f"{place}: gives a number (problem_type: regression), not the probability of a label; "
                "moderation.scorer=package.module:function can call it"
            )
        self._several = settings.num_labels == 1 or settings.problem_type == "multi_label_classification"
        names = [str(settings.id2label[i]) for i in range(settings.num_labels)]
        self._chosen = _chosen(place, names, labels)
        positions = getattr(settings, "max_position_embeddings", None) or LONGEST
        self._longest = max(8, min(LONGEST, positions - BESIDE_POSITIONS, self._tokenizer.model_max_length))
        self._together = BATCH if settings.pad_token_id is not None else 1

    def __call__(self, texts: Iterable[str]) -> Iterator[float]:
        """The score of each text; of an empty one 0."""
        scores: list[float] = []
        by_length: dict[int, list[tuple[int, list[int]]]] = {}
        for i, text in enumerate(texts):
            scores.append(0.0)
            for piece in self._pieces(text) if text.strip() else ():
                by_length.setdefault(len(piece), []).append((i, piece))
        for alike in by_length.values():
            for start in range(0, len(alike), self._together):
                batch = alike[start : start + self._together]
                for (i, _), score in zip(batch, self._scored([piece for _, piece in batch]), strict=True):
                    # Of a NaN this is NaN, which the step takes for an offence; `max` would drop it.
                    scores[i] = float(np.maximum(scores[i], score))
        return iter(scores)

    def _pieces(self, text: str) -> list[list[int]]:
        return self._tokenizer(
            text, truncation=True, max_length=self._longest, return_overflowing_tokens=True, return_attention_mask=False
        )["input_ids"]

    def _scored(self, pieces: list[list[int]]) -> list[float]:
        if not pieces[0]:  # signs that the tokenizer does not keep
            return [0.0] * len(pieces)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # prepare's workers take a core each; sums do not depend on how many there are
        try:
            with torch.inference_mode():
                ids = torch.tensor(pieces)
                logits = self._model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float()
        finally:
            torch.set_num_threads(threads)
        if self._several:
            return logits.sigmoid()[:, self._chosen].amax(1).tolist()
        return logits.softmax(-1)[:, self._chosen].sum(1).tolist()


def _loaded(place: Path) -> tuple[Any, Any]:
    files = pretrained_kwargs(place)
    disable_progress_bar()
    with told_as_model_error(f"{place}: no classifier could be loaded"):
        tokenizer: Any = AutoTokenizer.from_pretrained(**files)
        how: dict[str, Any] = {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
        model, report = AutoModelForSequenceClassification.from_pretrained(**files, **how)
    if not tokenizer.is_fast:
        raise ModelError(f"{place}: its tokenizer has no tokenizer.json, so a long text cannot be cut into pieces")
    if missing := sorted(report["missing_keys"]):
        raise ModelError(f"{place}: is no trained classifier of texts: the folder lacks {', '.join(missing[:3])}")
    return model.eval(), tokenizer


def _chosen(place: Path, names: Sequence[str], labels: Sequence[str] | None) -> list[int]:
    """The places of the labels that make the score."""
    if labels is None:
        if len(names) > 2:
            raise ModelError(f"{place}: give moderation.labels=[…]; the model has {', '.join(names)}")
        return [len(names) - 1]
    if unknown := [label for label in labels if label not in names]:
        raise ModelError(f"{place}: has no label {', '.join(unknown)} of moderation.labels; it has {', '.join(names)}")
    return [names.index(label) for label in dict.fromkeys(labels)]
