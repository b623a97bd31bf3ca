"""One process of run.py: what a job does with its conversations before its first step; prints JSON.

python worker.py start <overrides of vicuna-train>
python worker.py scale <copies> <overrides of vicuna-train>
python worker.py messages <data> <file> [<count>]: the conversations as OpenAI's messages, for peers
"""

import json
import sys
import time
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vicuna_lit.config.compose import load
from vicuna_lit.data import token_cache
from vicuna_lit.data.batch import PlannedRows
from vicuna_lit.data.datamodule import ConversationDataModule
from vicuna_lit.data.dataset import DataReport
from vicuna_lit.data.mixture import JoinedExamples, fingerprint
from vicuna_lit.data.plan import give_back_memory, plan_run
from vicuna_lit.data.source import ConversationFiles
from vicuna_lit.data.tokenizer import make_encoder
from vicuna_lit.paths import locate
from vicuna_lit.records.conversation import Conversation, trim
from vicuna_lit.records.readers import read

ROWS = 200


def own_memory() -> int:
    """Bytes that belong to no file: pages of a mapped one can be given up at any time, and are no part of it."""
    found = Path("/proc/self/smaps_rollup").read_text().split("Anonymous:")
    return int(found[1].split()[0]) * 1024


def start(overrides: list[str]) -> dict[str, Any]:
    """Seconds and memory of `setup()`: both sets and the plan."""
    config = load("train", *overrides)
    encoder = make_encoder(config)
    before, wall, processor = own_memory(), time.perf_counter(), time.process_time()
    data = ConversationDataModule(config, encoder)
    data.setup()
    seconds = {"seconds": time.perf_counter() - wall, "processor_seconds": time.process_time() - processor}
    sizes = {"examples": len(data.train), "tokens": int(data.train.lengths.sum()), "steps": data.plan.steps}
    mib = (own_memory() - before) / 2**20
    return seconds | sizes | {"mib": mib, "fingerprint": fingerprint(data.train, data.plan)}


def scale(copies: int, overrides: list[str]) -> dict[str, Any]:
    """Memory of training data that is so many times as large, mapped, its plan made and some rows taken."""
    config = load("train", *overrides)
    examples, account = ConversationFiles(config).examples(make_encoder(config), validation=False)
    records = examples.records.tolist()
    with TemporaryDirectory() as folder:
        entry = Path(folder)
        numbered = (
            (records[i] + copy * account.records_numbered, examples[i])
            for copy in range(copies)
            for i in range(len(examples))
        )
        token_cache._write(entry, numbered)
        hashes = {name: token_cache.sha256_of(entry / name) for name in token_cache.ARRAYS}
        about = {"sha256": hashes, "account": DataReport().to_json()}
        (entry / token_cache.ABOUT).write_text(json.dumps(about))
        del examples, records, numbered
        give_back_memory()
        before = own_memory()
        found = token_cache._read(entry)
        assert found is not None
        opened, wall, processor = own_memory(), time.perf_counter(), time.process_time()
        plan = plan_run(config, JoinedExamples({"": found[0]}).sizes, 1)
        give_back_memory()  # as `PlannedData.read` does
        seconds = {
            "plan_seconds": time.perf_counter() - wall,
            "plan_processor_seconds": time.process_time() - processor,
        }
        planned = own_memory()
        taken = sum(int(batch.input_ids.numel()) for batch in islice(_rows(PlannedRows(found[0], plan)), ROWS))
        return {
            "conversations": copies * account.records_kept,
            "tokens": len(found[0].input_ids),
            "gb": sum((entry / name).stat().st_size for name in token_cache.ARRAYS) / 1e9,
            "opened_mib": (opened - before) / 2**20,
            "plan_mib": (planned - opened) / 2**20,
            "resident_mib": planned / 2**20,
            **seconds,
            f"{ROWS}_rows_mib": (own_memory() - planned) / 2**20,
            "tokens_of_rows": taken,
        }


def messages(data: str, file: str, count: str | None = None) -> dict[str, Any]:
    """Those that can be trained on."""
    trimmed = (trim(record)[0] for record in read(locate(data)) if isinstance(record, Conversation))
    whole = islice((one for one in trimmed if isinstance(one, Conversation)), int(count) if count else None)
    lines = [{"messages": [{"role": t.role, "content": t.content} for t in one.turns]} for one in whole]
    Path(file).write_text("\n".join(map(json.dumps, lines)))
    return {"conversations": len(lines)}


JOBS: dict[str, Any] = {
    "start": lambda *given: start(list(given)),
    "scale": lambda copies, *given: scale(int(copies), list(given)),
    "messages": messages,
}


def _rows(rows: PlannedRows) -> Any:
    return (rows[i] for i in range(len(rows)))


if __name__ == "__main__":
    mode, *given = sys.argv[1:]
    print(json.dumps(JOBS[mode](*given)))
