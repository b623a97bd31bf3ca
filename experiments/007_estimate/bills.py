"""The article's bill by the command: bills.csv.

python -m experiments.007_estimate.bills
"""

from pathlib import Path
from typing import Any

from experiments import tables
from vicuna_lit import load
from vicuna_lit.estimate.run import Estimate, Estimator

BILLS = {"7B": ("vicuna_7b", 140, 500), "13B": ("vicuna_13b", 300, 1000)}
"""The article's dollars: on spot machines, and on demand."""
THEIR_MFU = 0.22
"""Of the article's own run: 13B in "one day" on 8 A100s, 4.6e19 useful FLOPs."""


def bills() -> list[dict[str, Any]]:
    """The article's runs at the prices of its time and of today."""
    estimator, rows = Estimator(), []
    for size, (experiment, spot, on_demand) in BILLS.items():
        for when, gpu, extra, how in (
            ("2023", "a100-80gb", [f"mfu={THEIR_MFU}"], "the article's speed"),
            ("2023", "a100-80gb", [], "published speeds"),
            ("today", "a100-80gb", [], "published speeds"),
            ("today", "h100", [], "published speeds"),
        ):
            row: dict[str, Any] = {"model": size, "prices": when, "gpu": gpu, "speed": how}
            for price, theirs in (("spot", spot), ("on-demand", on_demand)):
                asked = [f"experiment={experiment}", f"gpu={gpu}", "count=8", f"prices={when}", f"price={price}"]
                cloud = ["cloud=gcp"] if when == "2023" else []  # it had the spot machines of the article
                e = estimator.estimate(load("estimate", *asked, *cloud, *extra))
                row |= {f"{price} said": theirs if when == "2023" else "", price: dollars(e), "hours": hours(e)}
            rows.append(row)
    return rows


def dollars(e: Estimate) -> str:
    assert e.usd and e.price
    return f"${e.usd[1]:,.0f} (${e.usd[0]:,.0f} to ${e.usd[2]:,.0f}; {e.price.usd:g} {e.price.cloud})"


def hours(e: Estimate) -> str:
    assert e.time
    return f"{e.time.likely / 3600:.1f} ({e.time.low / 3600:.1f} to {e.time.high / 3600:.1f})"


if __name__ == "__main__":
    tables.write(Path(__file__).parent / "bills.csv", bills())
