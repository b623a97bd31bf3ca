"""Strategies are not mathematics: each really runs on two processes, and gives what one process gives.

Each strategy's jobs run in one group of processes; what they left in their folders is then compared.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.helpers import commands
from tests.helpers.group import run_group
from tests.helpers.runs import COMMON, QUICKSTART, STEPS, agree, compare, curve, run_here, weights
from tests.proof.test_invariance import ALL, FEW
from vicuna_lit.compare.conversations import validation_of
from vicuna_lit.config.choices import shipped_strategies
from vicuna_lit.config.compose import load
from vicuna_lit.data.tokenizer import make_encoder
from vicuna_lit.models.causal_lm import SupervisedLM, build_model
from vicuna_lit.run_folder import RunError
from vicuna_lit.train.checkpoint.format import find
from vicuna_lit.train.distributed import DistributedEnv, launch
from vicuna_lit.train.strategies import strategy_of
from vicuna_lit.train.strategies.replicated import CopiesStrategy

STRATEGIES = [facts.name for facts in shipped_strategies() if not facts.one_process]
HALF = [settings for i, settings in enumerate(ALL) if i.bit_count() % 2 == 0 and settings not in FEW]
"""With FEW a half fraction: the values of any three keys meet in all eight ways."""
LORA = ("finetune=lora", "finetune.rank=4", "optimizer.lr=2e-3")
PARTIAL = ("finetune=partial", r"finetune.train=['layers\.1\.','^model\.norm']")
STOPPED = ("checkpoint.every_steps=3", "validation.every_steps=5", "tokens_per_device=256")
BF16 = ("precision=bf16-true",)
ADDED = ("template=chatml", "model.add_tokens=['<|im_start|>','<|im_end|>']")
"""With turns that count twice, half and not at all, see `weighted`."""
MIXED = ("precision=bf16-mixed", "gradient_checkpointing=full")
Settings = tuple[str, ...]


def job(folder: Path, name: str, *settings: str, **options: Any) -> dict[str, Any]:
    return {"overrides": [*COMMON, *settings, f"run.dir={folder / name}"], **options}


def weighted(folder: Path) -> Settings:
    """Settings of a run on conversations whose turns have weights."""
    lines = (QUICKSTART / "conversations.jsonl").read_text().splitlines()[:40]
    records = [json.loads(line) for line in lines]
    for n, record in enumerate(records):
        for i, turn in enumerate(record["conversations"]):
            if turn["from"] == "gpt" and n % 2:
                turn["weight"] = (2, 0.5, 0, 1)[(n // 2 + i) % 4]
    (folder / "weighted.jsonl").write_text("\n".join(map(json.dumps, records)))
    return *ADDED, f"data.path={folder / 'weighted.jsonl'}"


@pytest.fixture(scope="module")
def single(tmp_path_factory) -> Path:
    """What one process gives."""
    folder = tmp_path_factory.mktemp("single")
    runs = {"full": (), "lora": LORA, "partial": PARTIAL, "bf16": BF16, "mixed": MIXED, "added": weighted(folder)}
    for name, settings in runs.items():
        run_here(**job(folder, name, *settings))
    return folder


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT's, of transformers
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.promise(
    "Every strategy on two processes gives the losses, gradient norms and final weights of one process: whole, in "
    "part and with adapters, with a stop on the way"
)
def test_every_strategy(strategy: str, tmp_path, single):
    """Trains, clips, validates, saves sharded, stops, goes on, exports; whole, in part and with adapters."""
    chosen = f"strategy={strategy}"
    jobs = [job(tmp_path, f"few{i}", *settings, chosen) for i, settings in enumerate(FEW)]
    jobs += [job(tmp_path, "lora", *LORA, chosen), job(tmp_path, "partial", *PARTIAL, chosen)]
    jobs += [job(tmp_path, "bf16", *BF16, chosen), job(tmp_path, "mixed", *MIXED, chosen)]
    jobs += [job(tmp_path, "added", *ADDED, f"data.path={single / 'weighted.jsonl'}", chosen)]
    jobs += [job(tmp_path, "stopped", *STOPPED, chosen, stop_after=8), job(tmp_path, "stopped", *STOPPED, chosen)]
    run_group(jobs, tmp_path)
    for i in range(len(FEW)):
        compare(tmp_path / f"few{i}", single / "full")
    compare(tmp_path / "lora", single / "lora")
    compare(tmp_path / "partial", single / "partial")
    compare(tmp_path / "added", single / "added")
    agree(curve(tmp_path / "bf16"), curve(single / "bf16"), within=0.1)
    its_losses, our_losses = curve(tmp_path / "bf16")[0], curve(single / "bf16")[0]
    assert its_losses == pytest.approx(our_losses, rel=5e-3)
    agree(curve(tmp_path / "mixed"), curve(single / "mixed"), within=5e-2)
    goes_on_as_if_never_stopped(tmp_path / "stopped", tmp_path / "few0")
    the_result_is_whole(tmp_path / "few0", single / "full")
    only_the_chosen_weights_moved(tmp_path / "partial", single / "full")
    adapters_open_in_peft(tmp_path / "lora")


def goes_on_as_if_never_stopped(stopped: Path, never: Path) -> None:
    """To the bit: metrics and weights. `few0` has the same layout, and takes no validation loss on the way."""
    assert (stopped / "metrics.csv").read_bytes() == (never / "metrics.csv").read_bytes()
    ours, theirs = weights(stopped), weights(never)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert [c.step for c in find(stopped / "checkpoints").complete] == [18, STEPS]


def the_result_is_whole(folder: Path, reference: Path) -> None:
    ours, theirs = (json.loads((f / "result.json").read_text()) for f in (folder, reference))
    for key in ("val_loss", "val_loss_before"):
        assert ours[key] == pytest.approx(theirs[key], rel=1e-5)
    assert ours["validation"] == pytest.approx(theirs["validation"], rel=1e-4)
    ours_of_each, of_each = (validation_of(f) for f in (folder, reference))
    assert ours_of_each and of_each
    assert ours_of_each.ids == of_each.ids
    assert ours_of_each.last == pytest.approx(of_each.last, rel=1e-4)
    for key in ("status", "steps", "supervised_tokens", "data", "model_bytes"):
        assert ours[key] == theirs[key]
    assert AutoModelForCausalLM.from_pretrained(folder / "hf").num_parameters() > 0


def only_the_chosen_weights_moved(partial: Path, full: Path) -> None:
    ours, theirs = weights(partial), weights(full)
    trained = {name for name in ours if ".layers.1." in name or name == "model.norm.weight"}
    start = initial_weights()
    for name in ours:
        assert torch.equal(ours[name], start[name]) == (name not in trained), name
    assert not any(torch.equal(theirs[name], start[name]) for name in theirs)


def initial_weights() -> dict[str, torch.Tensor]:
    config = load("train", *COMMON)
    encoder = make_encoder(config)
    torch.manual_seed(config.seed)
    return build_model(config, encoder).state_dict()


def adapters_open_in_peft(folder: Path) -> None:
    """The adapters alone on the base model give the logits of the merged export."""
    merged: Any = AutoModelForCausalLM.from_pretrained(folder / "hf").eval()
    base: Any = AutoModelForCausalLM.from_pretrained(folder / "hf")
    base.load_state_dict(initial_weights())
    adapted = PeftModel.from_pretrained(base, str(folder / "adapter")).eval()
    ids = torch.arange(3, 60)[None]
    with torch.no_grad():
        ours, theirs = adapted(ids).logits, merged(ids).logits
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        with adapted.disable_adapter():
            assert (adapted(ids).logits - theirs).abs().max() > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "dealt"), [("ddp", 0), ("fsdp", 0), ("zero2", 1), ("zero3", 1)])
@pytest.mark.promise(
    "Every strategy on two processes gives the losses, gradient norms and final weights of one process: whole, in "
    "part and with adapters, with a stop on the way"
)
def test_every_strategy_with_every_setting(strategy: str, dealt: int, tmp_path, single):
    """FEW are in `test_every_strategy`; ddp and zero2 share the rest of the half fraction, as do fsdp and zero3."""
    settings = HALF[dealt::2]
    jobs = [job(tmp_path, str(i), *chosen, f"strategy={strategy}") for i, chosen in enumerate(settings)]
    run_group(jobs, tmp_path)
    for i in range(len(settings)):
        compare(tmp_path / str(i), single / "full")


@pytest.mark.slow
def test_answers_in_between_on_sharded_weights(tmp_path):
    """Every rank takes part; the answers are those of one process, and the losses do not notice."""
    asked = ("samples.questions=[[Who are you?, And who made you?]]", "samples.per_category=1", "samples.every=4",
             "samples.max_new_tokens=8", "trainer.max_steps=10")  # fmt: skip
    run_here(**job(tmp_path, "single", *asked))
    sharded = ("ddp", "fsdp", "zero3")
    jobs = [job(tmp_path, strategy, *asked, f"strategy={strategy}") for strategy in sharded]
    run_group([*jobs, job(tmp_path, "silent", *asked, "samples.every=null", "strategy=fsdp")], tmp_path)
    ours = json.loads((tmp_path / "single/result.json").read_text())["replies"]
    assert len(ours) == 18
    for strategy in sharded:
        assert json.loads((tmp_path / strategy / "result.json").read_text())["replies"] == ours
        agree(curve(tmp_path / strategy, 10), curve(tmp_path / "single", 10))
    assert curve(tmp_path / "silent", 10) == curve(tmp_path / "fsdp", 10)


def command(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Torchrun; a command that starts processes of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
    )


@pytest.mark.promise(
    "The command starts its processes itself, and two machines under torchrun give what one process gives"
)
@pytest.mark.slow
def test_devices_alone_start_the_processes(tmp_path, single):
    """Exactly what a user types; one message on a mistake, exit code and all."""
    task = ["vicuna_lit.train", *COMMON, "strategy=ddp", "trainer.devices=2", f"run.dir={tmp_path / 'run'}"]
    good = command(*task)
    wrong = commands.run(*task, "data.path=/nowhere/x.json", f"run.dir={tmp_path / 'wrong'}", workers=True)
    assert wrong.returncode == 2
    assert wrong.stderr.count("/nowhere/x.json: no such file") == 1
    assert "Traceback" not in wrong.stderr + wrong.stdout
    out, errors = good.communicate()
    assert good.returncode == 0, errors
    assert out.count("validation loss before training") == 1, "one process speaks"
    compare(tmp_path / "run", single / "full")
    assert "already holds this run's result" in commands.run(*task).stdout


@pytest.mark.slow
@pytest.mark.promise(
    "The command starts its processes itself, and two machines under torchrun give what one process gives"
)
def test_two_nodes_of_one_process_each(tmp_path, single):
    """Two torchruns that meet on a port of this machine, as two machines would."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    task = ["-m", "vicuna_lit.train", *COMMON, "strategy=fsdp", f"run.dir={tmp_path / 'run'}"]
    nodes = [
        command("torch.distributed.run", "--nnodes=2", f"--node-rank={i}", "--nproc-per-node=1",
                "--master-addr=127.0.0.1", f"--master-port={port}", *task)
        for i in range(2)
    ]  # fmt: skip
    for node in nodes:
        errors = node.communicate(timeout=300)[1]
        assert node.returncode == 0, errors
    compare(tmp_path / "run", single / "full")


@pytest.mark.slow
def test_torchrun_with_a_strategy_for_one_process(tmp_path):
    task = ["-m", "vicuna_lit.train", *COMMON, f"run.dir={tmp_path / 'run'}"]
    process = command("torch.distributed.run", "--standalone", "--nproc-per-node=2", *task)
    errors = process.communicate()[1]
    assert process.returncode != 0
    assert errors.count("torchrun started 2 processes, but strategy=single is for one") == 1


FOLDER = ("experiment=quickstart", "model=local", "model.path=/models/x", "template=vicuna_v1")
PLACES: dict[Settings, tuple[str, str]] = {
    ("strategy=single",): ("cpu", "-"),
    (*FOLDER, "strategy=single"): ("cuda:1", "-"),
    ("strategy=ddp",): ("cpu", "meta"),
    (*FOLDER, "strategy=ddp"): ("cuda:1", "meta"),
    (*FOLDER, "strategy=ddp", "finetune=qlora"): ("cuda:1", "cuda:1"),
    (*FOLDER, "strategy=fsdp"): ("cpu", "meta"),
    (*FOLDER, "strategy=zero2"): ("cuda:1", "cuda:1"),
    (*FOLDER, "strategy=zero3"): ("cpu", "cpu"),
    (*FOLDER, "strategy=ddp", "trainer.accelerator=cpu"): ("cpu", "meta"),
}
"""Where the first process of a run on GPUs builds its model, and where any other."""


@pytest.mark.parametrize("settings", PLACES, ids=lambda settings: " ".join(settings[-2:]))
def test_one_process_reads_the_weights_where_they_shall_lie(settings: Settings, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    config = load("train", *settings)
    first, other = (strategy_of(config).build_device(DistributedEnv(rank, 2, 2)) for rank in range(2))
    assert first == PLACES[settings][0]
    assert other == PLACES[settings][1] or config.strategy.kind == "single"


def test_room_for_weights_that_are_still_to_come():
    """On the process's device; the head is still the embeddings' matrix."""
    config = load("train", *COMMON, "finetune=lora")
    lm = SupervisedLM.of(build_model(config, make_encoder(config), "meta"), config)
    was = {name: (p.shape, p.dtype, p.requires_grad) for name, p in lm.named_parameters()}
    strategy = CopiesStrategy(parallel_devices=[torch.device("cpu")])
    module = L.LightningModule()
    module.lm = lm
    strategy.connect(module)
    strategy.model_to_device()
    assert {name: (p.shape, p.dtype, p.requires_grad) for name, p in lm.named_parameters()} == was
    assert {t.device.type for t in (*lm.parameters(), *lm.buffers())} == {"cpu"}
    assert lm.head.weight is lm.model.get_input_embeddings().weight


OPTIMIZERS = {"adafactor": 0.1, "adamw_8bit": 1e-3}


def test_more_processes_than_gpus_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    config = load("train", "strategy=fsdp", "trainer.devices=8")
    with pytest.raises(RunError, match=r"trainer\.devices=8, but this machine has 2 GPUs; trainer\.devices=2 gives"):
        launch(config)


@pytest.mark.slow
def test_optimizers_that_save_memory(tmp_path):
    """Under ddp each process has whole matrices, so the state is that of one process; stopped in between."""
    jobs = []
    for kind, lr in OPTIMIZERS.items():
        settings = ("strategy=ddp", f"optimizer.kind={kind}", f"optimizer.lr={lr}", "checkpoint.every_steps=3")
        jobs += [job(tmp_path, kind, *settings, stop_after=7), job(tmp_path, kind, *settings)]
    run_group(jobs, tmp_path)
    for kind, lr in OPTIMIZERS.items():
        run_here(**job(tmp_path, f"{kind}-alone", f"optimizer.kind={kind}", f"optimizer.lr={lr}"))
        alone = curve(tmp_path / f"{kind}-alone")
        agree(curve(tmp_path / kind), alone, within=1e-3)
        assert alone[0][-1] < alone[0][0] - 0.5
