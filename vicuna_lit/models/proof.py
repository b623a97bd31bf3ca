"""Whether a model, run in our way, is the model that its folder says: proven on a small copy before it trains.

Transformers runs the copy one conversation at a time with its own eager attention; we run all of them packed into one
row. Hidden states, loss and gradients must agree, and a conversation must not notice what its neighbour says.
"""

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.overrides import TorchFunctionMode
from transformers import AutoModelForCausalLM, PreTrainedModel

from vicuna_lit.data.batch import Batch
from vicuna_lit.file_hashes import cache_folder
from vicuna_lit.models import attention
from vicuna_lit.models.architecture import read_config
from vicuna_lit.models.causal_lm import SupervisedLM
from vicuna_lit.models.decoder import decoder_of
from vicuna_lit.models.shrink import small_copy
from vicuna_lit.paths import ModelError, locate_model
from vicuna_lit.whole_files import write_json

LENGTHS = (21, 1, 30, 11)
"""Tokens of the conversations; some are longer than a small copy's window."""
TOLERANCE = 1e-8
"""Relative error that fp64 may leave between two orders of summation. Most families leave 1e-14, Gemma 4 1e-10."""
MOST = 100e6
"""Weights of a small copy that still take a second."""


@dataclass(frozen=True)
class Proof:
    """What was found: the largest relative error between packed and alone."""

    error: float

    def __str__(self) -> str:
        return f"packed = alone, to {self.error:.0e}"


@dataclass
class Run:
    """What a model computed of the conversations, each by itself or all in one row."""

    hidden: list[Tensor]
    """Float [L, D] of each."""
    loss: float
    gradients: dict[str, Tensor]


class InFp64(TorchFunctionMode):
    """Inside the block what asks for fp32 is computed in fp64: norms, softmax and state spaces do.

    What fp32 rounds is as large as a small fault: a state space's gradients differ by 1e-5 for the same mathematics.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The call with the wider dtype."""
        if func is Tensor.float:
            return args[0].double()
        wide = [torch.float64 if value is torch.float32 else value for value in args]
        named = {name: torch.float64 if value is torch.float32 else value for name, value in (kwargs or {}).items()}
        return func(*wide, **named)


def prove(config: Any) -> Proof:
    """Compares packed with alone, on a small copy of this config's model; a second or two, once for each config.

    Raises:
        ModelError: they differ, or no small copy can be made; the message says what differs.
    """
    kept = _kept(config)
    if kept.exists():
        return Proof(**json.loads(kept.read_bytes()))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        proof = _compare(config)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_json(kept, {"error": proof.error})
    except OSError:
        pass  # a home that cannot be written: it is proven again next time
    return proof


def refusal(path: str | Path) -> str | None:
    """For jobs that run a model and do not train it: what a train job would say instead of training it, in one line.

    Args:
        path: the model's folder or `.gguf` file.
    """
    try:
        prove(read_config(locate_model(str(path))))
    except ModelError as error:
        return f"vicuna-train would refuse this model: {' '.join(str(error).split())}"
    return None


def _kept(config: Any) -> Path:
    """Where the proof of this config lies, by all that it depends on."""
    code = b"".join(p.read_bytes() for p in sorted(Path(__file__).parent.glob("*.py")))
    versions = [torch.__version__, transformers.__version__, hashlib.sha256(code).hexdigest()]
    text = json.dumps([config.to_dict() | {"_name_or_path": None}, versions], sort_keys=True, default=str)
    return cache_folder() / "proofs" / (hashlib.sha256(text.encode()).hexdigest()[:32] + ".json")


def _compare(config: Any) -> Proof:
    model = _small_model(config)
    name = type(model).__name__
    ids = torch.randint(2, model.get_input_embeddings().num_embeddings, (1, sum(LENGTHS)))  # pyright: ignore
    labels = torch.where(torch.rand(ids.shape) < 0.7, ids, -100)
    try:
        with InFp64():
            alone = _alone(model, ids, labels)
            lm = SupervisedLM(model)
            packed = _packed(lm, ids, labels)
            _isolated(lm, ids, labels)
    except ModelError as error:
        raise ModelError(f"{name} cannot be trained: {error}") from error
    except Exception as error:  # a family may fail in any way
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"
        raise ModelError(f"{name} cannot be trained: a small copy of it does not run in packed rows ({why})") from error
    errors = {
        "last hidden state": max(
            (_error(a, b) for a, b in zip(packed.hidden, alone.hidden, strict=False)), default=0.0
        ),
        "loss": abs(packed.loss - alone.loss) / max(abs(alone.loss), 1e-6),
        **_gradient_errors(packed.gradients, alone.gradients),
    }
    worst = max(errors, key=lambda part: math.inf if math.isnan(errors[part]) else errors[part])
    if not errors[worst] <= TOLERANCE:
        found = "is in one alone" if math.isinf(errors[worst]) else f"differs by {errors[worst]:.0e}"
        raise ModelError(
            f"{name} cannot be trained: in a packed row it is another model than alone (a small copy's {worst} {found})"
        )
    return Proof(max(errors.values()))


def _small_model(config: Any) -> PreTrainedModel:
    small = None
    try:
        small = small_copy(config)
        with torch.device("meta"):
            weights = sum(p.numel() for p in _eager(small).parameters())
        if weights > MOST:
            raise ModelError(f"it has {weights:,} weights")
        model = _eager(small).double()  # some routers and buffers ask for fp32 by name
    except Exception as error:
        kind = getattr(config, "model_type", type(config).__name__)
        why = " ".join(str(error).split())[:200]
        raise ModelError(f"{kind} cannot be trained: no small copy of it can be made to prove it ({why})") from error
    with torch.no_grad():
        for p in model.parameters():  # larger weights, and biases that are not 0: so that each part matters
            p.add_(torch.randn_like(p) * 0.2) if p.dim() < 2 else p.mul_(2)
        for name, buffer in model.named_buffers():
            if name in model.state_dict() and buffer.is_floating_point():
                buffer.copy_(torch.randn_like(buffer))
    model.config.use_cache = False
    return model.train()


def _eager(config: Any, dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    """As transformers computes it in plain torch; fp64, so that what is left is a difference and no rounding."""
    config._experts_implementation = "eager"
    return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="eager")


def _alone(model: PreTrainedModel, ids: Tensor, labels: Tensor) -> Run:
    """As transformers runs it, one conversation at a time."""
    hidden: list[Tensor] = []
    keep = decoder_of(model).register_forward_hook(lambda _m, _i, out: hidden.append(out[0][0].detach()))
    total = 0.0
    for one, wanted in zip(ids.split(LENGTHS, 1), labels.split(LENGTHS, 1), strict=True):
        logits = model(input_ids=one, use_cache=False).logits
        loss = cross_entropy(logits[0, :-1].float(), wanted[0, 1:], reduction="sum")
        loss.backward()
        total += float(loss.detach())
    keep.remove()
    return Run(hidden, total, _take_gradients(model))


def _packed(lm: SupervisedLM, ids: Tensor, labels: Tensor) -> Run:
    """As we run it: all conversations in one row."""
    attention.use(lm.model, attention.ANYWHERE)
    batch = _row(ids, labels)
    hidden: list[Tensor] = []
    keep = decoder_of(lm.model).register_forward_hook(
        lambda _m, _i, out: hidden.extend(out[0][0].detach().split(LENGTHS))
    )
    loss = lm(SupervisedLM.row_loss, batch)
    keep.remove()
    loss.backward()
    return Run(hidden, float(loss.detach()), _take_gradients(lm.model))


def _row(ids: Tensor, labels: Tensor) -> Batch:
    positions = torch.cat([torch.arange(n) for n in LENGTHS])[None]
    starts = torch.tensor([0, *LENGTHS]).cumsum(0)[:-1]
    labels = labels.clone()
    labels[0, starts] = -100  # nothing predicts a conversation's first token
    return Batch(ids, labels, positions, LENGTHS, 1)


def _isolated(lm: SupervisedLM, ids: Tensor, labels: Tensor) -> None:
    """The other conversations keep their bits when the third says something else.

    Raises:
        ModelError: they do not.
    """
    others = ids.clone()
    a, b = sum(LENGTHS[:2]), sum(LENGTHS[:3])
    others[0, a:b] = others[0, a:b].flip(0)
    with torch.no_grad():
        before, after = (lm(SupervisedLM.hidden, _row(x, labels))[0].split(LENGTHS) for x in (ids, others))
    # Experts take the tokens of all conversations in one product, whose size the router decides: with another size
    # comes another rounding. What a leak would do is larger.
    allowed = TOLERANCE if _has_experts(lm.model) else 0.0
    if any(_error(after[i], before[i]) > allowed for i in (0, 1, 3)):
        raise ModelError("conversations that are packed in one row see each other")


def _has_experts(model: PreTrainedModel) -> bool:
    return any("expert" in name for name, _ in model.named_parameters())


def _take_gradients(model: PreTrainedModel) -> dict[str, Tensor]:
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def _error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm().clamp_min(1e-12))


def _gradient_errors(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, float]:
    """By weight; what is small beside the whole gradient is measured by a thousandth of that."""
    if ours.keys() != theirs.keys():
        return {f"gradient of {name}": float("inf") for name in sorted(ours.keys() ^ theirs.keys())}
    whole = torch.stack([g.norm() for g in theirs.values()]).norm()
    return {
        f"gradient of {name}": float((ours[name] - g).norm() / torch.maximum(g.norm(), 1e-3 * whole))
        for name, g in theirs.items()
    }
