"""Small tokenizers of the kinds that matter, trained here on a few lines."""

from functools import cache

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = [
    "A chat between a curious user and an artificial intelligence assistant.",
    "USER: Who are you? ASSISTANT: I am a model, and this is my   answer.",
    "```python\n    def f(x):\n        return x\n```",
    "### Human: What is 2 + 2? ### Assistant: 2 + 2 = 4. [INST] [/INST] <<SYS>> <</SYS>>",
    "Привет, как дела? 你好，世界。こんにちは 🙂🚀",
]
SPECIAL = [AddedToken("<s>", special=True), AddedToken("</s>", special=True)]


def _wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


@cache
def _byte_level() -> str:
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    t.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    t.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(vocab_size=600, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    return t.to_str()


def byte_level() -> PreTrainedTokenizerFast:
    """Like GPT-2, Llama 3, SmolLM2."""
    return _wrap(Tokenizer.from_str(_byte_level()))


LLAMA3 = (  # the pattern of meta-llama/llama3, tokenizer.py
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@cache
def _llama3_like() -> str:
    t = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(LLAMA3), behavior="isolated")
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    t.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_only])  # pyright: ignore[reportAttributeAccessIssue]
    t.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    t.train_from_iterator(
        [*TEXTS, "\n\n\n", "a\n\nb\n\n"],
        trainers.BpeTrainer(vocab_size=600, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    return t.to_str()


def llama3_like() -> PreTrainedTokenizerFast:
    """Byte-level with Llama 3's pattern, which keeps a run of newlines together."""
    return _wrap(Tokenizer.from_str(_llama3_like()))


@cache
def _sentencepiece_like() -> str:
    t = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])  # pyright: ignore[reportAttributeAccessIssue]
    t.decoder = decoders.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    pieces = [AddedToken("<unk>", special=True), *SPECIAL, *(f"<0x{b:02X}>" for b in range(256))]
    t.train_from_iterator(
        [w for text in TEXTS for w in text.split()],
        trainers.BpeTrainer(vocab_size=700, special_tokens=pieces, show_progress=False),
    )
    return t.to_str()


def sentencepiece_like() -> PreTrainedTokenizerFast:
    """Like LLaMA's and Mistral's: "▁" for blanks, bytes for unknown characters."""
    import json

    config = json.loads(_sentencepiece_like())
    config["added_tokens"] = [t for t in config["added_tokens"] if not t["content"].startswith("<0x")]
    return _wrap(Tokenizer.from_str(json.dumps(config)))


@cache
def _whitespace_dropping() -> str:
    t = Tokenizer(models.WordLevel(unk_token="<unk>"))
    t.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    t.train_from_iterator(
        TEXTS,
        trainers.WordLevelTrainer(special_tokens=[AddedToken("<unk>", special=True), *SPECIAL], show_progress=False),
    )
    return t.to_str()


def whitespace_dropping() -> PreTrainedTokenizerFast:
    """Drops every blank and newline, and knows few words."""
    return _wrap(Tokenizer.from_str(_whitespace_dropping()))
