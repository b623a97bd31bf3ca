"""A model that answers, with exactly the prompt it was trained on."""

import json
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple, overload

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, DynamicCache, GenerationConfig, PreTrainedModel

from vicuna_lit.config.template import TemplateConfig
from vicuna_lit.data.encoder import Encoder
from vicuna_lit.data.jinja_template import TokenizerTemplate
from vicuna_lit.data.model_folder import refuse_adapter, told_as_model_error
from vicuna_lit.data.tokenizer import bind, load_tokenizer, pretrained_kwargs
from vicuna_lit.hub import fetched_path
from vicuna_lit.models.architecture import read_config
from vicuna_lit.models.load_weights import refuse_faults
from vicuna_lit.paths import ModelError, locate_model
from vicuna_lit.records.conversation import Conversation

WRONG_WITH_A_CACHE = ("minimax", "moshi")
"""Families whose `generate` goes on from a cache to other logits than the model itself gives (transformers 5.23)."""


class Chat:
    """A conversation in progress; `say` adds a user's turn and returns the reply."""

    def __init__(self, model: PreTrainedModel, encoder: Encoder, system: str | None = None):
        self.model, self.encoder, self.system = model, encoder, system
        self.conversation = Conversation.of(system=system)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        system: str | None = None,
        template: TemplateConfig | None = None,
        date: str | None = None,
        dtype: torch.dtype | None = None,
    ) -> "Chat":
        """Opens a Hugging Face folder, a `.gguf` file or a name on the Hub; its chat template gives the prompt.

        Args:
            template: for a folder that has none of its own.
            date: for templates that write today's date, `2024-07-26`; None: today's, however long the chat goes on.
            dtype: that it computes in, see `common_dtype`; None: as its weights are kept.

        Raises:
            ModelError, MissingPath: it cannot be opened.
        """
        place = locate_model(fetched_path(folder, "model"))
        tokenizer = load_tokenizer(str(place))
        model = _model_of(place, dtype)
        model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        torch.backends.cuda.enable_cudnn_sdp(False)  # it would build a plan for every new length: for every token
        if tokenizer.chat_template is None and template is not None and template.kind != "tokenizer":
            return cls(model, Encoder(tokenizer, bind(tokenizer, template, date=date)), system)
        stops = getattr(model.generation_config, "stop_strings", None) or ()
        return cls(model, Encoder(tokenizer, TokenizerTemplate(tokenizer, stop_strings=stops, date=date)), system)

    def say(self, text: str, max_new_tokens: int = 128, temperature: float = 0.0) -> str:
        """Adds a user's turn, generates the reply, keeps and returns it.

        Raises:
            ModelError: the conversation fills the model's context; it stays as it was.
        """
        asked = self.conversation.say("user", text)
        answer = reply(self.model, self.encoder, asked, max_new_tokens, temperature)
        self.conversation = asked.say("assistant", answer)
        return answer


def load_noted(
    path: str, name: str, template: TemplateConfig | None, date: str | None, dtype: torch.dtype | None = None
) -> Chat:
    """`Chat.load`, with a note on stderr where `vicuna-train` would refuse this model, or it gets another dtype."""
    from vicuna_lit.models.proof import refusal

    chat = Chat.load(path, template=template, date=date, dtype=dtype)
    if why := refusal(path):
        print(f"note: {name}: {why}", file=sys.stderr)
    if dtype is not None and dtype != _kept_in(locate_model(fetched_path(path, "model"))):
        print(
            f"note: {name} answers in fp32, as the others do: their weights are kept in several dtypes", file=sys.stderr
        )
    return chat


def common_dtype(paths: Sequence[str]) -> torch.dtype | None:
    """What models that are compared compute in: fp32 where their weights are kept in several dtypes; None: in theirs.

    A base is mostly kept in bf16, and what is trained from it in fp32: equal weights would then give other replies.

    Raises:
        ModelError, MissingPath: a folder cannot be read.
    """
    kept = {_kept_in(locate_model(fetched_path(path, "model"))) for path in paths} - {None}
    return torch.float32 if len(kept) > 1 else None


def _kept_in(place: Path) -> torch.dtype | None:
    """The dtype of a folder's weights, in which transformers computes with them; None: they are quantised."""
    if place.suffix == ".gguf":
        return torch.float32
    whole: Any = {}
    with suppress(OSError, ValueError):  # who loads it says what is wrong
        whole = json.loads((place / "config.json").read_bytes())
    said = (
        [one for one in (whole, whole.get("text_config")) if isinstance(one, dict)] if isinstance(whole, dict) else []
    )
    if any(one.get("quantization_config") for one in said):
        return None
    name = next((one[key] for one in said for key in ("dtype", "torch_dtype") if one.get(key)), None)
    found = {str(kind): kind for kind in (torch.float32, torch.bfloat16, torch.float16)}.get(f"torch.{name}")
    if found is None and (files := sorted(place.glob("*.safetensors"))):  # transformers takes that of the first
        with safe_open(files[0], "pt") as weights:
            kinds = (weights.get_tensor(name).dtype for name in weights.keys())  # noqa: SIM118  (it is no dict)
            found = next((kind for kind in kinds if kind.is_floating_point), None)
    return found or torch.float32


def _model_of(place: Path, dtype: torch.dtype | None) -> Any:
    """As its folder says it is, or refused: transformers would give a weight that is missing random numbers."""
    refuse_adapter(place)
    how: dict[str, Any] = {"output_loading_info": True, "ignore_mismatched_sizes": True}  # we tell their names
    if dtype is not None and _kept_in(place) is not None:
        how["dtype"] = dtype
    with told_as_model_error(f"{place}: no model could be loaded"):
        if place.suffix == ".gguf":
            how["config"] = read_config(place)
        loaded: Any = AutoModelForCausalLM.from_pretrained(**pretrained_kwargs(place), **how)
    model, report = loaded
    refuse_faults(place, model, report)
    return model


class Generated(NamedTuple):
    """A reply, and whether it was cut off at the most tokens that were allowed, or that the model's context has room
    for; there may be room for none."""

    text: str
    cut: bool


@overload
def generate(
    model: Chat | str | Path, prompts: str, max_new_tokens: int = 128, temperature: float = 0.0, batch_size: int = 8
) -> str: ...
@overload
def generate(
    model: Chat | str | Path,
    prompts: list[str] | tuple[str, ...],
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    batch_size: int = 8,
) -> list[str]: ...
def generate(
    model: Chat | str | Path,
    prompts: str | list[str] | tuple[str, ...],
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    batch_size: int = 8,
) -> str | list[str]:
    """The model's reply to each prompt, every one a conversation of its own; one text for one prompt.

    Args:
        model: a Hugging Face folder, a `.gguf` file or a name on the Hub, or a `Chat`, whose own conversation stays as
            it is.
        temperature: 0: the most likely token each time.
        batch_size: prompts that are answered at once.

    Raises:
        ModelError, MissingPath: the model cannot be opened; a prompt fills its context.
        TemplateError: the template cannot render a prompt.
    """
    chat = model if isinstance(model, Chat) else Chat.load(model)
    asked = [prompts] if isinstance(prompts, str) else list(prompts)
    talks = [Conversation.of(text, system=chat.system) for text in asked]
    for talk in talks:
        _refuse_without_room(chat.model, chat.encoder, talk)
    answered = [
        one.text
        for start in range(0, len(talks), batch_size)
        for one in replies(chat.model, chat.encoder, talks[start : start + batch_size], max_new_tokens, temperature)
    ]
    return answered[0] if isinstance(prompts, str) else answered


def reply(
    model: PreTrainedModel,
    encoder: Encoder,
    conversation: Conversation,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
) -> str:
    """The model's next turn, up to the template's stop string; greedy at temperature 0.

    Raises:
        ModelError: the conversation fills the model's context.
    """
    return next_turn(model, encoder, conversation, max_new_tokens, temperature).text


def next_turn(
    model: PreTrainedModel,
    encoder: Encoder,
    conversation: Conversation,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
) -> Generated:
    """The same, and whether it was cut off.

    Raises:
        ModelError: the conversation fills the model's context.
    """
    _refuse_without_room(model, encoder, conversation)
    return replies(model, encoder, [conversation], max_new_tokens, temperature)[0]


@torch.no_grad()  # not inference mode: sharded weights gathered in it could not be trained on afterwards
def replies(
    model: PreTrainedModel,
    encoder: Encoder,
    conversations: Sequence[Conversation],
    max_new_tokens: int = 128,
    temperature: float = 0.0,
) -> list[Generated]:
    """The model's next turn in several conversations at once; shorter prompts are padded on the left.

    One by one where a reply has less room than `max_new_tokens`: what it says must not depend on the others.
    """
    tokenizer = encoder.tokenizer
    prompts = [encoder.prompt_ids(conversation) for conversation in conversations]
    longest = max(map(len, prompts))
    most = min(max_new_tokens, room_of(model, longest))
    if most < max_new_tokens and len(conversations) > 1:
        return [replies(model, encoder, [one], max_new_tokens, temperature)[0] for one in conversations]
    if most < 1:
        return [Generated("", cut=True)]
    padded = [[tokenizer.eos_token_id] * (longest - len(ids)) + ids for ids in prompts]
    mask = [[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts]
    with own_sampling_put_aside(model):
        output: torch.Tensor = model.generate(  # pyright: ignore[reportCallIssue]
            torch.tensor(padded, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            **arguments(model, encoder, most, temperature),
        )
    found = []
    for ids in output[:, longest:].tolist():
        text, ended = said(encoder, ids)
        found.append(Generated(text.strip(), not ended and len(ids) >= most))
    return found


def room_of(model: PreTrainedModel, read: int) -> int:
    """Tokens that a model has positions for behind a prompt of so many; where it has no limit, more than any reply."""
    longest = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    return (longest or 1 << 30) - read


def _refuse_without_room(model: PreTrainedModel, encoder: Encoder, conversation: Conversation) -> None:
    if (room := room_of(model, read := len(encoder.prompt_ids(conversation)))) < 1:
        raise ModelError(f"the prompt has {read} tokens, the model reads {read + room}")


_own_sampling: dict[int, tuple[GenerationConfig, int]] = {}
"""What was put aside of the models that answer now, by their `id`, and of how many replies each is in the middle."""
_own_sampling_lock = threading.Lock()


@contextmanager
def own_sampling_put_aside(model: PreTrainedModel) -> Iterator[None]:
    """Within it, a model has none of its folder's `generation_config.json`; behind it, also on errors, its own again.

    A penalty or a top-p in that file would meet the published model, and not the one that was trained from it and is
    compared with it. `generate` takes from it whatever it is not told otherwise. Several threads may be within it.
    """
    with _own_sampling_lock:
        own, others = _own_sampling.get(id(model), (model.generation_config, 0))
        _own_sampling[id(model)] = own, others + 1
        model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        with _own_sampling_lock:
            own, within = _own_sampling.pop(id(model))
            if within > 1:
                _own_sampling[id(model)] = own, within - 1
            else:
                model.generation_config = own


def arguments(model: PreTrainedModel, encoder: Encoder, max_new_tokens: int, temperature: float) -> dict[str, Any]:
    """What `generate` is told of the template's stop string and of the sampling; it samples no id without a token.

    There is no top-k, which transformers would set: see `own_sampling_put_aside`.
    """
    tokenizer, stop = encoder.tokenizer, encoder.template.stop
    nameless = encoder.nameless_ids(model.config.get_text_config(decoder=True).vocab_size)
    return {
        "max_new_tokens": max_new_tokens,
        "use_cache": model.config.get_text_config(decoder=True).model_type not in WRONG_WITH_A_CACHE,
        "eos_token_id": list(_ending_ids(encoder)),
        "pad_token_id": tokenizer.eos_token_id,
        **({"suppress_tokens": nameless} if nameless else {}),
        **({} if _is_token(encoder, stop) else {"stop_strings": [stop], "tokenizer": tokenizer}),
        **({"do_sample": True, "temperature": temperature, "top_k": 0} if temperature > 0 else {"do_sample": False}),
    }


def said(encoder: Encoder, ids: Sequence[int]) -> tuple[str, bool]:
    """The text that generated ids say up to the stop, blanks and all, and whether they have come to it.

    A stop that is a token ends a reply as that token alone: a model may write about `</s>`, in other tokens.
    """
    stop, ending = encoder.template.stop, _ending_ids(encoder)
    end = next((place for place, id in enumerate(ids) if id in ending), len(ids))
    text = encoder.decode(ids[:end])
    if _is_token(encoder, stop):
        return text, end < len(ids)
    return text.split(stop)[0], end < len(ids) or stop in text


def _ending_ids(encoder: Encoder) -> set[int]:
    """The end of the text, and the template's stops where they are tokens."""
    stops = (encoder.template.stop, encoder.template.call_stop)
    ids = [encoder.tokenizer.convert_tokens_to_ids(stop) for stop in stops if stop and _is_token(encoder, stop)]
    return {encoder.tokenizer.eos_token_id, *ids}


def _is_token(encoder: Encoder, stop: str) -> bool:
    """Whether a stop is a token that no text becomes by chance, as words like `###` do."""
    return stop == encoder.tokenizer.eos_token or stop in encoder.tokenizer.get_added_vocab()


def keeps_keys_alone(model: Any) -> bool:
    """Whether what a model keeps of tokens that it has read are keys and values, which more tokens can follow.

    A convolution or a state space keeps a state. Not every family goes on from it with several tokens at once: Jamba
    starts from nothing, and says so nowhere; and none can go back to an earlier token.
    """
    own = model._is_stateful or not model._supports_default_dynamic_cache()  # what transformers says of a family
    if own or "past_key_values" not in signature(model.forward).parameters:
        return False
    return not any(hasattr(layer, "conv_states") for layer in DynamicCache(config=model.config).layers)


@torch.no_grad()
def likelihoods(
    model: PreTrainedModel, encoder: Encoder, conversation: Conversation, begin: str, choices: Sequence[str]
) -> list[float]:
    """The log-probability of each of some texts as what follows a reply's begin.

    The prompt is read once, where the model `keeps_keys_alone`.

    Raises:
        ModelError: the prompt is longer than the model's context.
    """
    tokenizer = encoder.tokenizer

    def ids_of(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    head = ids_of(begin)
    tails = [ids_of(begin + choice) for choice in choices]
    shared = next(i for i in range(len(head), -1, -1) if all(tail[:i] == head[:i] for tail in tails))
    prompt = [*encoder.prompt_ids(conversation), *head[:shared]]
    tails = [tail[shared:] for tail in tails]
    longest = max(map(len, tails))
    if (room := room_of(model, len(prompt))) < longest:
        raise ModelError(f"the prompt has {len(prompt)} tokens, the model reads {room + len(prompt)}")
    padded = torch.tensor([tail + [tokenizer.eos_token_id] * (longest - len(tail)) for tail in tails])
    if keeps_keys_alone(model):
        read = model(torch.tensor([prompt], device=model.device), use_cache=True, logits_to_keep=1)
        read.past_key_values.batch_repeat_interleave(len(tails))
        after = model(padded.to(model.device), past_key_values=read.past_key_values).logits
        logits = torch.cat([read.logits[:, -1:].expand(len(tails), -1, -1), after[:, :-1]], 1)
    else:
        whole = torch.cat([torch.tensor([prompt] * len(tails)), padded], 1)
        logits = model(whole.to(model.device), use_cache=False).logits[:, len(prompt) - 1 : -1]
    picked = logits.float().log_softmax(-1).cpu().gather(-1, padded[..., None])[..., 0]
    return [float(row[: len(tail)].sum()) for row, tail in zip(picked, tails, strict=True)]
