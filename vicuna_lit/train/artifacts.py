"""What a run was made from and what it made, as W&B artifacts: data set → run → model.

The data set is the run's input. Offline `use_artifact` refuses, but the record that it would write can be written
(`use_after_commit`), by a private method; `wandb sync` then has what it would have had online. The lineage also
stands in the config (`data_sha256.…`) and in the model's metadata. A run never fails for an artifact.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import wandb

from vicuna_lit.data.datamodule import ConversationData
from vicuna_lit.paths import locate, model_name
from vicuna_lit.train.config import TrainConfig
from vicuna_lit.train.export import export_dtype
from vicuna_lit.train.folder import Result
from vicuna_lit.train.history import git_commit
from vicuna_lit.train.terminal import console


def log_data(run: Any, data: ConversationData, fingerprint: str) -> None:
    """The data as the run's input: the manifest and the card that `vicuna-prepare` wrote, or the files by reference.

    Args:
        fingerprint: of the tokens, the masks and their order in this run.
    """
    if run.settings.mode == "disabled":
        return
    with _kept_going("the data set"):
        if data.source.prepared is not None:
            artifact = _prepared(data.source.prepared, data.source.file_hashes)
        else:
            artifact = _files(data, fingerprint)
        if run.settings.mode == "offline":
            run._log_artifact(artifact, is_user_created=True, use_after_commit=True)
        else:
            run.use_artifact(artifact)


def log_model(run: Any, config: TrainConfig, data: ConversationData, fingerprint: str, result: Result) -> None:
    """The `hf` folder as `model-<id of the run>`, as `wandb.log_model` says."""
    if config.wandb.log_model == "none" or run.settings.mode == "disabled":
        return
    with _kept_going("the model"):
        base = config.model.path and model_name(locate(config.model.path))
        metadata = {
            "run_id": run.id,
            "run_name": config.run.name,
            "base_model": base,
            "parameters": result.model_bytes // export_dtype(config).itemsize,
            "heldout_loss": result.heldout_loss,
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
            artifact.add_reference(folder.as_uri())
        run.log_artifact(artifact)


def _prepared(folder: Path, hashes: dict[str, str]) -> Any:
    manifest = json.loads((folder / "manifest.json").read_text())
    counts = {key: manifest[key] for key in ("records_in", "records_kept", "records_rejected", "rejected_by_reason")}
    artifact = wandb.Artifact(_name(folder), "dataset", metadata=counts | {"sha256": hashes})
    for file in ("manifest.json", "card.html"):
        artifact.add_file(str(folder / file))
    return artifact


def _files(data: ConversationData, fingerprint: str) -> Any:
    sizes = {name: file.stat().st_size for name, file in data.source.files.items()}
    metadata = {"bytes": sizes, "sha256": data.source.file_hashes, "fingerprint": fingerprint}
    artifact = wandb.Artifact(_name(locate(data.config.data.path)), "dataset", metadata=metadata)
    for name, file in data.source.files.items():
        artifact.add_reference(file.absolute().as_uri(), name=name)
    return artifact


def _name(place: Path) -> str:
    place = place.resolve()
    return re.sub(r"[^\w.-]", "_", f"data-{place.name if place.is_dir() else place.stem}")[:120]


@contextmanager
def _kept_going(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever W&B, the network or the disk say, the run is worth more
        console.print(f"[yellow]W&B did not take {what} as an artifact:[/] {error}", highlight=False)
