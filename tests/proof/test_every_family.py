"""Every family of transformers' causal language models is trained as the model that it is, or refused in one line.

`pytest tests/proof/test_every_family.py --golden -m ''` writes the table in docs/families.md anew.
"""

import os
import re
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as FAMILIES

from tests.helpers.encoders import encoder_for, tokenizer_named
from tests.helpers.families import save_tiny
from tests.helpers.runs import QUICKSTART
from vicuna_lit.config.choices import LoraConfig
from vicuna_lit.config.compose import load
from vicuna_lit.config.evaluate import FolderSource
from vicuna_lit.estimate.run import estimate_run
from vicuna_lit.evaluate.generate import Model, by_folder
from vicuna_lit.evaluate.questions import Question
from vicuna_lit.inference.backend import open_backends
from vicuna_lit.models import attention, mixers, proof
from vicuna_lit.models.adapters import choose_trained
from vicuna_lit.models.architecture import read_config
from vicuna_lit.models.decoder import decoder_layers
from vicuna_lit.models.experts import experts_of
from vicuna_lit.models.export import export
from vicuna_lit.models.flops import flops_of
from vicuna_lit.models.load_weights import load_weights
from vicuna_lit.models.mixers import token_mixers
from vicuna_lit.models.proof import prove
from vicuna_lit.models.shrink import small_copy
from vicuna_lit.paths import ModelError

TABLE = Path(__file__).parents[2] / "docs" / "families.md"
QUICK = ("llama", "qwen3", "mistral", "gemma3_text", "gpt2", "mixtral", "lfm2", "bloom")
"""Of each sort one; the others are slow tests."""
SLOWEST, ALL = ("bailing_hybrid", "kimi_linear"), "EVERY_FAMILY"
"""Their linear attention is a loop over tokens where no GPU is: together four minutes of CI."""
KINDS = sorted(k for k in FAMILIES if "text_config" not in getattr(CONFIG_MAPPING[k], "sub_configs", ()))
"""All of the installed transformers. Of a model of text and images the text part has a name of its own."""
DROPOUT = re.compile(r".*(dropout|pdrop|jitter).*")


MADE: dict[str, dict[str, Any]] = {
    "deepseek_v2": dict(num_experts_per_tok=6, n_group=1, topk_group=1, first_k_dense_replace=1),
    "dots1": dict(n_routed_experts=8, num_experts_per_tok=2, n_shared_experts=1, first_k_dense_replace=1),
    "gemma4_text": dict(num_kv_shared_layers=12),
    "hunyuan_v1_dense": dict(head_dim=128),
    "hunyuan_v1_moe": dict(head_dim=128, num_experts=8, moe_topk=2),
    "lfm2_moe": dict(layer_types=["conv", "conv", "full_attention", "conv"] * 8),
    "ministral": dict(head_dim=128),
    "nemotron": dict(head_dim=128, num_key_value_heads=8),
}
"""What a config needs, where transformers' default makes no model of the family."""


def config_of(kind: str) -> Any:
    """A family's config as transformers makes it, without dropout."""
    config = CONFIG_MAPPING[kind](**MADE.get(kind, {}))
    for name, value in list(vars(config).items()):
        if DROPOUT.fullmatch(name) and isinstance(value, float):
            setattr(config, name, 0.0)
    return config


def row(kind: str, folder: Path) -> str:
    """What holds of a family: a line of the table."""
    torch.manual_seed(0)
    config = config_of(kind)
    text = config.get_text_config(decoder=True)
    window = any(getattr(text, n, None) for n in ("sliding_window", "attention_window_size", "attention_chunk_size"))
    capped = any(re.search("soft_?cap", name) and value for name, value in vars(text).items())
    try:
        proof._compare(config)
    except ModelError as error:
        return f"| {kind} | | refused: {str(error).partition(' cannot be trained: ')[2] or error} | | | |"
    model = proof._eager(small_copy(config), torch.float32)
    traits = {
        "windows": window,
        "caps": capped,
        "experts": experts_of(config),
        "mixes outside attention": token_mixers(decoder_layers(model)),
    }
    same = "same" if exported_alike(model, folder) else "other"
    has = ", ".join(name for name, found in traits.items() if found)
    counted = "yes" if flops_of(model) else "no"
    with suppress(ModelError):  # a family without a layer to adapt says so
        choose_trained(model, LoraConfig(kind="lora", rank=2, alpha=4, targets="all-linear"))
    adapted = sum("lora_A" in name for name, _ in model.named_parameters())
    return f"| {kind} | {has} | yes | {same} | {'yes' if adapted else 'no'} | {counted} |"


def exported_alike(model: Any, folder: Path) -> bool:
    """Whether what we load from a folder and write anew gives plain transformers the same logits."""
    model.save_pretrained(folder / "before")
    loaded = load_weights(read_config(folder / "before"), str(folder / "before"), "cpu", torch.float32, {})
    export(loaded, encoder_for(tokenizer_named("quickstart"), "vicuna_v1"), folder / "after")
    ids = torch.arange(2, 40)[None]
    logits = []
    for place in ("before", "after"):
        torch.manual_seed(0)
        opened: Any = AutoModelForCausalLM.from_pretrained(folder / place, attn_implementation="eager")
        with torch.no_grad():
            logits.append(opened(input_ids=ids, use_cache=False).logits)
    return torch.allclose(*logits, rtol=1e-6, atol=1e-6)


def marked(kind: str) -> Any:
    """A family as a case: most are slow, two are left to who asks for them."""
    asked = pytest.mark.skipif(ALL not in os.environ, reason=f"takes minutes; {ALL}=1 runs it")
    marks = [pytest.mark.slow] * (kind not in QUICK) + [asked] * (kind in SLOWEST)
    return pytest.param(kind, marks=marks)


@pytest.mark.parametrize("kind", [*map(marked, KINDS)])
@pytest.mark.promise(
    "All 173 families of transformers 5.23: each is trained as the model that it is (hidden states, loss, every "
    "gradient to 1e-8 of one conversation at a time in plain transformers), or refused in one line"
)
def test_a_family_is_right_or_refused(kind: str, tmp_path, request):
    now = row(kind, tmp_path)
    lines = TABLE.read_text().splitlines()
    written = next((line for line in lines if line.startswith(f"| {kind} |")), "")
    if request.config.getoption("--golden"):
        others = [line for line in lines if not line.startswith(f"| {kind} |")]
        rows = sorted([*[line for line in others if line.startswith("| ")][1:], now])
        head = [line for line in others if not re.match(r"\| (?!family)", line)]
        TABLE.write_text("\n".join([*head, *rows]) + "\n")
        return
    cause = re.compile(r"(?<=packed rows )\(.*\)")  # in the words of torch, or of what checks shapes under pytest
    assert cause.sub("", now) == cause.sub("", written)


@pytest.mark.parametrize(
    ("kind", "taken"),
    [
        ("mistral", dict(sliding_window=None)),
        ("gemma3_text", dict(sliding_window=None)),
        ("gemma2", dict(softcap=None)),
        ("gpt_oss", dict(s_aux=None)),
        ("gpt_oss", dict(sliding_window=None)),
        ("gemma3_text", dict(scaling=None)),
    ],
    ids=str,
)
@pytest.mark.promise("A window, cap, sink or scale that is taken away is seen")
def test_the_proof_sees_what_is_taken_from_the_attention(kind: str, taken: dict[str, Any], monkeypatch):
    whole: Any = attention.attend
    name = attention._registered(attention.ANYWHERE)

    def without(*args: Any, **kwargs: Any) -> Any:
        return whole(attention.ANYWHERE, *args, **kwargs | taken)

    config = config_of(kind)
    if "scaling" in taken:
        config.query_pre_attn_scalar = 7
    monkeypatch.setitem(attention.AttentionInterface._global_mapping, name, without)
    with pytest.raises(ModelError, match="another model than alone"):
        proof._compare(config)


def test_the_proof_sees_neighbours_through_a_convolution(monkeypatch):
    config = config_of("lfm2")
    config.layer_types = ["conv", "full_attention"] * (config.num_hidden_layers // 2)
    proof._compare(config)
    monkeypatch.setattr(mixers, "_carries_state", lambda _: False)
    with pytest.raises(ModelError, match=r"see each other|another model than alone"):
        proof._compare(config)


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("stablelm", "full"),
        ("stablelm", "attention"),
        pytest.param("mamba", "full", marks=pytest.mark.slow),
        pytest.param("kimi_linear", "attention", marks=pytest.mark.slow),
    ],
)
def test_what_is_computed_again_is_cut_alike(kind: str, how: str, monkeypatch):
    """The layout reaches layers and attention whose family keeps it from them, in the backward pass too."""
    recomputing = partial(proof.SupervisedLM, gradient_checkpointing=how)
    recomputing.row_loss, recomputing.hidden = proof.SupervisedLM.row_loss, proof.SupervisedLM.hidden  # pyright: ignore
    monkeypatch.setattr(proof, "SupervisedLM", recomputing)
    monkeypatch.setattr(proof, "InFp64", nullcontext)  # torch leaves it in the backward pass
    monkeypatch.setattr(proof, "TOLERANCE", 1e-5)
    proof._compare(config_of(kind))


def test_dropout_is_refused():
    config = CONFIG_MAPPING["gpt2"]()
    with pytest.raises(ModelError, match=r"dropout of 0.1.*set it to 0 in the model's config.json"):
        proof._compare(config)


def test_a_proof_is_made_once_for_a_config(tmp_path, monkeypatch):
    monkeypatch.setenv("VICUNA_LIT_CACHE", str(tmp_path))
    before = torch.get_rng_state()
    first = prove(config_of("qwen3"))
    assert torch.equal(before, torch.get_rng_state()), "it draws no random number of the run"
    with patch.object(proof, "_compare", side_effect=AssertionError):
        assert prove(config_of("qwen3")) == first
        other = config_of("qwen3")
        other.rope_parameters = {**other.rope_parameters, "rope_theta": 5.0}
        with pytest.raises(AssertionError):
            prove(other)
    assert str(first).startswith("packed = alone, to ")


def test_a_home_that_cannot_be_written_costs_the_proof_anew(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VICUNA_LIT_CACHE", str(tmp_path / "file"))
    assert prove(config_of("qwen3")).error < proof.TOLERANCE


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "deepseek_v3", "qwen3_next", "jamba"])
def test_a_small_copy_has_every_kind_of_layer(kind: str):
    config = config_of(kind)
    small = small_copy(config)
    assert config.to_dict() == config_of(kind).to_dict(), "the config itself stays as it is"
    kinds = set(getattr(config, "layer_types", None) or ()) | set(getattr(config, "mlp_layer_types", None) or ())
    assert set(getattr(small, "layer_types", None) or ()) | set(getattr(small, "mlp_layer_types", None) or ()) == kinds
    with torch.device("meta"):
        assert proof._eager(small).num_parameters() < 60e6


def test_other_jobs_say_what_training_would_refuse(tmp_path, capsys):
    gpt2: Any = CONFIG_MAPPING["gpt2"]
    model, fine = tmp_path / "gpt2", tmp_path / "llama"
    AutoModelForCausalLM.from_config(gpt2(n_embd=64, n_layer=2, n_head=4, n_positions=512)).save_pretrained(model)
    AutoTokenizer.from_pretrained(QUICKSTART / "tokenizer").save_pretrained(model)
    save_tiny("llama", fine)
    overrides = ("experiment=quickstart", "model=local", f"model.path={model}", "gpu=a100-80gb", "price=2",
                 "context_length=256")  # fmt: skip
    with pytest.raises(ModelError, match="has a dropout"):
        estimate_run(load("estimate", *overrides, "conversations=50"))
    capsys.readouterr()
    open_backends(load("chat", f"model={{name: a, path: {model}}}", f"against={{name: b, path: {fine}}}"))
    said = capsys.readouterr().err
    assert said.lstrip().startswith(
        "note: a: vicuna-train would refuse this model: GPT2LMHeadModel cannot be trained: GPT2"
    )
    assert said.count("\n") == 1
    question = Question("1", "other", ("Hello",))
    config = load("evaluate", f"models=[{fine},{model}]", "answers.max_new_tokens=2")
    for path in (model, fine):
        asked = Model("x", FolderSource(kind="folder", path=str(path), name="x"), tmp_path / "answers.jsonl")
        by_folder([question], asked, config, lambda _: None)
    said = capsys.readouterr().err
    assert "note: x: vicuna-train would refuse this model" in said and said.count("refuse") == 1
