"""A classifier of texts in a folder as prepare's scorer: what it scores, what is refused, what a result stands for."""

import json
import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast

from vicuna_lit import load
from vicuna_lit.config.base import ConfigError
from vicuna_lit.inference.classifier import Classifier
from vicuna_lit.paths import MissingPath, ModelError
from vicuna_lit.prepare.run import _files_of_steps
from vicuna_lit.prepare.steps import steps
from vicuna_lit.records.conversation import Conversation, Rejection

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "bad", "good"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A random model of one layer, made to say `toxic` where a piece holds the word "bad"."""
    place = tmp_path_factory.mktemp("classifier")
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    tokenizer.save_pretrained(place)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32, id2label={0: "neutral", 1: "toxic", 2: "spam"},
        label2id={"neutral": 0, "toxic": 1, "spam": 2},
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    ids = torch.tensor(
        [[2, 5, 5, 5, 3], [2, 4, 5, 5, 3], [2, 5, 4, 5, 3], [2, 5, 5, 4, 3], [2, 1, 1, 1, 3], [2, 4, 1, 1, 3]]
    )
    wanted = torch.tensor([0, 1, 1, 1, 0, 1])
    model.train(False)
    for _ in range(60):
        optimizer.zero_grad()
        model(input_ids=ids, labels=wanted).loss.backward()
        optimizer.step()
    model.save_pretrained(place)
    return place


def test_a_turn_is_scored_by_its_worst_piece_whatever_stands_beside_it(folder):
    score = Classifier(str(folder), ["toxic"])
    texts = ["good good good", "good bad good", "other words here", "", "good " * 86 + "bad", "good " * 87]
    together = list(score(texts))
    assert [value > 0.5 for value in together] == [False, True, False, False, True, False]
    assert together[3] == 0
    assert together == pytest.approx([next(iter(score([text]))) for text in texts], abs=1e-6)
    all_of_them = list(Classifier(str(folder), ["toxic", "spam", "neutral", "toxic"])(texts))
    assert all_of_them == pytest.approx([1.0, 1.0, 1.0, 0.0, 1.0, 1.0], abs=1e-5)


def test_of_labels_that_can_hold_at_once_the_highest_counts(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    settings = json.loads((folder / "config.json").read_text()) | {"problem_type": "multi_label_classification"}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    texts = ["good bad good", "good good good"]
    each = [list(Classifier(str(tmp_path), [label])(texts)) for label in ("toxic", "spam", "neutral")]
    assert list(Classifier(str(tmp_path), ["toxic", "spam", "neutral"])(texts)) == [
        max(s) for s in zip(*each, strict=True)
    ]


def test_the_step_drops_what_scores_above_the_threshold(folder):
    config = load(
        "prepare", "raw=x", "moderation.enabled=true", f"moderation.scorer={folder}", "moderation.labels=[toxic]"
    )
    step = steps(config)["moderation"]
    dropped = step(Conversation.of("good good", "bad good good", id="x"), Counter())
    assert isinstance(dropped, Rejection)
    assert dropped.reason == "moderation"
    assert dropped.detail.startswith("turn 2 scores 0.9")
    kept = Conversation.of("good good", "good good good", id="x")
    assert step(kept, Counter()) == kept


def test_a_model_that_computes_no_number_drops_what_it_scores(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    weights["classifier.bias"] = torch.full_like(weights["classifier.bias"], math.nan)
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    config = load(
        "prepare", "raw=x", "moderation.enabled=true", f"moderation.scorer={tmp_path}", "moderation.labels=[toxic]"
    )
    found = steps(config)["moderation"](Conversation.of("good", "good " * 80, id="x"), Counter())
    assert isinstance(found, Rejection) and found.detail == "turn 1 scores nan"


def test_a_result_stands_for_all_files_of_the_folder(folder):
    config = load(
        "prepare", "raw=x", "moderation.enabled=true", f"moderation.scorer={folder}", "moderation.labels=[spam]"
    )
    named = {name for name in _files_of_steps(config) if name.startswith("moderation.scorer: ")}
    assert {f"moderation.scorer: {file}" for file in ("model.safetensors", "config.json", "tokenizer.json")} <= named


def test_what_is_no_trained_classifier_is_refused(folder, tmp_path):
    for labels, message in (
        (None, "give moderation.labels"),
        (["rude"], "no label rude .* it has neutral, toxic, spam"),
    ):
        with pytest.raises(ModelError, match=message):
            Classifier(str(folder), labels)
    with pytest.raises(MissingPath):
        Classifier(str(tmp_path / "nothing"), None)
    with pytest.raises(ModelError, match="holds no weights"):
        Classifier(str(tmp_path), None)
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    settings = json.loads((folder / "config.json").read_text()) | {"problem_type": "regression"}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match=r"gives a number .* not the probability of a label"):
        Classifier(str(tmp_path), ["toxic"])
    settings = BertConfig(**json.loads((folder / "config.json").read_text()))
    BertModel(settings).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"the folder lacks .*classifier\.(bias|weight)"):
        Classifier(str(tmp_path), ["toxic"])
    settings = json.loads((folder / "config.json").read_text()) | {
        "model_type": "mine", "auto_map": {"AutoModelForSequenceClassification": "code.Mine"},
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="no classifier could be loaded"):
        Classifier(str(tmp_path), ["toxic"])


def test_labels_are_those_of_a_classifier():
    for overrides in (["moderation.labels=[x]"], ["moderation.scorer=math:sqrt", "moderation.labels=[x]"]):
        with pytest.raises(ConfigError, match=r"moderation\.labels: are those of a classifier"):
            load("prepare", "raw=x", *overrides)
