"""The runs whose memory is predicted and measured: a LLaMA of 52M weights or more on real conversations."""

import os

ARCHITECTURE = {
    "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 6, "num_attention_heads": 8,
    "num_key_value_heads": 8, "max_position_embeddings": 8192, "vocab_size": 32000, "tie_word_embeddings": False,
}  # fmt: skip
REAL = ["data=sharegpt", "data.max_conversations=40", "data.max_validation=1", "data.validation_fraction=0.05"]
SMALL = ["data=quickstart", "data.max_validation=1"]
"""Where `FAST` is set: conversations that need no package."""
COMMON = [
    "model=tiny", *(f"++model.architecture.{key}={value}" for key, value in ARCHITECTURE.items()),
    "context_length=2048", "tokens_per_device=4096", "conversations_per_step=8", "trainer.max_steps=2",
    "trainer.accelerator=cpu", "samples.questions=[]", "checkpoint.every_minutes=null", "wandb.mode=disabled",
]  # fmt: skip


def common() -> list[str]:
    """What all runs share."""
    return [*COMMON, *(SMALL if os.environ.get("FAST") else REAL)]


FULL = "gradient_checkpointing=full"
LARGE = "++model.architecture.vocab_size=128256"
LONG = ["context_length=8192", "tokens_per_device=8192"]
TWO = "trainer.devices=2"

RUNS: dict[str, list[str]] = {
    "single": [],
    "single, checkpointing": [FULL],
    "single, every 2nd layer": ["gradient_checkpointing=every_2"],
    "single, attention alone": ["gradient_checkpointing=attention"],
    "single, context 512": ["context_length=512", "tokens_per_device=512"],
    "single, context 8192": [*LONG, "conversations_per_step=2"],
    "single, context 8192, checkpointing": [*LONG, "conversations_per_step=2", FULL],
    "single, vocabulary 128K": [LARGE],
    "single, vocabulary 64K, full logits": ["++model.architecture.vocab_size=64000", "lm_head=plain"],
    "single, LoRA": ["finetune=lora"],
    "single, bf16-mixed": ["precision=bf16-mixed"],
    "single, bf16-true": ["precision=bf16-true"],
    "single, bf16-true, no masters": ["precision=bf16-true", "master_weights=false"],
    "ddp": ["strategy=ddp", TWO],
    "ddp, checkpointing, 128K": ["strategy=ddp", TWO, FULL, LARGE],
    "ddp, LoRA, bf16-mixed": ["strategy=ddp", TWO, "finetune=lora", "precision=bf16-mixed"],
    "fsdp": ["strategy=fsdp", TWO],
    "fsdp, checkpointing, 128K": ["strategy=fsdp", TWO, FULL, LARGE],
    "fsdp, context 8192, checkpointing, bf16-mixed": [
        "strategy=fsdp", TWO, "precision=bf16-mixed", *LONG, "conversations_per_step=4", FULL,
    ],
    "fsdp, LoRA, checkpointing": ["strategy=fsdp", TWO, "finetune=lora", FULL],
    "fsdp, bf16-true": ["strategy=fsdp", TWO, "precision=bf16-true"],
    "fsdp_offload": ["strategy=fsdp_offload", TWO],
    "zero1": ["strategy=zero1", TWO],
    "zero1, checkpointing, 128K": ["strategy=zero1", TWO, FULL, LARGE],
    "zero2": ["strategy=zero2", TWO],
    "zero2, checkpointing, 128K": ["strategy=zero2", TWO, FULL, LARGE],
    "zero2, LoRA": ["strategy=zero2", TWO, "finetune=lora"],
    "zero2, bf16-true": ["strategy=zero2", TWO, "precision=bf16-true"],
    "zero3": ["strategy=zero3", TWO],
    "zero3, checkpointing, 128K": ["strategy=zero3", TWO, FULL, LARGE],
    "zero3, bf16-true": ["strategy=zero3", TWO, "precision=bf16-true"],
    "zero3_offload": ["strategy=zero3_offload", TWO],
}  # fmt: skip
