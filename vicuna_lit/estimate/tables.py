"""What is known of GPUs, their prices and their speeds: the YAML files of this folder, with their sources."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from vicuna_lit.config.base import PACKAGE
from vicuna_lit.config.compose import ConfigError, nearest
from vicuna_lit.file_hashes import cache_folder

HERE = PACKAGE / "estimate"
SAME_SPEED = {"h200": "h100"}
"""Cards with the same peak and no published speed of their own."""


@dataclass(frozen=True)
class Gpu:
    """One card; `gpus.yaml` says where the numbers are from."""

    name: str
    tflops: float
    """Dense, bf16."""
    fp32: float
    """TFLOP/s of its plain cores."""
    memory_gib: float
    bandwidth: float
    """Of its memory, GB/s."""
    link: float
    """To the others of its machine, GB/s in one direction."""
    network: float
    """Of its machine, GB/s in one direction."""
    bf16: bool

    def peak(self, precision: str) -> float:
        """TFLOP/s at a train config's precision.

        Raises:
            ConfigError: the card has no bf16.
        """
        if precision == "fp32":
            return self.fp32
        if not self.bf16:
            raise ConfigError(
                [f"gpu={self.name} has no bf16 for precision={precision}; precision=fp32, or another GPU"]
            )
        return self.tflops

    @property
    def memory(self) -> int:
        """Bytes."""
        return int(self.memory_gib * 2**30)


class NoPriceError(ConfigError):
    """The table has no such price."""


@dataclass(frozen=True)
class Price:
    """USD per GPU and hour."""

    usd: float
    cloud: str
    """Empty: by hand."""
    source: str


@dataclass(frozen=True)
class Speeds:
    """Shares of a GPU's peak that useful FLOPs reached."""

    low: float
    likely: float
    high: float
    source: str


@cache
def _read(file: Path) -> Any:
    try:
        return yaml.safe_load(file.read_bytes())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError([f"prices={file}: {' '.join(str(error).split())}"]) from None


def gpu_named(name: str) -> Gpu:
    """The card that `gpus.yaml` calls so.

    Raises:
        ConfigError: there is none; the message names the nearest.
    """
    known = _read(HERE / "gpus.yaml")
    if name not in known:
        longer = [gpu for gpu in known if gpu.startswith(name)]
        near = f" (did you mean {' or '.join(longer)}?)" if longer else nearest(name, list(known))
        raise ConfigError([f"gpu={name}: not known{near}; known: {', '.join(known)}, cpu"])
    return Gpu(name, **known[name])


def gpu_here() -> str:
    """This machine's GPU, as `gpus.yaml` calls it; cpu where there is none.

    Raises:
        ConfigError: it is not in there.
    """
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    return gpu_called(torch.cuda.get_device_name())


def gpu_called(name: str) -> str:
    """A card, by the name that its driver gives it, as `gpus.yaml` calls it.

    Raises:
        ConfigError: it is not in there.
    """
    words = set(re.split(r"[^a-z0-9]+", re.sub(r"\b(rtx) (?=a?\d)", r"\1", name.lower())))
    for known in sorted(_read(HERE / "gpus.yaml"), key=len, reverse=True):
        if set(known.split("-")) <= words:
            return known
    raise ConfigError([f"estimate: {name} is not known; it can be added to vicuna_lit/estimate/gpus.yaml"])


def price_table(which: str) -> dict[str, Any]:
    """The prices of a time: `today` (by `refresh`, where that was asked for once), `2023`, or a file's.

    Raises:
        ConfigError: there are no such prices.
    """
    refreshed = cache_folder() / "prices.yaml"
    shipped = _read(HERE / "prices.yaml")
    if which == "today" and refreshed.exists():
        return _read(refreshed)
    if which in shipped:
        return shipped[which]
    if which.endswith((".yaml", ".yml")):
        table = _read(Path(which))
        if isinstance(table, dict) and {"date", "source", "prices"} <= table.keys():
            return table
        raise ConfigError([f"prices={which}: it has no date, source and prices, as vicuna_lit/estimate/prices.yaml"])
    raise ConfigError([f"prices={which}: no such prices{nearest(which, list(shipped))}; {', '.join(shipped)}, a file"])


def price_of(gpu: str, price: str | float, cloud: str, which: str) -> Price:
    """What an hour of a GPU costs.

    Raises:
        NoPriceError: the table has no such price; the message says which it has.
        ConfigError: there is no such table.
    """
    if not isinstance(price, str):
        return Price(price, "", "given by hand")
    table = price_table(which)
    kind = price.replace("-", "_")
    of_gpu = table["prices"].get(gpu, {})
    found = {name: row[kind] for name, row in of_gpu.items() if row.get(kind) and cloud in ("any", name)}
    if found:
        cheapest = min(found, key=lambda name: found[name])
        return Price(found[cheapest], cheapest, f"{table['date']}: {table['source']}")
    known = [f"{name} {key.replace('_', '-')} {usd}" for name, row in of_gpu.items() for key, usd in row.items()]
    said = f"prices={which} has {', '.join(known) if known else f'none for {gpu}'}"
    where = "" if cloud == "any" else f" of {cloud}"
    others = [name for name, rows in table["prices"].items() if any(kind in row for row in rows.values())]
    near = "" if known else nearest(gpu, others)
    raise NoPriceError([f"price={price}: none{where} for {gpu} is known{near}; {said}; price=<USD per GPU and hour>"])


def speeds_of(gpu: Gpu, context_length: int, recomputes: bool) -> Speeds:
    """Published speeds as shares of the peak: those of the same GPU, and of the same way to keep activations and a
    context within a factor of four, where there are any."""
    table = _read(HERE / "speeds.yaml")
    name = SAME_SPEED.get(gpu.name, gpu.name)
    rows = [row for row in table["speeds"] if row[1] == name]
    said = f"published speeds of {name}"
    if not rows:
        rows, said = table["speeds"], f"no speed of {gpu.name} is published; the range of A100, H100 and RTX 4090"
    for closer in (
        [row for row in rows if row[4] == recomputes],
        [row for row in rows if row[4] == recomputes and 0.25 <= row[3] / context_length <= 4],
    ):
        rows = closer if len(closer) >= 2 else rows
    shares = sorted(_share(table["shapes"][row[0]], row) for row in rows)
    names = ", ".join(sorted({table["sources"][row[6]].split()[0] for row in rows}))
    return Speeds(shares[0], shares[len(shares) // 2], shares[-1], f"{said}: {names}")


def _share(shape: list[float], row: list[Any]) -> float:
    weights, layers, width = shape
    per_token = 6 * weights * 1e9 + 6 * layers * width * row[3]
    return row[5] * per_token / (_read(HERE / "gpus.yaml")[row[1]]["tflops"] * 1e12)
