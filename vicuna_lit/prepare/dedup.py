"""Duplicates: signatures of conversations, and which of the copies stays.

Exact copies agree in a hash. Near-duplicates are found by MinHash (Broder 1997) over the set of all
32-byte shingles of the text, in bands (Leskovec et al., Mining of Massive Datasets, 3.4); a candidate
pair counts when the estimated Jaccard similarity reaches the threshold. With 128 permutations the
standard error of the estimate is at most 0.045. Of conversations that begin with the same question it is also counted,
exactly, how much of one stands in the other. In both cases the replies must agree too: one long pasted text may be
asked different things.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from functools import cache, lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson
from rensa import RMinHash  # pyright: ignore[reportAttributeAccessIssue]

from vicuna_lit.config.base import Role
from vicuna_lit.config.prepare import DedupConfig
from vicuna_lit.prepare.shards import from_json
from vicuna_lit.records.conversation import Conversation

SHINGLE = 32
"""Bytes; about five words of English, ten characters of Chinese."""
SAMPLED = 16
"""One in so many shingles is kept, chosen by its hash, so the same ones in every copy."""
PERMUTATIONS, BANDS = 128, 16
FEWEST = 8
"""Sampled shingles; of fewer, an estimate is one or two hashes, so shorter texts must be equal."""
LONGEST = 1 << 20
"""Bytes looked at; the rest of a longer text does not enter its near-duplicate signature."""
MOST_COMPARED = 64
"""Kept conversations with one first question, or nearly one text, that a further one is looked for in: thousands may
begin with "hi", or with one long prompt."""
MOST_HELD = 1 << 26
"""Bytes of shingles of conversations that others are looked for in, however many those are."""
SIGNATURE = np.dtype(
    [("id", "u8"), ("text", "u8"), ("first", "u8"), ("question", "u8"), ("size", "u8"), ("minhash", "u4", PERMUTATIONS)]
)
"""Hashes of id, turns, first exchange and first question (0: does not take part), characters, and MinHash values."""
EXACT = {"text": "duplicate text", "id": "duplicate id", "first": "duplicate first exchange"}
"""Hashes that must not occur twice, and what it is called when they do."""
BASE = 0x9E3779B97F4A7C15
_MIXER, _HALF, _LEAST_NOT_SAMPLED = np.uint64(0xD6E8FEB86659FD93), np.uint64(32), np.uint64((1 << 64) // SAMPLED)


class Duplicate(NamedTuple):
    """A copy that is dropped."""

    reason: str
    detail: str
    source: str = ""
    """The name of the source of the copy that stays, where sources have names."""


def signatures(conversations: Sequence[Conversation], config: DedupConfig, files: Sequence[str] = ()) -> np.ndarray:
    """SIGNATURE [conversations]; an id is known within its file (those of `files`): many count from 0."""
    out = np.zeros(len(conversations), SIGNATURE)
    shingles = []
    for row, c, file in zip(out, conversations, files or [""] * len(conversations), strict=True):
        spoken = [i for i, t in enumerate(c.turns) if t.role != "system"]
        row["size"] = sum(len(t.content) for t in c.turns)
        if config.id:
            row["id"] = _hash(f"{file}\0{c.id}")
        if config.text:
            row["text"] = _hash("\0".join(f"{t.role}\0{t.in_text.strip()}" for t in c.turns))
        least, first = config.first_exchange_characters, "\0".join(c.turns[i].content for i in spoken[:2])
        if least is not None and len(first) >= least:
            row["first"] = _hash(first)
        if config.containment is None and config.threshold is None:
            continue
        said = _normalised(c)
        if config.containment is not None and spoken:
            row["question"] = _hash(said[spoken[0]])
        if config.threshold is not None:
            shingles.append(_sampled(_text(said)))
    if shingles:
        ends = np.cumsum([0, *map(len, shingles)]).astype(np.uint64)
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(np.concatenate(shingles), ends, PERMUTATIONS, 1)
        out["minhash"] = matrix.to_rows()
    return out


def _hash(text: str | bytes) -> int:
    data = text.encode() if isinstance(text, str) else text
    return int.from_bytes(blake2b(data, digest_size=8).digest()) | 1


def _normalised(c: Conversation, role: Role | None = None) -> list[str]:
    """What each turn says, or those of one role, in small letters with single blanks."""
    return [" ".join(t.content.lower().split()) for t in c.turns if role is None or t.role == role]


def _text(said: list[str]) -> bytes:
    """All that is said."""
    return " ".join(filter(None, said)).encode()[:LONGEST]


def _shingles(text: bytes) -> np.ndarray:
    """uint64: hashes of all shingles of a text."""
    data = np.frombuffer(text, np.uint8)
    if len(data) < SHINGLE:
        data = np.pad(data, (0, SHINGLE - len(data)))
    powers, inverse = _powers()
    sums = np.zeros(len(data) + 1, np.uint64)
    np.cumsum(data * powers[: len(data)], out=sums[1:])
    hashes = sums[SHINGLE:] - sums[:-SHINGLE]
    hashes *= inverse[: len(hashes)]
    hashes ^= hashes >> _HALF
    hashes *= _MIXER
    hashes ^= hashes >> _HALF
    return hashes


def _sampled(text: bytes) -> np.ndarray:
    """uint64: a sample of the shingles' hashes, in order, each once; one hash of all where they are few."""
    hashes = _shingles(text)
    sampled = _each_once(hashes[hashes < _LEAST_NOT_SAMPLED])
    return sampled if len(sampled) >= FEWEST else np.array([_hash(text.ljust(SHINGLE, b"\0"))], np.uint64)


def _each_once(hashes: np.ndarray) -> np.ndarray:
    """uint64, in order: what `np.unique` gives, by a sort, which takes a tenth of the time of its table."""
    ordered = np.sort(hashes)
    first = np.ones(len(ordered), bool)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return ordered[first]


@lru_cache
def _powers() -> tuple[np.ndarray, np.ndarray]:
    """uint64 [LONGEST]: powers of the rolling hash's base modulo 2^64, and of its inverse."""
    tables = []
    for base in (BASE, pow(BASE, -1, 1 << 64)):
        table = np.full(LONGEST, base, np.uint64)
        table[0] = 1
        tables.append(np.multiply.accumulate(table))
    return tables[0], tables[1]


def find_duplicates(
    files: Sequence[Path], config: DedupConfig, sources: Sequence[str] = ()
) -> dict[int, dict[int, Duplicate]]:
    """Which conversations are copies of a better one that stays: by file, then by place in it.

    `files` hold SIGNATURE arrays; a `.jsonl` beside each holds the conversations, read for their ids.
    Conversations are taken source by source, in each from the best to the worst (`config.keep`); one is dropped when it
    agrees with one already kept. Only those that share a key with another are held in memory.

    Args:
        sources: the name of the source of each file, those of one source one behind the other; (): there is one.
    """
    rows = _Rows(files)
    suspects = _suspects(files, rows.count, config)
    if config.keep == "longest":
        places = {name: i for i, name in enumerate(dict.fromkeys(sources))}
        of_file = [places[name] for name in sources] or [0] * len(files)
        suspects = sorted(suspects, key=lambda n: (of_file[rows.place(n)[0]], -int(rows[n]["size"]), n))
    kept: dict[tuple[int, int], list[int]] = defaultdict(list)
    dropped: dict[int, dict[int, Duplicate]] = defaultdict(dict)
    for n in suspects:
        row = rows[n]
        keys = [(i, int(row[name])) for i, name in enumerate(EXACT) if row[name]]
        hashes = _bands(row["minhash"][None])[0].tolist() if config.threshold else []
        bands = [(len(EXACT) + i, band) for i, band in enumerate(hashes)]
        question = (-1, int(row["question"]))
        found = _exact(kept, keys, rows) or _near(kept, bands, rows, n, config.threshold or 1.0)
        if found is None and config.containment is not None and question[1]:
            found = _contained(kept[question][:MOST_COMPARED], rows, n, config.containment)
        if found:
            (copy, better), (file, place) = found, rows.place(n)
            dropped[file][place] = copy._replace(source=sources[rows.place(better)[0]]) if sources else copy
        else:
            for key in (*keys, *bands, question):
                kept[key].append(n)
    return dropped


def _exact(
    kept: dict[tuple[int, int], list[int]], keys: list[tuple[int, int]], rows: "_Rows"
) -> tuple[Duplicate, int] | None:
    for key in keys:
        if key in kept:
            better, name = kept[key][0], tuple(EXACT)[key[0]]
            said = "the same id has a better one," if name == "id" else "a better copy is"  # the texts may differ
            return Duplicate(EXACT[name], f"{said} {rows.name(better)}"), better
    return None


def _near(
    kept: dict[tuple[int, int], list[int]], bands: list[tuple[int, int]], rows: "_Rows", n: int, threshold: float
) -> tuple[Duplicate, int] | None:
    compared = 0
    for other in sorted({other for key in bands if key in kept for other in kept[key]}):
        similarity = float(np.mean(rows[other]["minhash"] == rows[n]["minhash"]))
        if similarity < threshold:
            continue
        if rows.replies_stand_in(n, other, threshold):
            said = f"similarity {similarity:.2f} to {rows.name(other)}, a better copy"
            return Duplicate("near-duplicate", said), other
        compared += 1
        if compared == MOST_COMPARED:
            break
    return None


def _contained(others: list[int], rows: "_Rows", n: int, least: float) -> tuple[Duplicate, int] | None:
    mine = rows.shingles(n)
    few = mine[: int(2 * (1 - least) * len(mine)) + 1]
    for other in others:
        its = rows.shingles(other)
        # Most share the question alone: where more of a first part is absent than may be of all, nothing else is asked.
        if (1 - _share(few, its)) * len(few) > (1 - least) * len(mine) + 1:
            continue
        share = _share(mine, its)
        if share >= least and rows.replies_stand_in(n, other, least):
            said = f"{share:.0%} of it stand in {rows.name(other)}, a better copy"
            return Duplicate("contained in another", said), other
    return None


def _share(mine: np.ndarray, its: np.ndarray) -> float:
    """How much of one conversation's shingles another has; both are in order."""
    places = np.minimum(np.searchsorted(its, mine), len(its) - 1)
    return float(np.mean(its[places] == mine))


def _bands(minhash: np.ndarray, which: slice = slice(None)) -> np.ndarray:
    """uint64 [rows, bands]: a hash of each band of MinHash values, or of some bands."""
    values = minhash.reshape(len(minhash), BANDS, PERMUTATIONS // BANDS)[:, which].astype(np.uint64)
    weights = _powers()[0][1 : values.shape[2] + 1]
    mixed = (values * weights).sum(axis=2, dtype=np.uint64)
    return mixed ^ (mixed >> np.uint64(29))


def _suspects(files: Sequence[Path], count: int, config: DedupConfig) -> list[int]:
    """The conversations that share any key with another, in order."""
    shared = np.zeros(count, bool)
    for name in (*EXACT, "question"):
        shared |= _shared(np.concatenate([np.load(f)[name] for f in files] or [np.empty(0, "u8")]))
    if config.threshold is not None:
        for band in range(BANDS):
            keys = [_bands(np.load(f)["minhash"], slice(band, band + 1))[:, 0] for f in files]
            shared |= _shared(np.concatenate(keys or [np.empty(0, "u8")]))
    return np.flatnonzero(shared).tolist()


def _shared(keys: np.ndarray) -> np.ndarray:
    """bool: whether a key other than 0 occurs more than once."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    same = (ordered[1:] == ordered[:-1]) & (ordered[1:] != 0)
    out = np.zeros(len(keys), bool)
    out[order[1:][same]] = out[order[:-1][same]] = True
    return out


class _Rows:
    """Signatures by their number over all files; a few files at a time are in memory."""

    def __init__(self, files: Sequence[Path]):
        self._files = files
        self._ends = np.cumsum([0, *(len(np.load(f, mmap_mode="r")) for f in files)])
        self.count = int(self._ends[-1])
        self._load = lru_cache(maxsize=64)(np.load)
        self._lines = cache(_lines)
        self._recent: OrderedDict[int, np.ndarray] = OrderedDict()
        self._held = 0

    def place(self, n: int) -> tuple[int, int]:
        """File and place in it."""
        file = int(np.searchsorted(self._ends, n, side="right")) - 1
        return file, n - int(self._ends[file])

    def __getitem__(self, n: int) -> np.void:
        file, place = self.place(n)
        return self._load(self._files[file])[place]

    def name(self, n: int) -> str:
        """The conversation's id, and where it came from."""
        conversation, source = self._read(n)
        return f"{conversation.id} ({source})"

    def shingles(self, n: int) -> np.ndarray:
        """uint64: the shingles of a conversation, in order, each once. Those last used are kept, up to `MOST_HELD`."""
        if n in self._recent:
            self._recent.move_to_end(n)
            return self._recent[n]
        found = self._recent[n] = _each_once(_shingles(_text(_normalised(self._read(n)[0]))))
        self._held += found.nbytes
        while self._held > MOST_HELD and len(self._recent) > 1:
            self._held -= self._recent.popitem(last=False)[1].nbytes
        return found

    def replies_stand_in(self, n: int, other: int, least: float) -> bool:
        """Whether at least a share of what the assistants of one conversation say is said by those of another."""
        mine, its = (_text(_normalised(self._read(one)[0], "assistant")) for one in (n, other))
        return mine in its or _share(_each_once(_shingles(mine)), _each_once(_shingles(its))) >= least

    def _read(self, n: int) -> tuple[Conversation, str]:
        """A conversation and where it came from: its line alone is read, as suspects lie in every file."""
        number, place = self.place(n)
        file = self._files[number].with_suffix(".jsonl")
        starts = self._lines(file)
        with file.open("rb") as stream:
            stream.seek(int(starts[place]))
            _, source, value, *_ = orjson.loads(stream.read(int(starts[place + 1] - starts[place])))
        return from_json(value), source


def _lines(file: Path) -> np.ndarray:
    """int64 [lines + 1]: where each line of a file begins."""
    with file.open("rb") as stream:
        return np.cumsum([0, *map(len, stream)])
