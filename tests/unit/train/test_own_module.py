"""A module of a script's own: what it draws, what it leaves without a gradient, and what nothing would train."""

from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from torch import nn

from tests.helpers.families import tiny_model
from tests.unit.train.test_seeding import draws
from vicuna_lit.config.compose import load
from vicuna_lit.data.batch import Batch
from vicuna_lit.data.plan import plan_steps
from vicuna_lit.models.causal_lm import SupervisedLM
from vicuna_lit.run_folder import RunError
from vicuna_lit.train.extensions import Extensions
from vicuna_lit.train.module import SupervisedModule
from vicuna_lit.train.seeding import drawn_at
from vicuna_lit.train.strategies import replicated
from vicuna_lit.train.strategies.replicated import DDP, CopiesStrategy, Single

PLAN = plan_steps([8] * 20, [4] * 20, conversations_per_step=2, tokens_per_device=8)
"""Of two rows a step."""


class Noisy(SupervisedModule):
    def loss(self, batch: Any) -> torch.Tensor:
        return torch.tensor(sum(draws()))


class Asking(SupervisedModule):
    def loss(self, batch: Any) -> torch.Tensor:
        return 0 * self.lm(SupervisedLM.hidden, batch).sum()


def made(kind: type[SupervisedModule], start: int = 0) -> SupervisedModule:
    return kind(SupervisedLM(tiny_model("llama")), load("train"), PLAN, start)


@pytest.mark.promise("An own loss that draws random numbers draws the same ones after a stop, whatever else draws")
def test_what_a_loss_draws_follows_from_the_step():
    zero = torch.zeros(1, 1, dtype=torch.int64)
    batch = Batch(zero, zero - 100, zero, (1,), 1)
    whole = [float(made(Noisy).training_step(batch, i)) for i in range(6)]
    assert len(set(whole)) == 6
    before = draws()
    resumed = made(Noisy, start=2)
    torch.manual_seed(5)  # as a callback may
    assert [float(resumed.training_step(batch, i)) for i in range(2)] == whole[4:]
    torch.manual_seed(5)
    with drawn_at(0):
        first = draws()
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1)) and first != before
    with drawn_at(0):
        assert draws() == first


@pytest.mark.promise("Under sharded weights a loss that passes a row over is refused, where all would wait for hours")
def test_a_row_that_is_passed_over_is_refused_where_others_wait_for_it():
    zero = torch.zeros(1, 1, dtype=torch.int64)
    batch = Batch(zero, zero - 100, zero, (1,), 1)
    for strategy in ("fsdp", "zero3", "zero2", "ddp", "single"):
        module = Noisy(SupervisedLM(tiny_model("llama")), load("train", f"strategy={strategy}"), PLAN, 0)
        if strategy in ("fsdp", "zero3"):
            with pytest.raises(RunError, match=f"Noisy.loss has passed a row over .* under strategy={strategy} all"):
                module.training_step(batch, 0)
        else:
            module.training_step(batch, 0)
    asked = Asking(SupervisedLM(tiny_model("llama")), load("train", "strategy=fsdp"), PLAN, 0)
    assert asked.training_step(batch, 0).requires_grad


@pytest.mark.promise("A trained weight that nothing came to has a gradient of 0, so a stopped run goes on")
class Looks(L.Callback):
    pass


@pytest.mark.parametrize(
    ("callbacks", "loggers", "module", "said"),
    [
        (Looks, (), SupervisedModule, "Looks is a class; give an object of it, Looks"),
        ([print], (), SupervisedModule, "is none of Lightning's callbacks"),
        ((), Looks(), SupervisedModule, "is none of Lightning's loggers"),
        ((), (), lambda config: None, "a subclass of vl.SupervisedModule is wanted"),
        (ModelCheckpoint(), (), SupervisedModule, "leave ModelCheckpoint out; fit saves by itself"),
        ((Looks(), TQDMProgressBar()), (), SupervisedModule, "leave TQDMProgressBar out; fit shows"),
    ],
)
def test_what_fit_cannot_take_is_one_line(callbacks: Any, loggers: Any, module: Any, said: str):
    with pytest.raises(RunError, match=said):
        Extensions.given(callbacks, loggers, module)
    assert Extensions.given(looks := Looks(), (), SupervisedModule).callbacks == (looks,)


def test_a_weight_without_a_gradient_has_one_of_zero():
    module = made(SupervisedModule)
    used, *others = module.parameters()
    used[0, 0].backward()
    optimizer = torch.optim.AdamW(module.parameters())
    assert Single(module.config).clip(module, optimizer, None)() == 1
    assert others and not any(weight.grad is None or weight.grad.any() for weight in others)
    optimizer.step()
    assert set(optimizer.state) == set(module.parameters())


@pytest.mark.promise("Under ddp an own loss may leave weights out, as with one device")
def test_torchs_ddp_which_waits_for_each_weight_is_not_asked(monkeypatch):
    sent, averaged = [], []
    monkeypatch.setattr(replicated.dist, "broadcast", lambda tensor, _: sent.append(tensor))
    monkeypatch.setattr(replicated, "average_over_ranks", averaged.extend)
    module = made(Noisy)
    strategy = CopiesStrategy(parallel_devices=[torch.device("cpu")])
    strategy.connect(module)
    strategy.configure_ddp()
    assert strategy.model is module and len(sent) == len([*module.parameters(), *module.buffers()])
    monkeypatch.setattr(Noisy, "trainer", SimpleNamespace(strategy=strategy))
    next(module.parameters())[0, 0].backward()
    assert DDP(load("train", "strategy=ddp")).clip(module, None, None)() == 1
    assert len(averaged) == len([*module.parameters()])
    strategy.connect(made(SupervisedModule))
    assert not strategy.averages_late


@pytest.mark.promise("Weights and a state of an own module that nothing would train or save are refused")
def test_what_nothing_would_train_or_save_is_refused():
    class Gained(SupervisedModule):
        def __init__(self, *args: Any):
            super().__init__(*args)
            self.gain = nn.Parameter(torch.ones(()))

    class Trained(Gained):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters())

    class Kept(SupervisedModule):
        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None: ...

    with pytest.raises(RunError, match="Gained has weights of its own, which nothing would train or save: gain"):
        made(Gained).setup("fit")
    fixed = made(Gained)
    fixed.gain.requires_grad_(False)
    for module in (fixed, made(Trained)):
        with pytest.raises(RuntimeError, match="not attached to a `Trainer`"):
            module.setup("fit")
    with pytest.raises(RunError, match="Kept keeps its state in Lightning's own checkpoints"):
        Extensions(module=Kept)
