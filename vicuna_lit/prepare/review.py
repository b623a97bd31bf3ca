"""`vicuna-prepare review=40`: a sample of each rule's hits for a person to judge, and the precision that follows.

The sample lies in `review.jsonl` beside the output, one hit a line; its `verdict` is `y`, `n`, `skip` or null. A hit is
drawn by the hash of its rule and place, so the same data and config give the same sample with any number of workers,
and a larger sample holds the smaller one. The file shows raw texts, the personal data that was found among them.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import orjson

from vicuna_lit.intervals import wilson
from vicuna_lit.prepare import shards
from vicuna_lit.prepare.card import with_review
from vicuna_lit.prepare.hits import difference, ends_of, hits
from vicuna_lit.prepare.stages import Job, pipeline_of
from vicuna_lit.records.conversation import Conversation, DataError
from vicuna_lit.whole_files import write

FILE = "review.jsonl"
Verdict = Literal["y", "n", "skip"]


@dataclass(frozen=True)
class Item:
    """One hit and what a person says of it."""

    rule: str
    record: str
    turn: int
    text: str
    detail: str = ""
    verdict: Verdict | None = None
    """Whether the rule is right; skip: cannot be told."""

    @property
    def key(self) -> tuple[str, str, int, str]:
        """What stays the same whoever samples."""
        return self.rule, self.record, self.turn, self.text

    @property
    def digest(self) -> str:
        """What it is drawn by."""
        return blake2b("\0".join(map(str, self.key)).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


class RuleFigures(NamedTuple):
    """What a review says of one rule."""

    rule: str
    hits: int
    judged: int
    right: int
    skipped: int
    precision: float | None
    low: float | None
    high: float | None


def collect(job: Job) -> None:
    """The hits of one shard: how many each rule has, the first of its sample; and texts of copies that are wanted."""
    config, pipeline = pipeline_of(job)
    work, most = Path(job.work), config.review or 0
    wanted = set(orjson.loads((work / "wanted.json").read_bytes()))
    counts: Counter[str] = Counter()
    items: dict[str, list[Item]] = defaultdict(list)
    texts = {}
    for source, raw, plugins in shards.read_items(work / "raw" / shards.name(job.shard, "jsonl")):
        if not isinstance(raw, Conversation) or (plugins and config.filters.plugins):
            continue
        found, left = hits(raw, config, pipeline)
        for hit in found:
            counts[hit.rule] += 1
            items[hit.rule].append(Item(hit.rule, source, hit.turn, hit.text, hit.detail))
        if source in wanted and isinstance(left, Conversation):
            texts[source] = "\n".join(f"{turn.role}: {turn.content}" for turn in left.turns)
    chosen = [asdict(item) for listed in items.values() for item in _first(listed, most)]
    summary = {"counts": counts, "items": chosen, "texts": texts}
    shards.write(work / "review" / shards.name(job.shard), [shards.dumps(summary)])


def _first(items: Sequence[Item], most: int) -> list[Item]:
    return sorted(items, key=lambda item: item.digest)[:most]


def copies(folder: Path, most: int) -> tuple[list[Item], Counter[str]]:
    """A sample of the copies that the job dropped, and how many there are of each kind; texts are put in later."""
    counts: Counter[str] = Counter()
    items: dict[str, list[Item]] = defaultdict(list)
    with (folder / "rejected.jsonl").open("rb") as lines:
        for line in map(orjson.loads, lines):
            if line["step"] == "dedup":
                rule = f"dedup: {line['reason']}"
                counts[rule] += 1
                items[rule] = _first([*items[rule], Item(rule, line["record"], 0, "", line["detail"])], most)
    return [item for listed in items.values() for item in listed], counts


def kept_of(item: Item) -> str:
    """Where the better copy of one that was dropped came from."""
    return item.detail.rpartition("(")[2].partition(")")[0]


def merge(folder: Path, work: Path, count: int, most: int) -> None:
    """Writes the sample over all shards into the file, with the verdicts that stand there, and the figures.

    Raises:
        DataError: the file holds what is no verdict.
    """
    parts = [orjson.loads((work / "review" / shards.name(i)).read_bytes()) for i in range(count)]
    gone, dropped = copies(folder, most)
    counts: Counter[str] = Counter()
    texts = {source: text for part in parts for source, text in part["texts"].items()}
    listed: dict[str, list[Item]] = defaultdict(list)
    for part in parts:
        counts.update(part["counts"])
        for values in part["items"]:
            listed[values["rule"]].append(Item(**values))
    counts.update(dropped)
    for item in gone:
        old, new = (texts.get(source, "") for source in (item.record, kept_of(item)))
        listed[item.rule].append(
            replace(item, text=f"{ends_of(old)}\n\n{difference(old, new) if old != new else 'The other is equal.'}")
        )
    before = {item.key: item for item in read_items(folder)}
    sample = [item for rule in counts for item in _first(listed[rule], most)]
    known = {item.key for item in sample}
    judged = [item for item in before.values() if item.verdict is not None and item.key not in known]
    save(folder, [before.get(item.key, item) for item in sample] + judged)
    publish(folder, {"sample": most, "hits": dict(counts)})


def read_items(folder: Path) -> list[Item]:
    """The file's hits; none where there is no file.

    Raises:
        DataError: a line is none, or its verdict is none.
    """
    file = folder / FILE
    items = []
    for number, line in enumerate(file.read_bytes().splitlines() if file.exists() else (), 1):
        try:
            item = Item(**orjson.loads(line))
        except (orjson.JSONDecodeError, TypeError):
            raise DataError(f"{file}, line {number}: not a hit as review=<number> writes it") from None
        if item.verdict not in (None, *get_args(Verdict)):
            raise DataError(f"{file}, line {number}: verdict is {item.verdict!r}; y, n, skip or null")
        items.append(item)
    return items


def save(folder: Path, items: Sequence[Item]) -> None:
    """Writes the file anew, as a whole."""
    write(folder / FILE, [shards.dumps(asdict(item)) for item in items])


def sampled(manifest: dict[str, Any], most: int) -> bool:
    """Whether a finished folder's sample is large enough already."""
    return most <= (manifest.get("review") or {}).get("sample", 0)


def figures(items: Sequence[Item], counts: dict[str, int]) -> list[RuleFigures]:
    """Precision of each rule that hit anything, with Wilson's interval; what was skipped does not count."""
    out = []
    for rule, count in counts.items():
        verdicts = Counter(item.verdict for item in items if item.rule == rule)
        right, judged = verdicts["y"], verdicts["y"] + verdicts["n"]
        interval = wilson(right / judged, judged) if judged else None
        low, high = interval or (None, None)
        out.append(
            RuleFigures(rule, count, judged, right, verdicts["skip"], right / judged if judged else None, low, high)
        )
    return out


def publish(folder: Path, about: dict[str, Any] | None = None) -> list[RuleFigures]:
    """Puts the figures of what is judged into the manifest and onto the card; no text of a hit goes there.

    Raises:
        DataError: the file holds what is no verdict.
    """
    manifest = orjson.loads((folder / "manifest.json").read_bytes())
    said: dict[str, Any] = about or manifest["review"]
    found = figures(read_items(folder), said["hits"])
    rules = {figure.rule: {k: v for k, v in figure._asdict().items() if k != "rule"} for figure in found}
    manifest["review"] = {"sample": said["sample"], "hits": said["hits"], "rules": rules}
    page = (folder / "card.html").read_text(encoding="utf-8")
    write(folder / "card.html", [with_review(page, found).encode()])
    write(folder / "manifest.json", [orjson.dumps(manifest, option=orjson.OPT_INDENT_2) + b"\n"])
    return found
