"""One process of a run that `launch` started: `python -m vicuna_lit.cli.worker <config.json>`."""

import sys
from pathlib import Path

from vicuna_lit.cli.pipes import quiet_pipes
from vicuna_lit.cli.train import run
from vicuna_lit.train.preemption import whole_command

if __name__ == "__main__":
    quiet_pipes()
    with whole_command():
        from vicuna_lit.config.train import TrainConfig
        from vicuna_lit.run_folder import HYDRA, keep_hydra_files

        file = Path(sys.argv[1])
        keep_hydra_files({part.name: part.read_text() for part in (file.parent / HYDRA).glob("*.yaml")})
        sys.exit(run(TrainConfig.model_validate_json(file.read_bytes())))
