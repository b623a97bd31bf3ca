"""One process of a run that `launch` started: `python -m vicuna_lit.cli.worker <config.json>`."""

import sys
from contextlib import suppress
from pathlib import Path

from vicuna_lit.cli.pipes import quiet_pipes
from vicuna_lit.cli.train import run
from vicuna_lit.train.preemption import whole_command

if __name__ == "__main__":
    quiet_pipes()
    with whole_command():
        from vicuna_lit.config.train import TrainConfig
        from vicuna_lit.run_folder import HYDRA, keep_hydra_files
        from vicuna_lit.train.distributed import WHY

        file = Path(sys.argv[1])
        keep_hydra_files({part.name: part.read_text(encoding="utf-8") for part in (file.parent / HYDRA).glob("*.yaml")})
        try:
            code = run(TrainConfig.model_validate_json(file.read_bytes()))
        except SystemExit as end:
            with suppress(OSError):  # a full disk may be the very reason
                if end.__cause__ is not None:  # what was printed is kept for the table of a sweep
                    (file.parent / WHY).write_text(str(end.__cause__), encoding="utf-8")
            raise
        sys.exit(code)
