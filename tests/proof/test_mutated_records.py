"""Ten thousand mutated real records through reading and every step: each kept or rejected, none lost, no crash."""

import json

import numpy as np
import orjson
import pytest

from vicuna_lit import load
from vicuna_lit.prepare.run import prepare_data
from vicuna_lit.records.readers import read

MUTATIONS = 10_500
NASTY = [
    "\ud83d", "\0", "‮", "\u2028", "<script>alert(1)</script>", "<div" * 40, "</p></div>" * 9, "&#0;&#x110000;&amp;lt;",
    "```", "$$", "|" * 300, "<img src=x onerror=alert(1)>", "[x](javascript:alert(1))", "a" * 5000, "\r\n\t", "1 / 2",
    "sk-" + "a" * 40, "4111 1111 1111 1111", "too many requests in 1 hour", "</s>", "<|im_end|>", "ASSISTANT:", "",
]  # fmt: skip
WRONG = [None, 3, -1.5, True, [], {}, "", ["x"], {"a": 1}, 10**30, "gpt", "human", "system", [[[]]]]


def mutated(record, random: np.random.Generator):
    """A copy with one to three mistakes at random places."""
    record = json.loads(json.dumps(record))
    for _ in range(random.integers(1, 4)):
        place = record
        while isinstance(place, dict | list) and len(place):
            key = (
                list(place)[random.integers(len(place))]
                if isinstance(place, dict)
                else int(random.integers(len(place)))
            )
            inner = place[key]
            if isinstance(inner, dict | list) and len(inner) and random.random() < 0.85:
                place = inner
                continue
            match random.integers(6):
                case 0:
                    place[key] = WRONG[random.integers(len(WRONG))]
                case 1:
                    del place[key]
                case 2 if isinstance(inner, str):
                    cut = random.integers(len(inner) + 1)
                    place[key] = inner[:cut] + NASTY[random.integers(len(NASTY))] + inner[cut:]
                case 3 if isinstance(inner, str):
                    place[key] = inner[: random.integers(len(inner) + 1)]
                case 4 if isinstance(place, list):
                    place.insert(key, inner)
                case _ if isinstance(inner, str):
                    place[key] = f'<div class="markdown prose"><p>{inner}'
                case _:
                    pass
            break
    return record


@pytest.mark.slow
@pytest.mark.promise("10,500 mutated real records are each kept or rejected")
def test_mutated_real_records_are_each_kept_or_rejected(shared, tmp_path):
    folder = shared / "conversations"
    names = ["raw_html_saved_pages.json", "raw_html_korean.json", "sharegpt_v3_edge_a.json", "chatgpt_export_ab.json"]
    real = [r for name in names for r in orjson.loads((folder / name).read_bytes())]
    real += [orjson.loads(line) for line in (folder / "oasst_en_tree_ab.jsonl").read_bytes().splitlines()]
    real = [r for r in real if len(json.dumps(r)) < 20_000]
    random = np.random.default_rng(0)
    with (tmp_path / "fuzz.jsonl").open("wb") as stream:
        for i in range(MUTATIONS):
            line = json.dumps(mutated(real[i % len(real)], random)).encode()
            if i % 50 == 49:  # and mistakes in the bytes
                at = int(random.integers(len(line)))
                line = (
                    line[:at] + bytes(random.integers(0, 256, 3, dtype=np.uint8)).replace(b"\n", b"") + line[at + 2 :]
                )
            stream.write(line + b"\n")
    c = load("prepare", f"raw={tmp_path / 'fuzz.jsonl'}", f"run.dir={tmp_path / 'out'}", "validation_fraction=0.05")
    manifest = prepare_data(c).manifest
    written = [x for name in ("train", "validation") for x in read(tmp_path / "out" / f"{name}.jsonl")]
    rejected = (tmp_path / "out" / "rejected.jsonl").read_bytes().splitlines()
    assert manifest["records_in"] == MUTATIONS == len(written) + len(rejected)
    assert manifest["records_kept"] == len(written) > 50
    reasons = manifest["rejected_by_reason"]
    assert "step failed" not in reasons
    assert {"broken JSON", "wrong type", "unknown role", "NUL byte", "duplicate text"} <= reasons.keys()
    assert "<script" not in (tmp_path / "out" / "card.html").read_text().lower()
