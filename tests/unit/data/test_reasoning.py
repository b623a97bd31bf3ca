"""What stands inside replies and can be left out of the loss: `train_on_reasoning`, `train_on_placeholders`."""

import json
from typing import get_args

import numpy as np

from tests.helpers.runs import COMMON
from vicuna_lit.config.compose import load
from vicuna_lit.config.prepare import PersonalDataConfig
from vicuna_lit.data.source import ConversationFiles
from vicuna_lit.data.tokenizer import make_encoder
from vicuna_lit.records.conversation import PLACEHOLDER


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


def test_placeholders_of_personal_data_are_left_out_of_the_training_loss_alone(tmp_path):
    """In every packing and piece: the mask says so before anything is packed. The entry in the cache is another one."""
    file = tmp_path / "data.jsonl"
    turns = ["Write to [EMAIL].", "Ask [EMAIL] or call [PHONE], not [MAIL].", "And then?", "[KEY]"]
    messages = [{"role": "assistant" if i % 2 else "user", "content": turn} for i, turn in enumerate(turns)]
    file.write_text(json.dumps({"messages": messages}))
    own = [o for o in COMMON if not o.startswith(("data.path", "data.validation"))]
    own += [f"data.path={file}", f"data.validation_path={file}", "token_cache_gb=0"]
    said = {}
    for on in (True, False):
        for train_on in ("assistant_messages", "all_tokens", "last_assistant_message"):
            config = load("train", *own, f"train_on_placeholders={str(on).lower()}", f"train_on={train_on}")
            encoder = make_encoder(config)
            for validation in (False, True):
                (example,) = ConversationFiles(config).examples(encoder, validation)[0]
                said[train_on, on, validation] = encoder.decode(example.input_ids[np.asarray(example.supervised)])
    whole = " Ask [EMAIL] or call [PHONE], not [MAIL].</s> [KEY]</s>"
    replies = {key[1:]: text for key, text in said.items() if key[0] == "assistant_messages"}
    assert replies[True, False] == replies[True, True] == replies[False, True] == whole
    assert replies[False, False].split() == "Ask or call , not [MAIL].</s> </s>".split()
    assert "EMAIL" in said["all_tokens", True, False]
    assert not {"EMAIL", "PHONE", "KEY"} & {
        w for w in ("EMAIL", "PHONE", "KEY") if w in said["all_tokens", False, False]
    }
    assert said["last_assistant_message", False, False].strip() == "</s>"
    assert config.loss_on == "last assistant message without placeholders"


def test_the_scrubber_and_the_mask_know_the_same_placeholders():
    kinds = get_args(get_args(PersonalDataConfig.model_fields["kinds"].annotation)[0])
    assert all(PLACEHOLDER.fullmatch(f"[{kind.upper()}]") for kind in kinds)
    assert PLACEHOLDER.pattern.count("|") == len(kinds) - 1
