"""`push=<organisation/name>`: the finished model on the Hub, with a card that is written from the run's own files."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from vicuna_lit import __version__
from vicuna_lit.config.compose import ConfigError
from vicuna_lit.config.train import Recipe, TrainConfig
from vicuna_lit.errors import say
from vicuna_lit.hub import HubName, hub_name
from vicuna_lit.paths import HUB, locate
from vicuna_lit.run_folder import read_json
from vicuna_lit.whole_files import write

CARD = "README.md"


def check_push(config: TrainConfig) -> None:
    """
    Raises:
        ConfigError: nothing could be pushed; said before anything is trained.
    """
    if config.push is None:
        return
    from huggingface_hub import constants, get_token

    problem = None
    if (name := hub_name(f"{HUB}{config.push}", "model")) is None or name.revision or name.inner:
        problem = f"push={config.push}: is no name on the Hub, organisation/name"
    elif config.run.swept and "push" not in config.run.swept:
        problem = "push: the jobs of a sweep would overwrite one another; push the best one by its own command"
    elif constants.HF_HUB_OFFLINE:
        problem = "push: HF_HUB_OFFLINE=1 is set; unset it, or train with push=null and push later"
    elif get_token() is None:
        problem = "push: nobody is logged in; `hf auth login`, or HF_TOKEN"
    if problem:
        raise ConfigError([problem])


def push_result(config: TrainConfig) -> int:
    """Uploads the run's `hf/`, where the config asks for it; under torchrun the first rank does.

    Returns:
        0, or 1 where it failed: the run is whole all the same, and the command that is printed tries again.
    """
    if config.push is None or os.environ.get("RANK", "0") != "0":
        return 0
    import huggingface_hub
    from huggingface_hub.utils import disable_progress_bars

    huggingface_hub.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        disable_progress_bars()
    folder = Path(config.run.dir) / "hf"
    try:
        write(folder / CARD, [model_card(config).encode()])
        api = huggingface_hub.HfApi(library_name="vicuna_lit", library_version=__version__)
        api.create_repo(config.push, private=config.push_private, exist_ok=True)
        api.upload_folder(
            repo_id=config.push, folder_path=folder, commit_message=f"{config.run.name}, vicuna_lit {__version__}"
        )
    except Exception as error:  # huggingface_hub raises many kinds, and those of its client; the run is worth more
        answered = getattr(getattr(error, "response", None), "status_code", None)
        why = f"the Hub answered {answered}" if answered else getattr(error, "strerror", None) or type(error).__name__
        private = " --private" if config.push_private else ""
        again = f"hf upload {config.push} '{folder}'{private}"
        say(f"{config.push}: not pushed, {why}; the run is whole. Again: {again}")
        return 1
    print(f"  {huggingface_hub.constants.ENDPOINT}/{config.push}  the model{', private' * config.push_private}")
    return 0


def model_card(config: TrainConfig) -> str:
    """The run's `README.md`: YAML for the Hub, then recipe, data account and results for people."""
    from huggingface_hub import ModelCardData

    folder = Path(config.run.dir)
    saved, result = read_json(folder, "config.json") or {}, read_json(folder, "result.json") or {}
    base = hub_name(config.model.path or "", "model")
    data = {path: hub_name(path, "dataset") for path in config.data.paths}
    licenses = {name.repo: _license(name) for name in data.values() if name}
    license = _license(base) if base else _license_beside(config.model.path)
    about = ModelCardData(
        base_model=base.repo if base else None,
        license=license,
        datasets=[*licenses] or None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["vicuna_lit", "conversational"],
    )
    recipe = {key: saved[key] for key in Recipe.model_fields if key in saved}
    environment = Environment(
        loader=PackageLoader("vicuna_lit.cli", ""), undefined=StrictUndefined, keep_trailing_newline=True
    )
    text = environment.get_template("model_card.md.jinja").render(
        name=(config.push or config.run.name).rpartition("/")[2],
        repo=config.push,
        version=__version__,
        base=base.repo if base else _last(config.model.path),
        base_url=f"https://huggingface.co/{base.repo}/tree/{base.revision}" if base else None,
        train_on=config.loss_on,
        result=result,
        data=", ".join(str(name) if name else str(_last(path)) for path, name in data.items()),
        data_license=_licenses_of(data, licenses),
        license=license,
        recipe=yaml.safe_dump(_public(recipe), sort_keys=False, allow_unicode=True),
        number=lambda value: "none held out" if value is None else f"{value:.4f}",
        reasons=_reasons,
    )
    return f"---\n{about.to_yaml()}\n---\n{text}"


def _licenses_of(data: dict[str, HubName | None], licenses: dict[str, str | None]) -> str | None:
    """The licence of the data; of several sources each one's. None: not one is known."""
    if len(data) == 1 or not any(licenses.values()):
        return next(iter(licenses.values()), None)
    return ", ".join(f"{repo}: {known or 'not known'}" for repo, known in licenses.items())


def _reasons(account: dict[str, Any]) -> str:
    why = ", ".join(f"{count} {reason}" for reason, count in account["rejected_by_reason"].items())
    return f"{account['records_rejected']}{f' ({why})' if why else ''}"


def _public(recipe: dict[str, Any]) -> dict[str, Any]:
    """Without the folders of this machine: their last names alone."""

    def last(key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {k: last(k, v) for k, v in value.items()}
        if isinstance(value, list):
            return [last(key, item) for item in value]
        return _last(value) if key in ("path", "validation_path", "tokenizer") and isinstance(value, str) else value

    return {key: last(key, value) for key, value in recipe.items()}


def _last(path: str | None) -> str | None:
    return path if path is None or "://" in path else Path(path).name


def _license(name: HubName) -> str | None:
    """As its card on the Hub says; None where that cannot be had: a card is no reason to fail."""
    from huggingface_hub import HfApi

    try:
        about = HfApi().repo_info(name.repo, repo_type=name.kind, revision=name.revision)
        return json.loads(json.dumps(getattr(getattr(about, "card_data", None), "license", None)))
    except Exception:  # huggingface_hub raises many kinds
        return None


def _license_beside(path: str | None) -> str | None:
    """As the `README.md` in a model's folder says."""
    from huggingface_hub import metadata_load

    try:
        found = (metadata_load(locate(path or "") / CARD) or {}).get("license")
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return found if isinstance(found, str) else None
