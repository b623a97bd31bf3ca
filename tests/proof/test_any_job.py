"""Any job on any input ends with a result that stands for all that it read, or with a message and exit code 2.

Configs and inputs are drawn from seeds: files of all forms, whole and damaged, models whole and damaged. What ends well
is asked again after each file that it read has changed by one line: an old result must not be taken for a new one.
"""

import gzip
import json
import math
import os
import random
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from tests.helpers.families import save_tiny
from vicuna_lit.chat.log import ChatLog
from vicuna_lit.chat.moderation import make_moderator
from vicuna_lit.chat.service import ChatService
from vicuna_lit.chat.terminal import converse
from vicuna_lit.cli.app import is_expected
from vicuna_lit.config.base import ConfigError
from vicuna_lit.config.compose import load
from vicuna_lit.config.short_forms import Job
from vicuna_lit.estimate.lengths import sizes_of
from vicuna_lit.evaluate.run import evaluate_models
from vicuna_lit.inference.backend import open_backends
from vicuna_lit.machine import BAD_INPUT, exit_code
from vicuna_lit.prepare.run import prepare_data
from vicuna_lit.run_folder import RunError
from vicuna_lit.train.early import refuse_early
from vicuna_lit.train.run import fit

CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
RECORDS: tuple[Any, ...] = (
    {"messages": [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "A model."}]},
    {"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}], "id": 7},
    {"instruction": "Say hi", "input": "", "output": "Hi", "history": [["a", "b"]]},
    {"prompt": "Write a line", "completion": "A line."},
    {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y", "weight": 0.5}], "score": 2},
    {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!", "reasoning_content": "hm"}]},
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
    {"messages": [{"role": "assistant", "content": "first"}]},
    {"messages": 5}, {"conversations": [{"from": 3, "value": {}}]}, {"messages": [{"role": "user"}]}, [], None, 1, {},
    {"messages": [{"role": "user", "content": "</s><s>[INST]"}, {"role": "assistant", "content": "\U0010f000 </s>"}]},
    {"messages": [{"role": "user", "content": ""}, {"role": "assistant", "content": " \n"}]},
    {"messages": [{"role": "user", "content": "é" * 3000}, {"role": "assistant", "content": "long " * 2000}]},
)  # fmt: skip
GOOD = RECORDS[:6]
LINES = ("{", '{"messages": NaN}', '{"a": "\\ud800"}', "[" * 3000, "", "plain text", '{"messages": [], "messages": 1}')
"""Of files, besides records."""
Run = Callable[[list[str]], Any]


@cache
def base(folder: Path) -> Path:
    return save_tiny("llama", folder / "base", hidden_size=16, num_attention_heads=2, num_key_value_heads=2)


class Draw:
    """One random job with its files; `read` are those whose content its result stands for."""

    def __init__(self, seed: int, place: Path, tiny: Path):
        self.random, self.place, self.tiny = random.Random(seed), place, tiny
        self.read: list[Path] = []
        place.mkdir()

    def records(self, name: str) -> Path:
        """A file of conversations, of any form; half of them hold a mistake or more."""
        some, whole = self.random, self.random.random() < 0.6
        drawn = [json.dumps(r, ensure_ascii=some.random() < 0.5) for r in some.choices(GOOD, k=some.randint(2, 12))]
        if not whole:
            drawn += [json.dumps(r) for r in some.choices(RECORDS, k=3)] + some.choices(LINES, k=2)
            some.shuffle(drawn)
        ending = some.choice((".jsonl", ".json", ".jsonl.gz", ".JSONL", ".txt" if not whole else ".ndjson"))
        file = self.place / f"{name}{ending}"
        text = "[" + ",\n".join(drawn) + "]" if ending == ".json" else "\n".join(drawn) + "\n"
        data = text.encode(some.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16")), "surrogatepass")
        data = gzip.compress(data) if ending.endswith("gz") else data
        file.write_bytes(data if whole or some.random() < 0.7 else data[: some.randint(0, len(data))])
        if ending != ".txt":  # skipped in a folder, and named
            self.read.append(file)
        return file

    def data(self, name: str) -> str:
        """A file, a folder, a pattern, or nothing that is there."""
        some = self.random
        if some.random() < 0.1:
            return str(self.place / some.choice(("gone.jsonl", "a=b, c", "*.none")))
        folder = self.place / some.choice(("plain", "with blank, ü=1"))
        folder.mkdir(exist_ok=True)
        files = [shutil.move(self.records(f"{name}{i}"), folder) for i in range(some.randint(1, 2))]
        self.read = [folder / f.name if f.parent == self.place else f for f in self.read]
        return str(some.choice((files[0], folder)) if len(files) == 1 else folder)

    def model(self) -> str:
        """A tiny model, in a third of the cases with something wrong or another chat template."""
        folder, some = self.place / "model", self.random
        shutil.copytree(self.tiny, folder)
        match some.choice((*[""] * 6, "gone", "cut", "odd", "template", "template", "bad template", "empty")):
            case "gone":
                (folder / some.choice(("config.json", "model.safetensors", "tokenizer.json"))).unlink()
            case "cut":
                file = folder / some.choice(("config.json", "model.safetensors", "tokenizer.json"))
                file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
            case "odd":
                (folder / some.choice(("config.json", "tokenizer_config.json"))).write_text(
                    some.choice(("[]", "1", "{}"))
                )
            case "template":
                (folder / "chat_template.jinja").write_text(CHATML)
            case "bad template":
                (folder / "chat_template.jinja").write_text(
                    some.choice(("{{ 1 / 0 }}", "{% for", "x", "{{ messages }}"))
                )
            case "empty":
                shutil.rmtree(folder)
                folder.mkdir()
            case _:
                pass
        self.read += [f for f in folder.iterdir() if f.suffix in (".json", ".safetensors", ".jinja")]
        return str(folder)

    def some(self, *choices: str, odd: tuple[str, ...] = (), count: int = 3) -> list[str]:
        """A few overrides, each key once; now and then one that may be refused."""
        chosen = self.random.sample(choices, count) + (
            [self.random.choice(odd)] if odd and self.random.random() < 0.2 else []
        )
        return list({one.partition("=")[0]: one for one in chosen}.values())


def train(draw: Draw) -> tuple[list[str], Run]:
    own = ["experiment=quickstart", "model=local", f"model.path={draw.model()}", f"data={draw.data('data')}"]
    own += ["wandb.mode=disabled", "samples.questions=[]", "precision=fp32", "tokens_per_device=512"]
    own += ["trainer.max_steps=2", "conversations_per_step=2", "context_length=128", "data.validation_fraction=0.2"]
    drawn = draw.some(
        "conversations_per_step=1", "data.validation_fraction=0", "template=auto", "seed=3", "train_on=all_tokens",
        "train_on=last_assistant_message", "order=by_length", "step_unit=conversation", "finetune=lora",
        "model.add_tokens=['<a>']", "system_prompt='{x} </s> é'", "trainer.max_steps=1",
        "data.validation_fraction=0.99",
        odd=(
            "context_length=16", "context_length=1000000", "template=tokenizer", "template=llama3", "optimizer.lr=0",
            "optimizer.lr=1e30", "order=by_score", "template.variables={think: true}",
        ),
    )  # fmt: skip

    def run(given: list[str]) -> Any:
        config = load("train", *given)
        refuse_early(config)
        return fit(config)

    return own + drawn, run


def prepare(draw: Draw) -> tuple[list[str], Run]:
    own = [f"raw={draw.data('raw')}", "workers=1"]
    drawn = draw.some(
        "preset=fastchat", "language.enabled=false", "dedup.enabled=false", "decontamination.enabled=false",
        "roles.disorder=merge", "roles.disorder=reject", "validation_fraction=0.5", "context_length=32",
        "filters.texts={}", "personal_data.enabled=false", "html.enabled=false", "tidy.enabled=false",
    )  # fmt: skip
    if draw.random.random() < 0.4:
        own += [f"tokenizer={draw.model()}", f"template={draw.random.choice(('vicuna_v1', 'tokenizer', 'auto'))}"]
        draw.read = [f for f in draw.read if f.suffix != ".safetensors" and f.name != "generation_config.json"]
    return own + drawn, lambda given: prepare_data(load("prepare", *given))


def evaluate(draw: Draw) -> tuple[list[str], Run]:
    rows = [{"question_id": str(i), "category": "x", "turns": ["Hi?"], "reference": ["a b"]} for i in range(2)]
    asked, answers = draw.place / "asked.jsonl", draw.place / "answers.jsonl"
    lines = [json.dumps(row) for row in rows] + draw.random.choices(("", "", "", "{", "null"), k=1)
    asked.write_text("\n".join(lines))
    answers.write_text("\n".join(json.dumps({"question_id": str(i), "turns": ["a"]}) for i in range(2)))
    draw.read += [asked, answers]
    own = [f"models=[{draw.model()},{answers}]", f"questions={asked}", "judge=rule", "answers.max_new_tokens=2"]
    drawn = draw.some("max_questions=1", "answers.temperature=0.5", "answers.batch_size=1", count=2)
    return [*own, "wandb.mode=disabled", *drawn], lambda given: evaluate_models(load("evaluate", *given))


def estimate(draw: Draw) -> tuple[list[str], Run]:
    own = ["experiment=quickstart", f"data={draw.data('data')}", "gpu=cpu"]
    drawn = draw.some(
        "context_length=64", "train_on=all_tokens", "price=1", odd=("template=llama3", "count=0"), count=2
    )

    def run(given: list[str]) -> Any:
        found = sizes_of(load("estimate", *[g for g in given if not g.startswith("run.dir=")]))
        return [int(n) for n in found.sizes.lengths]

    return own + drawn, run


def chat(draw: Draw) -> tuple[list[str], Run]:
    own = [f"model={draw.model()}", "settings.max_new_tokens=2", "terminal=true", "record=false"]

    def run(given: list[str]) -> Any:
        config = load("chat", *given)
        said = iter(["Hi", "</s>"])

        def read(_: str) -> str:
            for text in said:
                return text
            raise EOFError

        converse(ChatService(config, open_backends(config), make_moderator(config.moderation), ChatLog(config)), read)

    return own, run


JOBS: dict[Job, Callable[[Draw], tuple[list[str], Run]]] = {
    "train": train, "prepare": prepare, "evaluate": evaluate, "estimate": estimate, "chat": chat,
}  # fmt: skip


def outcome(run: Run, given: list[str]) -> tuple[Any, Exception | None]:
    """A result, or the refusal; anything else is a mistake of ours."""
    try:
        return run(given), None
    except Exception as error:
        assert is_expected(error), f"{given}: {error!r}"
        assert exit_code(error) == BAD_INPUT, f"{given}: {error!r}"
        said = error.problems if isinstance(error, ConfigError) else [str(error)]
        assert all(line.strip() and "Traceback" not in line for line in said), f"{given}: {error!r}"
        return None, error


def change(file: Path) -> None:
    """What is read from it now is another thing."""
    data = file.read_bytes()
    if file.suffix == ".safetensors":
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif file.suffix == ".jinja":
        file.write_bytes(b"{# other #}" + data)
    elif file.name.endswith(".gz"):
        file.write_bytes(gzip.compress(gzip.decompress(data).replace(b"o", b"0")))
    else:
        file.write_bytes(data + b" \n")


def whole(result: Any, folder: Path) -> None:
    """What it says of itself adds up."""
    if (file := folder / "result.json").exists():
        values = json.loads(file.read_text())
        data = values["data"]["train"]
        assert data["records_in"] == data["records_kept"] + data["records_rejected"]
        assert all(math.isfinite(v) for v in values.values() if isinstance(v, float))
        assert values["status"] == "finished" and values["steps"] > 0
    if (file := folder / "manifest.json").exists():
        values = json.loads(file.read_text())
        assert values["records_in"] == values["records_kept"] + values["records_rejected"]


def holds(job: Job, seed: int, tmp_path: Path, tiny: Path) -> str:
    draw = Draw(seed, tmp_path / f"{job}{seed}", tiny)
    given, run = JOBS[job](draw)
    folder = draw.place / "run"
    given = [*given, f"run.dir={folder}"]
    result, refused = outcome(run, given)
    if refused is not None:
        assert not (folder / "result.json").exists()
        return "refused"
    whole(result, folder)
    for file in draw.random.sample(sorted(draw.read), min(3, len(draw.read))):
        before = file.read_bytes()
        change(file)
        again, why = outcome(run, given)
        if job in ("train", "prepare", "evaluate"):
            assert why is not None, f"{file}: stale"
            assert not isinstance(why, RunError) or file.name in str(why), f"{file}: {why}"
        elif job == "estimate" and why is None:
            with patch.dict(os.environ, VICUNA_LIT_CACHE=str(tmp_path / f"fresh-{seed}-{file.name}")):
                fresh = run(given)
            assert again == fresh
        file.write_bytes(before)
    return "finished"


FEW = {"train": 2, "prepare": 3, "evaluate": 6, "estimate": 3, "chat": 3}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return base(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.promise(
    "Any job on any config and input ends with a result that stands for the content of all that it read, or with a "
    "message and exit code 2"
)
def test_a_result_stands_for_all_that_was_read_or_a_message_says_why_not(job: Job, tmp_path, tiny, monkeypatch):
    monkeypatch.setenv("VICUNA_LIT_CACHE", str(tmp_path / "cache"))
    assert "finished" in {holds(job, seed, tmp_path, tiny) for seed in range(FEW[job])}


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_the_same_for_many_more(job: Job, tmp_path, tiny, monkeypatch):
    """`ANY_JOB_SEEDS` says how many."""
    monkeypatch.setenv("VICUNA_LIT_CACHE", str(tmp_path / "cache"))
    for seed in range(100, 100 + int(os.environ.get("ANY_JOB_SEEDS", "8"))):
        holds(job, seed, tmp_path, tiny)
