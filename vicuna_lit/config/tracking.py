"""What a run in Weights & Biases is called and what is sent there; train and evaluate share it.

Where the YAML says null, W&B's own variables count (`WANDB_PROJECT`, …): as they are when the config is checked, so
what counted stands in the run's `config.json`, and a wrong one is bad input like any other.
"""

import os
from typing import Any, ClassVar, Literal

from pydantic import ValidationInfo, field_validator

from vicuna_lit.config.base import Config
from vicuna_lit.config.path_types import FilePath

VARIABLES = {
    "mode": "WANDB_MODE",
    "project": "WANDB_PROJECT",
    "entity": "WANDB_ENTITY",
    "name": "WANDB_NAME",
    "group": "WANDB_RUN_GROUP",
    "job_type": "WANDB_JOB_TYPE",
    "tags": "WANDB_TAGS",
    "notes": "WANDB_NOTES",
    "console": "WANDB_CONSOLE",
    "dir": "WANDB_DIR",
}
"""Key → W&B's variable that counts where the key is null."""
MODES = {"dryrun": "offline", "run": "online"}
"""Old names that W&B still takes."""


class WandbConfig(Config):
    """Weights & Biases. A key that is null takes what W&B's own variable says, such as `WANDB_PROJECT`."""

    NULL: ClassVar[dict[str, Any]] = {
        "mode": "offline", "project": "vicuna_lit", "job_type": "evaluate", "console": "auto", "tags": (),
        "settings": {},
    }  # fmt: skip
    """What null is where the variable is not set either."""

    mode: Literal["online", "offline", "disabled"]
    """offline writes to the run folder; `wandb sync` uploads it later. null: WANDB_MODE, or offline."""
    project: str
    """The W&B project. null: WANDB_PROJECT, or vicuna_lit."""
    entity: str | None
    """The user or team that owns the project. null: WANDB_ENTITY, or your default."""
    name: str | None
    """What the run is called in W&B; a job of a sweep adds its choices. null: WANDB_NAME, or run.name."""
    group: str | None
    """null: WANDB_RUN_GROUP, or none; under multirun the sweep's folder."""
    job_type: str
    """null: WANDB_JOB_TYPE, or the command: train or evaluate."""
    tags: tuple[str, ...]
    """Labels of the run in W&B. null: WANDB_TAGS (with commas), or none."""
    notes: str | None
    """A description of the run. null: WANDB_NOTES, or none."""
    console: Literal["auto", "off", "wrap", "redirect"]
    """How what is printed gets into W&B's Logs tab; off: not at all. null: WANDB_CONSOLE, or auto."""
    dir: FilePath | None
    """The folder in which W&B makes its `wandb/`. null: WANDB_DIR, or the run's folder, which then holds all of it."""
    samples: Literal["none", "ids", "text"]
    """What is logged of conversations, questions, replies and answers. text: as they are; ids: ids and counts alone;
    none: no tables of them. The data set's card and an evaluation's page hold texts too, and go with text alone."""
    alert: bool
    """Whether W&B sends a message (e-mail, Slack, as your account says) where the run fails."""
    settings: dict[str, Any]
    """Further fields of `wandb.Settings`, such as `{save_code: true}`. null: none."""

    @field_validator("*", mode="before")
    @classmethod
    def _null_is_the_variable(cls, given: Any, info: ValidationInfo) -> Any:
        field = info.field_name or ""
        if given is not None or field not in VARIABLES:
            return cls.NULL.get(field) if given is None else given
        if not (said := os.environ.get(VARIABLES[field])):
            return cls.NULL.get(field)
        if field == "tags":
            return tuple(tag.strip() for tag in said.split(","))
        if field == "mode":
            said = MODES.get(said, said)
        choices = {"mode": ("online", "offline", "disabled"), "console": ("auto", "off", "wrap", "redirect")}
        if said not in choices.get(field, (said,)):
            raise ValueError(f"{VARIABLES[field]}={said}: no such choice; choices: {', '.join(choices[field])}")
        return said

    @field_validator("project", "entity", "name", "group", "job_type")
    @classmethod
    def _can_be_a_name(cls, name: str | None, info: ValidationInfo) -> str | None:
        field = info.field_name or ""
        if name is not None and field != "name" and not 0 < len(name) <= 128:
            raise ValueError(f"{_variable(field, name)}has {len(name)} characters; W&B takes 1 to 128")
        found = sorted(set(name or "") & set("/\\#?%:")) if field in ("project", "entity") else []
        if found:
            raise ValueError(
                f"{_variable(field, name)}{name} holds {' '.join(found)}; in the name of a project or entity W&B takes "
                "none of / \\ # ? % :"
            )
        return name

    @field_validator("tags")
    @classmethod
    def _can_be_tags(cls, tags: tuple[str, ...]) -> tuple[str, ...]:
        for tag in tags:
            if not 0 < len(tag) <= 64:
                said = f"{tag[:20]!r}{'…' * (len(tag) > 20)} has {len(tag)} characters; W&B takes 1 to 64"
                raise ValueError(_variable("tags", ",".join(tags)) + said)
        return tags

    @field_validator("settings")
    @classmethod
    def _are_not_keys_of_ours(cls, settings: dict[str, Any]) -> dict[str, Any]:
        ours = {name: f"wandb.{name}" for name in ("mode", "project", "entity", "console")}
        ours |= {f"run_{name}": f"wandb.{name}" for name in ("name", "group", "job_type", "tags", "notes")}
        ours |= {"root_dir": "wandb.dir", "reinit": "not needed: open runs stay open"}
        ours |= dict.fromkeys(("resume", "run_id"), "not needed: a run that goes on keeps its id")
        ours |= {"api_key": "`wandb login` or WANDB_API_KEY; a key in a config would be written down"}
        if found := [f"{name}: here it is {ours[name]}" for name in settings if name in ours]:
            raise ValueError("; ".join(found))
        return settings


def _variable(field: str, value: str | None) -> str:
    """`WANDB_TAGS: ` where a value has come from there."""
    variable = VARIABLES[field]
    return f"{variable}: " if value and os.environ.get(variable) == value else ""


class TrainWandbConfig(WandbConfig):
    """The same for a run that makes a model."""

    NULL: ClassVar[dict[str, Any]] = WandbConfig.NULL | {"job_type": "train"}

    log_model: Literal["reference", "upload", "none"]
    """The model as an artifact: its files' paths and checksums, the files themselves, or not at all."""
