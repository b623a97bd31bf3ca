"""`train_on_reasoning`, from the config to the mask."""

import json

import numpy as np

from tests.helpers.runs import COMMON
from vicuna_lit.config.compose import load
from vicuna_lit.data.source import ConversationFiles
from vicuna_lit.data.tokenizer import make_encoder


def test_thoughts_are_left_out_of_the_training_loss_and_counted_in_the_validation(tmp_path):
    file = tmp_path / "data.jsonl"
    reply = {"role": "assistant", "content": "Four.", "reasoning_content": "Two and two."}
    file.write_text(json.dumps({"messages": [{"role": "user", "content": "2+2?"}, reply]}))
    own = [o for o in COMMON if not o.startswith(("data.path", "data.validation"))]
    own += [f"data.path={file}", f"data.validation_path={file}", "token_cache_gb=0"]
    said = {}
    for on in (True, False):
        config = load("train", *own, f"train_on_reasoning={str(on).lower()}")
        encoder = make_encoder(config)
        for validation in (False, True):
            (example,) = ConversationFiles(config).examples(encoder, validation)[0]
            said[on, validation] = encoder.decode(example.input_ids[np.asarray(example.supervised)])
    whole = " <think>\nTwo and two.\n</think>\n\nFour.</s>"
    assert said[True, False] == said[True, True] == said[False, True] == whole
    assert "Two" not in said[False, False]
    assert said[False, False].startswith(" <think>\n")
    assert said[False, False].endswith("</think>\n\nFour.</s>")
