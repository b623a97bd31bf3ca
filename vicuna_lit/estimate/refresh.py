"""Today's prices by SkyPilot's catalogue, which that package fetches and keeps by itself."""

import json
import math
import os
import re
import subprocess
import sys
from datetime import UTC, datetime

import yaml

from vicuna_lit.config.compose import ConfigError
from vicuna_lit.file_hashes import cache_folder

CLOUDS = ("aws", "gcp", "azure", "lambda", "nebius", "runpod")
ASK = f"""
import json
from sky import catalog
rows, failed = [], []
for cloud in {CLOUDS}:
    try:
        found = catalog.list_accelerators(gpus_only=True, clouds=cloud, all_regions=True)
    except Exception as error:
        failed.append(f"{{cloud}} ({{type(error).__name__}})")
        continue
    rows += [(i.accelerator_name, i.accelerator_count, i.cloud, i.region, i.price, i.spot_price)
             for infos in found.values() for i in infos]
print("ROWS" + json.dumps([rows, failed]))
"""
NAMES = {
    "t4": "T4", "v100-16gb": "V100", "v100-32gb": "V100-32GB", "a10g": "A10G", "a10": "A10", "l4": "L4",
    "l40s": "L40S", "rtx4090": "RTX4090", "a100-40gb": "A100", "a100-80gb": "A100-80GB", "h100": "H100",
    "h200": "H200", "b200": "B200",
}  # fmt: skip
"""SkyPilot's names of the GPUs."""


def refresh() -> str:
    """Asks the catalogue, in this Python or in that of `SKY_PYTHON`, and remembers its prices; what was found.

    Raises:
        ConfigError: SkyPilot is not there, or its catalogue cannot be reached.
    """
    python = os.environ.get("SKY_PYTHON", sys.executable)
    asked = subprocess.run([python, "-c", ASK], capture_output=True, text=True, timeout=600)
    answer = re.search(r"^ROWS(.*)$", asked.stdout, re.MULTILINE)
    rows, failed = json.loads(answer[1]) if answer else ([], (asked.stderr.strip().splitlines() or ["no answer"])[-1:])
    if not rows:
        raise ConfigError(
            [f"refresh: no prices from SkyPilot ({failed[0]}); it must be installed, here or where SKY_PYTHON points"]
        )
    prices = cheapest_rows(rows)
    now = datetime.now(UTC).date().isoformat()
    file = cache_folder() / "prices.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    table = {"date": now, "source": "SkyPilot's catalogue, the cheapest region", "prices": prices}
    file.write_text(yaml.safe_dump(table, sort_keys=False), encoding="utf-8")
    without = f"; without {', '.join(failed)}" if failed else ""
    return f"{sum(map(len, prices.values()))} prices of {len(prices)} GPUs, {now}: {file}{without}"


def cheapest_rows(rows: list[list]) -> dict[str, dict[str, dict[str, float]]]:
    """GPU → cloud → USD per GPU and hour, on demand and spot, over all instances and regions.

    Args:
        rows: SkyPilot's name, GPUs of the instance, cloud, region, USD an hour of the instance, the same on spot.
    """
    ours = {sky: name for name, sky in NAMES.items()}
    out: dict[str, dict[str, dict[str, float]]] = {}
    for name, count, cloud, _, price, spot, *_ in rows:
        if name not in ours or not count:
            continue
        known = out.setdefault(ours[name], {}).setdefault(cloud.lower(), {})
        for kind, usd in (("on_demand", price), ("spot", spot)):
            if usd and not math.isnan(usd) and usd / count < known.get(kind, float("inf")):  # NaN: not sold
                known[kind] = round(usd / count, 4)
    return {gpu: {cloud: row for cloud, row in clouds.items() if row} for gpu, clouds in out.items()}
