"""One process of a run that `launch` started: `python -m vicuna_lit.train.worker <config.json>`."""

import sys
from pathlib import Path

from vicuna_lit.train.__main__ import run
from vicuna_lit.train.config import TrainConfig

if __name__ == "__main__":
    sys.exit(run(TrainConfig.model_validate_json(Path(sys.argv[1]).read_bytes())))
