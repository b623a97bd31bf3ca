"""A record of each set in use, with all the fields that it is published with, is read: none is taken for a sign."""

from typing import Any

from tests.helpers.records import A, Q, shown

TALK = {"messages": [Q, A]}
SHAREGPT = {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}
ALPACA = {"instruction": "Q", "input": "", "output": "A"}
MODERATED: dict[str, Any] = {"openai_moderation": [{"categories": {}, "flagged": False}], "redacted": False}
SETS: dict[str, dict[str, Any]] = {
    "UltraChat": {"id": "0", "data": ["Q", "A"]},
    "UltraChat 200k, no_robots": TALK | {"prompt": "Q", "prompt_id": "x", "category": "Generation"},
    "OpenHermes": SHAREGPT
    | {"source": "airoboros", "category": "orca", "system_prompt": None, "skip_prompt_formatting": False, "idx": None},
    "SlimOrca": {"conversations": [m | {"weight": i} for i, m in enumerate(SHAREGPT["conversations"])]},
    "LIMA": {"conversations": ["Q", "A"], "source": "stackexchange"},
    "Dolly": {"instruction": "Q", "context": "", "response": "A", "category": "open_qa"},
    "Alpaca": ALPACA | {"text": "Below is an instruction.\n\n### Instruction:\nQ\n\n### Response:\nA"},
    "WildChat": {
        "conversation": [
            m | {"turn_identifier": 7, "toxic": False, "redacted": False, "language": "English", "header": None}
            for m in (Q, A)
        ],
        "turn": 1, "toxic": False, "model": "gpt-4", "conversation_hash": "x", "timestamp": "2023-04-09", **MODERATED,
    },
    "LMSYS-Chat-1M": {"conversation_id": "x", "conversation": [Q, A], "turn": 1, "language": "English", **MODERATED},
    "SmolTalk, Tulu 3": TALK | {"id": "x", "source": "smol-magpie-ultra"},
    "smol-magpie-ultra": TALK | {"difficulty": "easy", "quality": "good", "reward_model_score": 0.1},
    "SmolTalk 2": TALK | {"source": "x", "chat_template_kwargs": {"enable_thinking": False, "python_tools": None}},
    "Magpie": SHAREGPT
    | {"instruction": "Q", "response": "A", "knowledge": "geography", "quality_explanation": "x", "reward_model": "x"},
    "Open-Assistant": {
        "message_tree_id": "t", "tree_state": "ready_for_export",
        "prompt": {
            "message_id": "q", "text": "Q", "role": "prompter", "lang": "en", "review_count": 3, "review_result": True,
            "deleted": False, "rank": None, "synthetic": False, "model_name": None, "emojis": {}, "labels": {},
            "replies": [{"message_id": "a", "text": "A", "role": "assistant", "rank": 0, "review_result": True}],
        },
    },
    "a fork of ShareGPT": {"id": "x_0", "conversations": [m | {"markdown": None} for m in SHAREGPT["conversations"]]},
    "Nemotron": {"input": [Q], "output": "A", "reasoning": "off", "used_in_training": "yes", "license": "cc"},
    "MetaMath": {"query": "Q", "response": "A", "type": "x", "original_question": "Q"},
    "WildGuard": {"prompt": "Q", "response": "A", "prompt_harm_label": "harmful", "response_harm_label": "unharmful"},
    "BeaverTails": {"prompt": "Q", "response": "A", "category": {"x": False}, "is_safe": True},
    "HelpSteer": {"prompt": "Q", "response": "A", "correctness": 4, "verbosity": 2},
    "a class": ALPACA | {"label": "negative", "score": 0, "image_id": None, "explanation": "", "rationale": None},
    "counts": TALK | {"passed": 3, "success": True, "loss": 1.2, "score": 0},
    "where it is from": TALK | {"source_metadata": {"url": "x"}, "retrieved_at": "2024-01-01", "retrieved_from": "x"},
    "settings": TALK | {"reasoning": "minimal", "thinking": "auto"},
    "the answer as a text": {"prompt": "Q", "completion": "A", "text": "A"},
    "both as a text": {"prompt": "Q", "completion": "A", "text": "QA"},
    "fields of turns": {"messages": [Q | {"index": 0, "sources": []}, A | {"index": 1, "label": "good", "score": 0.9}]},
}  # fmt: skip


def test_sets_in_use_are_read_with_all_their_fields():
    found = {name: shown(record) for name, record in SETS.items()}
    assert {name: said for name, said in found.items() if said != "u Q | a A"} == {}
