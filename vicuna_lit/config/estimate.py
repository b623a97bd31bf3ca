"""Every knob of the estimate job: a train config, and what it would run on; `conf/estimate.yaml` has the values."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BeforeValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from vicuna_lit.config.base import Config
from vicuna_lit.config.path_types import FilePath
from vicuna_lit.config.train import TrainConfig
from vicuna_lit.config.train_checks import devices_here


def _price(value: Any) -> Any:
    if value in ("on-demand", "spot") or (isinstance(value, int | float) and value > 0):
        return value
    raise ValueError(f"{value}: a price is on-demand, spot, or USD per GPU and hour, more than 0")


class MachineConfig(Config):
    """What it would run on, and what that costs. But for its limit, memory has nothing to do with it."""

    gpu: str
    """As in `vicuna_lit/estimate/gpus.yaml`, such as a100-80gb; cpu: this machine's memory, no price."""
    price: Annotated[Literal["on-demand", "spot"] | PositiveFloat, BeforeValidator(_price)]
    """Which of the table's prices, or USD per GPU and hour."""
    cloud: str
    """As in the price table; any: the cheapest."""
    prices: Annotated[str, BeforeValidator(str)]
    """today, 2023 (when the article was written), or a YAML file like `vicuna_lit/estimate/prices.yaml`."""
    mfu: Annotated[float, Field(gt=0, le=1)] | None
    """Share of the GPU's peak that useful FLOPs reach; null: published ones, or `calibrate`'s."""
    calibrate: FilePath | None
    """`result.json` (or the folder) of a run of yours on this kind of GPU: its speed in place of published ones."""
    hours_between_interruptions: PositiveFloat
    """Of a spot machine, the mean."""
    deadline_hours: PositiveFloat | None
    """For the advice: the cheapest way to be done by then; null: at any time."""


class EstimateConfig(MachineConfig, TrainConfig):
    """The estimate job; `conf/estimate.yaml`."""

    DEVICES: ClassVar[str] = "count"
    WHERE_MISSING: ClassVar[dict[str, str]] = {"data.path": "package://vicuna_lit/estimate/sharegpt_lengths.csv"}

    count: PositiveInt
    """GPUs; takes the place of `trainer.devices`. Eight to a machine."""
    refresh: bool
    """Ask SkyPilot's catalogue for today's prices first, and remember them."""
    conversations: PositiveInt | None
    """As if the data had so many; null: as many as they have."""
    output: Literal["terminal", "json", "html"]
    """html writes `estimate.html` into `run.dir`."""

    @model_validator(mode="before")
    @classmethod
    def _count_is_devices(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("trainer"), dict):
            return values
        count = values.get("count")
        if count is None:
            count = devices_here(values["trainer"].get("devices"))
        if isinstance(count, int) and count < 1:
            return values | {"count": count}  # which is refused, and not as the devices too
        return values | {"count": count, "trainer": values["trainer"] | {"devices": count}}

    @field_validator("model")
    @classmethod
    def _has_weights(cls, model: Any, info: ValidationInfo) -> Any:
        if model.kind == "pretrained" and model.path is None and model.architecture is None:
            raise ValueError("its sizes are not known: model.path=<folder>, or model.architecture as in conf/model")
        return model
