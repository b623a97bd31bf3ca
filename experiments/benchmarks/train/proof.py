"""What the proof of a model costs at the start of a run: `python -m experiments.benchmarks.train.proof`.

For each recipe of `conf/model` with an architecture of its own: the median of several proofs in one process, which has
torch and transformers loaded, as a run has by then. In a step it costs nothing: it is over before the first one.
"""

import statistics
import time
import warnings

import torch

from vicuna_lit.config.base import CONF_DIR
from vicuna_lit.config.compose import load
from vicuna_lit.models import proof
from vicuna_lit.models.architecture import model_config
from vicuna_lit.paths import MissingPath

ROUNDS = 5


def main() -> None:
    """Prints a line for each recipe."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(2)
    print("| recipe | packed = alone, to | seconds |\n|---|---|---|")
    for file in sorted((CONF_DIR / "model").glob("*.yaml")):
        if file.stem == "local":
            continue  # any folder
        config = load(
            "train",
            "experiment=vicuna",
            f"model={file.stem}",
            "data=quickstart",
            "dry_run=true",
            "model.tokenizer=none",
        )
        try:
            hf = model_config(config)
        except MissingPath as missing:
            print(f"| {file.stem} | – | {missing} |")
            continue
        seconds, found = [], proof._compare(hf)  # the first imports the family
        for _ in range(ROUNDS):
            start = time.perf_counter()
            proof._compare(hf)
            seconds.append(time.perf_counter() - start)
        print(f"| {file.stem} | {found.error:.0e} | {statistics.median(seconds):.2f} |", flush=True)


if __name__ == "__main__":
    main()
