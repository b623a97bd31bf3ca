"""The prepare job: raw conversations in, a folder with a clean, documented training set out.

Raw files are read once, in order, into shards; the per-conversation steps run on each shard; copies
are found over all; each shard is split and cut; the shards' files are joined in order. So the bytes
do not depend on the workers, and a job that was stopped goes on with the shards that are missing.
"""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import orjson

from vicuna_lit.config.prepare import PrepareConfig, PrepareRecipe, is_function
from vicuna_lit.file_hashes import model_files, sha256_of
from vicuna_lit.hub import fetched
from vicuna_lit.paths import locate, place_of
from vicuna_lit.prepare import review, shards
from vicuna_lit.prepare.dedup import find_duplicates
from vicuna_lit.prepare.executor import cores, run_all, warm_up
from vicuna_lit.prepare.filters import phrase_lists
from vicuna_lit.prepare.manifest import assemble
from vicuna_lit.prepare.progress import console, progress
from vicuna_lit.prepare.shards import MOST_CHARACTERS, MOST_RECORDS, SOURCES, Item
from vicuna_lit.prepare.stages import Job, check, clean, cut
from vicuna_lit.records.columns import Columns
from vicuna_lit.records.conversation import Conversation, DataError, Rejection
from vicuna_lit.records.files import find_files
from vicuna_lit.records.readers import parse, records, skipped
from vicuna_lit.run_folder import RunError, check_disk, locked, read_json, refuse_other_settings, write_hydra_files
from vicuna_lit.whole_files import write_json

Raw = dict[str, list[str]]
"""Places of the files by the name of the source; an empty name where sources have none."""
_TOKENIZER, _PHRASES, _SCORER = "tokenizer: ", "phrases ", "moderation.scorer"
"""Before the names of a tokenizer's files, of lists of phrases, and of what a scorer is read from."""


@dataclass(frozen=True)
class Prepared:
    """The finished folder of `vicuna-prepare`."""

    run_dir: str
    manifest: dict[str, Any]
    seconds: float = 0.0
    """Of this call; 0 where the folder was already finished."""


def prepare_data(config: PrepareConfig) -> Prepared:
    """Runs the job, goes on with an unfinished one, or finds it done.

    Raises:
        RunError, DataError, MissingPath, ModelError, TemplateError, OSError: bad input, or a disk that fills.
    """
    config = fetched(config)
    if config.template.kind == "auto":
        from vicuna_lit.data.auto_template import with_template

        config = with_template(config)
    with locked(Path(config.run.dir)):
        prepared = _prepare(config, Path(config.run.dir))
        return _with_sample(config, prepared) if config.review else prepared


def _with_sample(config: PrepareConfig, prepared: Prepared) -> Prepared:
    """Draws the hits that a person is to judge, where that is not done; figures follow what is judged by now."""
    folder = Path(prepared.run_dir)
    if not review.sampled(prepared.manifest, config.review or 0):
        work = folder / "review"
        shutil.rmtree(work, ignore_errors=True)
        for name in ("raw", "review"):
            (work / name).mkdir(parents=True)
        most, size = config.review or 0, sum(f["bytes"] for f in prepared.manifest["inputs"])
        check_disk(folder, 2 * size + 1e7, "the review of these files")
        pairs = [(item.record, review.kept_of(item)) for item in review.copies(folder, most)[0]]
        write_json(work / "wanted.json", sorted({source for pair in pairs for source in pair}))
        counts = _read(config, work, size)
        job = _job(config, work, _files_of_steps(config))
        _stage("review", review.collect, config, job, counts, config.workers or cores())
        review.merge(folder, work, len(counts), most)
        shutil.rmtree(work)
    else:
        review.publish(folder)
    return replace(prepared, manifest=read_json(folder, "manifest.json") or {})


def _prepare(config: PrepareConfig, folder: Path) -> Prepared:
    clock = time.perf_counter()
    raw = _places(config)
    fingerprint = _fingerprint(config, raw, folder)
    identity = {"config": PrepareRecipe.values_of(config)} | fingerprint
    if (done := read_json(folder, "manifest.json")) is not None:
        known = _as_kept(identity, done)
        refuse_other_settings(folder, _readable({k: done.get(k) for k in identity}), _readable(known))
        shutil.rmtree(folder / "work", ignore_errors=True)  # a kill may have come before its end
        return Prepared(str(folder), _not_empty(folder, done))
    workers = config.workers or cores()
    modules = ["vicuna_lit.prepare.stages", *(["vicuna_lit.data.tokenizer"] if config.cuts else [])]
    size = sum(f["bytes"] for f in fingerprint["inputs"])
    work = _open(folder, identity, size)
    job = _job(config, work, fingerprint["files"])
    if config.engine == "local":
        warm_up(workers, modules)
    list(run_all(config.engine, check, [job], workers))
    counts = _read(config, work, size)
    _stage("clean", clean, config, job, counts, workers)
    _write_copies(config, work, len(counts))
    _stage("cut", cut, config, job, counts, workers)
    manifest = assemble(config, folder, work, counts, fingerprint)
    shutil.rmtree(work)
    return Prepared(str(folder), _not_empty(folder, manifest), time.perf_counter() - clock)


def _places(config: PrepareConfig) -> Raw:
    return {name: [str(place_of(path)) for path in paths] for name, paths in config.raw_by_source.items()}


def _not_empty(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """
    Raises:
        DataError: nothing was kept.
    """
    if manifest["records_kept"]:
        return manifest
    reasons = ", ".join(f"{count} × {reason}" for reason, count in manifest["rejected_by_reason"].items())
    raise DataError(
        f"{folder}: none of {manifest['records_in']} records was kept: {reasons or 'there is none'}; "
        "rejected.jsonl has each with its reason"
    )


def _readable(identity: dict[str, Any]) -> dict[str, Any]:
    """With a line for each input, as the differences are shown."""
    inputs = enumerate(identity["inputs"] or [])  # two inputs may have one name
    return identity | {"inputs": {f"{i} {f['path']}": f["sha256"] for i, f in inputs}}


def _fingerprint(config: PrepareConfig, raw: Raw, folder: Path) -> dict[str, Any]:
    """Sizes and hashes of everything that is read: the same ones mean the same output."""
    inputs = []
    for source, one in ((source, path) for source, paths in raw.items() for path in paths):
        if Path(one).is_dir() and folder.resolve().is_relative_to(Path(one).resolve()):
            raise RunError(f"{folder}: lies inside raw={one}; choose a run.dir outside it")
        for file, name in find_files(one):
            path = f"{source}/{name}" if source else name
            inputs.append({"path": path, "bytes": file.stat().st_size, "sha256": sha256_of(file)})
    return {"inputs": inputs, "files": _files_of_steps(config)}


def _files_of_steps(config: PrepareConfig) -> dict[str, str]:
    """The sha256 of what the steps read besides the inputs."""
    others: dict[str, Path] = {}
    of_questions, of_phrases = config.decontamination.questions, phrase_lists(config.filters)
    for kind, path in [("questions ", path) for path in of_questions] + [(_PHRASES, path) for path in of_phrases]:
        name = f"{kind}{Path(path).name}"
        others[f"{kind}{path}" if name in others else name] = locate(path)
    if config.moderation.enabled and config.moderation.scorer is not None:
        others |= _of_scorer(config.moderation.scorer)
    if config.tokenizer is not None:
        others |= _of_tokenizer(config.tokenizer)
    return {k: sha256_of(path) for k, path in others.items() if path.is_file()}


def _of_scorer(scorer: str) -> dict[str, Path]:
    """A function's module, or all that a classifier is read from."""
    if not is_function(scorer):
        return {f"{_SCORER}: {n.removeprefix(f'{scorer}/')}": file for n, file in model_files(scorer).items()}
    spec = find_spec(scorer.partition(":")[0])
    return {_SCORER: Path(spec.origin or "") if spec else Path()}


def _of_tokenizer(path: str) -> dict[str, Path]:
    """What a tokenizer and its template are read from: no weights."""
    files = {f"{_TOKENIZER}{name.removeprefix(f'{path}/')}": file for name, file in model_files(path).items()}
    weights = (".safetensors", ".bin")
    return {n: f for n, f in files.items() if f.suffix not in weights and f.name != "generation_config.json"}


def _as_kept(identity: dict[str, Any], done: dict[str, Any]) -> dict[str, Any]:
    """An identity as an earlier version kept it: the first ones hashed `tokenizer.json` alone, and no phrases."""
    now, kept = identity["files"], done.get("files") or {}
    left_out = [_PHRASES] if not any(name.startswith(_PHRASES) for name in kept) else []
    if "tokenizer.json" in kept:
        left_out.append(_TOKENIZER)
    files = {name: sha256 for name, sha256 in now.items() if not name.startswith(tuple(left_out))}
    if "tokenizer.json" in kept:
        files["tokenizer.json"] = now.get(f"{_TOKENIZER}tokenizer.json")
    return identity | {"files": files}


def _open(folder: Path, identity: dict[str, Any], size: int) -> Path:
    """The folder of unfinished work; what another config or other data left there is discarded."""
    work = folder / "work"
    state = work / "state.json"
    read_json(folder, "config.json")
    if state.exists():
        if orjson.loads(state.read_bytes()) == orjson.loads(orjson.dumps(identity)):
            console.print(f"going on with the unfinished work in {work}", highlight=False, soft_wrap=True)
            for part in folder.glob(".*.jsonl.[0-9]*"):  # a kill has left it without its name, as large as the set
                part.unlink()
            return work
        console.print(f"discarding {work}: unfinished, of other settings or data", highlight=False, soft_wrap=True)
    if work.exists():
        shutil.rmtree(work)
    check_disk(folder, 4 * size + 1e7, "the work on these files")
    for name in ("raw", "clean", "copies", "cut"):
        (work / name).mkdir(parents=True)
    write_hydra_files(folder)
    write_json(folder / "config.json", identity["config"])
    write_json(state, identity)
    return work


def _read(config: PrepareConfig, work: Path, size: int) -> list[int]:
    """Writes the raw shards, each of one source; records in each."""
    raw, columns = _places(config), config.columns_by_source
    marker = work / "raw" / "done.json"
    if marker.exists():
        return orjson.loads(marker.read_bytes())
    counts: list[int] = []
    sources: list[str] = []
    with progress("read", size, "MB", 1e6) as advance:
        batches = ((name, batch) for name, paths in raw.items() for batch in _batches(name, paths, columns[name]))
        for source, (items, read) in batches:
            shards.write_items(work / "raw" / shards.name(len(counts), "jsonl"), items)
            counts.append(len(items))
            sources.append(source)
            advance(read)
    if "" not in raw:
        write_json(work / "raw" / SOURCES, sources)
    write_json(marker, counts)
    return counts


def _batches(source: str, paths: list[str], columns: Columns) -> Iterator[tuple[list[Item], int]]:
    """Records of a source in shards, and about how many bytes of input each took."""
    items: list[Item] = []
    characters = 0
    for place, record in chain(records(paths), ((rejection.id, rejection) for rejection in skipped(paths))):
        item = _item(source, place, record, columns)
        items.append(item)
        if isinstance(item.conversation, Conversation):
            characters += sum(len(t.content) for t in item.conversation.turns)
        if len(items) == MOST_RECORDS or characters > MOST_CHARACTERS:
            yield items, characters
            items, characters = [], 0
    if items:
        yield items, characters


def _item(source: str, place: str, record: Any, columns: Columns) -> Item:
    """The record as a conversation; one without an id gets one from its content, which no other data moves."""
    where = f"{source}/{place}" if source else place
    if isinstance(record, Rejection):
        return Item(where, record)
    parsed = parse(record, place, columns)
    if isinstance(parsed, Conversation):
        parsed = replace(parsed, source=source)
    if isinstance(parsed, Conversation) and parsed.id == place:
        said = "\0".join(f"{t.role}\0{t.in_text}" for t in parsed.turns)
        text = f"{said}\0{parsed.tools}" if parsed.tools else said
        parsed = replace(parsed, id=f"h{blake2b(text.encode(), digest_size=8).hexdigest()}")
    return Item(where, parsed, isinstance(record, dict) and record.get("plugins") is not None)


def _job(config: PrepareConfig, work: Path, files: dict[str, str]) -> Job:
    """Of the first shard."""
    return Job(config.model_dump_json(), str(work), 0, blake2b(orjson.dumps(files)).hexdigest())


def _stage(label: str, function: Any, config: PrepareConfig, first: Job, counts: list[int], workers: int) -> None:
    """Does the shards that are not done yet."""
    jobs = [first._replace(shard=i) for i in range(len(counts))]
    left = [job for job in jobs if not (Path(job.work) / label / shards.name(job.shard)).exists()]
    with progress(label, sum(counts)) as advance:
        advance(sum(counts) - sum(counts[job.shard] for job in left))
        for job in run_all(config.engine, function, left, workers):
            advance(counts[job.shard])


def _write_copies(config: PrepareConfig, work: Path, count: int) -> None:
    """Finds the duplicates over all shards; writes for each shard which of its conversations go."""
    if config.dedup.enabled:
        files = [work / "clean" / shards.name(i, "npy") for i in range(count)]
        for shard, copies in find_duplicates(files, config.dedup, shards.sources(work / "raw")).items():
            write_json(work / "copies" / shards.name(shard), copies)
