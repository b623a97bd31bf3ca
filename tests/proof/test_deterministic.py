"""The same bits each time: asked for, it holds in the run and not behind it."""

from pathlib import Path
from unittest.mock import patch

import torch

from vicuna_lit.config.compose import load
from vicuna_lit.train.module import SupervisedModule
from vicuna_lit.train.run import fit


def test_deterministic_holds_for_the_run_alone(tmp_path: Path):
    seen: list[bool] = []
    short = ("trainer.max_steps=1", "samples.questions=[]", "wandb.mode=disabled", "data.max_validation=2")
    config = load("train", "deterministic=true", *short, f"run.dir={tmp_path / 'run'}")
    step = SupervisedModule.training_step

    def watched(self, batch, batch_idx):
        seen.append(torch.are_deterministic_algorithms_enabled())
        return step(self, batch, batch_idx)

    with patch.object(SupervisedModule, "training_step", watched):
        assert fit(config).status == "finished"
    assert seen == [True]
    assert not torch.are_deterministic_algorithms_enabled()
