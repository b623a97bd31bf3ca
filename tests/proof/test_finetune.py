"""What is trained: adapters are exact and merge exactly, 4-bit weights stay as they are, the rest is frozen."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.helpers.runs import COMMON, QUICKSTART, curve, run_here, weights
from vicuna_lit.config.compose import load
from vicuna_lit.data.batch import Batch, collate
from vicuna_lit.data.dataset import build_dataset
from vicuna_lit.data.tokenizer import make_encoder
from vicuna_lit.models.adapters import Merged, merged, whole
from vicuna_lit.models.causal_lm import SupervisedLM, build_model
from vicuna_lit.paths import ModelError
from vicuna_lit.records.readers import read

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT's, of transformers


def built(*overrides: str) -> tuple[SupervisedLM, Batch]:
    config = load("train", *COMMON, *overrides)
    encoder = make_encoder(config)
    torch.manual_seed(0)
    lm = SupervisedLM.of(build_model(config, encoder), config)
    examples, _ = build_dataset(read(QUICKSTART / "validation.jsonl"), encoder, 256, most=4)
    return lm, collate(examples, (0, 1, 2, 3), 100)


def stir(model: PreTrainedModel) -> None:
    """Adapters begin as nothing; make them something."""
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.05)


def plain_copy(lm: SupervisedLM) -> PreTrainedModel:
    """The merged weights in a plain model."""
    state = {name: t.whole() if isinstance(t, Merged) else t.detach() for name, t in merged(lm.model).items()}
    config = load("train", *COMMON)
    model = build_model(config, make_encoder(config))
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}
    return model


@pytest.mark.promise("An adapter's gradients are those of the merged weight; merged and unmerged give the same logits")
def test_merged_and_unmerged_are_one_function_and_have_one_gradient():
    """dL/dA and dL/dB follow from dL/dW of the merged model: W = W0 + s·B·A."""
    lm, batch = built("finetune=lora", "finetune.rank=4")
    stir(lm.model)
    plain = SupervisedLM(plain_copy(lm))
    with torch.no_grad():
        torch.testing.assert_close(lm.hidden(batch), plain.hidden(batch), rtol=1e-4, atol=1e-5)
    ours, theirs = lm(SupervisedLM.row_loss, batch), plain(SupervisedLM.row_loss, batch)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    ours.backward()
    theirs.backward()
    modules = dict(plain.model.named_modules())
    adapted: dict[str, Any] = {n: m for n, m in lm.model.named_modules() if hasattr(m, "lora_A")}
    assert len(adapted) == 14
    for name, layer in adapted.items():
        gradient = modules[name].weight.grad
        assert isinstance(gradient, torch.Tensor)
        scale, a, b = layer.scaling["default"], layer.lora_A["default"].weight, layer.lora_B["default"].weight
        assert scale == 32 / 4
        torch.testing.assert_close(a.grad, scale * b.T @ gradient, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(b.grad, scale * gradient @ a.T, rtol=1e-3, atol=1e-5)
        assert layer.base_layer.weight.grad is None


def test_adapters_begin_as_the_base_model():
    lm, batch = built("finetune=lora")
    plain, _ = built()
    with torch.no_grad():
        assert torch.equal(lm(SupervisedLM.row_loss, batch), plain(SupervisedLM.row_loss, batch))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("finetune=lora", "finetune.targets=[q_porj]"), "no linear layer is called q_porj; .*q_proj"),
        (
            ("finetune=head_only", "finetune.train=[layrs]"),
            "finetune.train: 'layrs' matches no weight; there are .*layers",
        ),
    ],
)
def test_what_fits_nothing_is_said(overrides: tuple[str, ...], expected: str):
    with pytest.raises(ModelError, match=expected):
        built(*overrides)


@pytest.mark.parametrize(
    ("kind", "package"), [("finetune=lora", "peft"), ("finetune=qlora", "bitsandbytes"), ("finetune=qlora", "peft")]
)
def test_what_is_not_installed_is_said(kind: str, package: str, base, monkeypatch):
    from vicuna_lit import paths

    monkeypatch.setattr(paths, "find_spec", lambda name: None if name == package else True)
    with pytest.raises(ModelError, match="pip install 'vicuna_lit"):
        config = load("train", *local(base, kind))
        build_model(config, make_encoder(config))


def test_the_head_alone(tmp_path):
    """An untied head moves and nothing else does."""
    untied = next(c for c in COMMON if c.startswith("model.architecture")).replace("}", ", tie_word_embeddings: false}")
    run_here([*COMMON, untied, "finetune=head_only", f"run.dir={tmp_path / 'run'}"])
    lm, _ = built(untied)
    before = lm.model.state_dict()
    for name, weight in weights(tmp_path / "run").items():
        assert torch.equal(weight, before[name]) == (name != "lm_head.weight"), name


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A trained model in a folder: 4-bit weights are read from one."""
    folder = tmp_path_factory.mktemp("base") / "run"
    run_here([*COMMON, f"run.dir={folder}"])
    return folder / "hf"


def local(base: Path, *overrides: str) -> list[str]:
    common = [c for c in COMMON if not c.startswith("model.")]
    return [*common, "model=local", f"model.path={base}", *overrides]


@pytest.mark.promise("4-bit weights stay as they were rounded")
def test_four_bits(base, tmp_path):
    """QLoRA trains adapters alone, on weights that stay as they were rounded, and exports a plain model."""
    settings = ("finetune=qlora", "optimizer.lr=5e-3")
    run_here(local(base, *settings, f"run.dir={tmp_path / 'run'}"))
    losses = curve(tmp_path / "run")[0]
    assert losses[-1] < losses[0]
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "hf")
    assert not hasattr(exported.config, "quantization_config")
    original = AutoModelForCausalLM.from_pretrained(base)
    assert exported.num_parameters() == original.num_parameters()
    config = load("train", *local(base, *settings))
    loaded = build_model(config, make_encoder(config))
    assert any(p.dtype == torch.uint8 for p in loaded.parameters())
    assert all("lora_" in n for n, p in loaded.named_parameters() if p.requires_grad)
    ours, theirs = exported.state_dict(), original.state_dict()
    module: Any
    for name, module in loaded.named_modules():
        if hasattr(module, "base_layer"):
            rounded = whole(module.base_layer.weight)
            plain = theirs[f"{name}.weight"]
            assert 0 < (rounded - plain).abs().max() < 0.2 * plain.abs().max()
            rank = torch.linalg.matrix_rank(ours[f"{name}.weight"] - rounded, rtol=1e-3)
            assert 0 < rank <= 16, "what was added is the adapter's product"
    assert torch.equal(ours["model.embed_tokens.weight"], theirs["model.embed_tokens.weight"])


@pytest.mark.slow
def test_four_bits_under_every_precision(base, tmp_path):
    start = []
    for precision in ("fp32", "bf16-mixed", "bf16-true"):
        run = tmp_path / precision
        run_here(local(base, "finetune=qlora", f"precision={precision}", "trainer.max_steps=3", f"run.dir={run}"))
        start.append(curve(run, 3)[0][0])
        dtype = torch.bfloat16 if precision == "bf16-true" else torch.float32
        assert {t.dtype for t in weights(run).values()} == {dtype}
    assert start == pytest.approx([start[0]] * 3, rel=5e-3)
