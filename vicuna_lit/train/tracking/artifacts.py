"""What a run was made from and what it made, as W&B artifacts: data set → run → model.

The data set is the run's input. Offline `use_artifact` refuses, but the record that it would write can be written
(`use_after_commit`), by a private method; `wandb sync` then has what it would have had online. The lineage also
stands in the config (`data_sha256.…`) and in the model's metadata. A run never fails for an artifact.
"""

import json
import re
from pathlib import Path
from typing import Any

from vicuna_lit.config.train import TrainConfig
from vicuna_lit.data.datamodule import ConversationDataModule
from vicuna_lit.models.export import export_dtype
from vicuna_lit.paths import locate, locate_model, model_name
from vicuna_lit.tracking.about import git_commit
from vicuna_lit.tracking.session import Session
from vicuna_lit.train.result import Result


def log_data(session: Session | None, data: ConversationDataModule, fingerprint: str) -> None:
    """The data as the run's input: the manifest and the card that `vicuna-prepare` wrote, or the files by reference.

    Args:
        fingerprint: of the tokens, the masks and their order in this run.
    """
    if session is None:
        return

    def log(run: Any) -> None:
        if data.source.prepared is not None:
            texts = session.samples == "text"
            artifact = _prepared(data.source.prepared, data.source.file_hashes, texts)
        else:
            artifact = _files(data, fingerprint)
        if session.online:
            run.use_artifact(artifact)
        else:
            run._log_artifact(artifact, is_user_created=True, use_after_commit=True)

    session.do("the data set as an artifact", log)


def log_model(
    session: Session, config: TrainConfig, data: ConversationDataModule, fingerprint: str, result: Result
) -> None:
    """The `hf` folder as `model-<id of the run>`, as `wandb.log_model` says."""
    if config.wandb.log_model == "none":
        return
    base = config.model.path and model_name(locate_model(config.model.path))

    def log(run: Any) -> None:
        import wandb

        metadata = {
            "run_id": run.id,
            "run_name": config.run.name,
            "base_model": base,
            "parameters": result.model_bytes // export_dtype(config).itemsize,
            "val_loss": result.val_loss,
            "data_sha256": data.source.file_hashes,
            "data_fingerprint": fingerprint,
            "git_commit": git_commit(),
        }
        artifact = wandb.Artifact(f"model-{run.id}", "model", metadata=metadata)
        folder = (Path(result.run_dir) / "hf").absolute()
        if config.wandb.log_model == "upload":
            for file in sorted(folder.iterdir()):  # immutable: not copied first
                artifact.add_file(str(file), policy="immutable")
        else:
            for file in sorted(folder.iterdir()):  # of a whole folder W&B prints a line about its checksums
                artifact.add_reference(file.as_uri(), name=file.name)
        run.log_artifact(artifact)

    session.do("the model as an artifact", log)


def _prepared(folder: Path, hashes: dict[str, str], texts: bool) -> Any:
    import wandb

    manifest = json.loads((folder / "manifest.json").read_bytes())
    counts = {key: manifest[key] for key in ("records_in", "records_kept", "records_rejected", "rejected_by_reason")}
    artifact = wandb.Artifact(_name(folder), "dataset", metadata=counts | {"sha256": hashes})
    for file in ("manifest.json", *["card.html"] * texts):  # the card shows conversations
        artifact.add_file(str(folder / file))
    return artifact


def _files(data: ConversationDataModule, fingerprint: str) -> Any:
    import wandb

    sizes = {name: file.stat().st_size for name, file in data.source.files.items()}
    metadata = {"bytes": sizes, "sha256": data.source.file_hashes, "fingerprint": fingerprint}
    artifact = wandb.Artifact(_name(*map(locate, data.config.data.paths)), "dataset", metadata=metadata)
    for name, file in data.source.files.items():
        artifact.add_reference(file.absolute().as_uri(), name=name)
    return artifact


def _name(*places: Path) -> str:
    names = [model_name(p) if p.parent.name == "snapshots" else p.absolute().name for p in places]
    stems = [name if place.is_dir() else place.stem for name, place in zip(names, places, strict=True)]
    return re.sub(r"[^\w.-]", "_", "-".join(["data", *stems]))[:120]
