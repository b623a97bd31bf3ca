"""What can be refused before torch is imported: a path that leads nowhere, no model, no login, no package."""

from vicuna_lit.config.choices import FinetuneConfig, LoraConfig
from vicuna_lit.config.train import TrainConfig
from vicuna_lit.data.model_folder import refuse_adapter, refuse_no_tokenizer
from vicuna_lit.data.source import Sources
from vicuna_lit.paths import ModelError, locate_model, need_package
from vicuna_lit.records.conversation import DataError
from vicuna_lit.tracking.server import check_wandb


def refuse_early(config: TrainConfig) -> None:
    """
    Raises:
        DataError, MissingPath, ModelError, RunError: bad input.
    """
    for name, part in Sources(config).parts.items():
        if not any(file.stat().st_size for file in part.files.values()):
            said = f"data.sources {name}: " if name else ""
            raise DataError(f"{said}{part.path}: holds nothing, not one byte; name a file with conversations")
    if config.model.path is not None:
        place = locate_model(config.model.path)
        refuse_adapter(place)
        if place.is_dir() and not (place / "config.json").is_file():
            raise ModelError(f"{place}: no model is in this folder (config.json); model.path=<a Hugging Face folder>")
    if config.tokenizer_path:
        refuse_no_tokenizer(locate_model(config.tokenizer_path), "; model.tokenizer=<its folder>")
    need_adapters(config.finetune)
    if not config.dry_run and config.finetune.kind == "qlora":
        need_package("bitsandbytes", "finetune=qlora", extra="qlora")
    if not config.dry_run and config.optimizer.kind == "adamw_8bit":
        need_package("bitsandbytes", "optimizer.kind=adamw_8bit", extra="qlora")
    if not config.dry_run:
        check_wandb(config.wandb)


def need_adapters(finetune: FinetuneConfig) -> None:
    """
    Raises:
        ModelError: adapters need a package that is not installed; said here, since torch takes seconds to import.
    """
    if isinstance(finetune, LoraConfig):
        need_package("peft", f"finetune={finetune.kind}", extra=finetune.kind)
