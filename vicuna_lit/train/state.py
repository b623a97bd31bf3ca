"""The state of a run as flat pieces, whatever the strategy made of it.

Weights (fp32 masters where there are some) and optimizer state, under the same names everywhere: `weight/<name>`,
`exp_avg/<name>`, … Nothing in here talks to other ranks but `settle`.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from vicuna_lit.train.checkpoint import Piece, Shards
from vicuna_lit.train.export import partition
from vicuna_lit.train.model import SupervisedLM
from vicuna_lit.train.optimizer import MasterWeights


def held(lm: SupervisedLM, optimizer: Any) -> Iterator[Piece]:
    """What this rank holds of every trained weight and its optimizer state."""
    masters = {id(weight): master for weight, master in getattr(optimizer, "pairs", ())}
    for name, weight in lm.named_parameters():
        if not weight.requires_grad:
            continue
        if hasattr(weight, "ds_tensor"):
            yield from _of_zero3(name, weight, optimizer)
        elif hasattr(weight, "_hp_mapping"):
            yield from _of_zero(name, weight, optimizer)
        elif isinstance(weight, DTensor):
            start = sum(partition(weight)[1][: dist.get_rank()])
            for what, value in _tensors("weight", weight, optimizer.state.get(weight, {})):
                assert isinstance(value, DTensor)
                yield Piece(f"{what}/{name}", start, value.to_local().detach().view(-1))
        else:
            master = masters.get(id(weight), weight)
            for what, value in _tensors("weight", master, optimizer.state.get(master, {})):
                yield Piece(f"{what}/{name}", 0, value.detach().view(-1), everywhere=True)


def _tensors(name: str, weight: Tensor, state: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """The weight, and its state but for the step, which is the run's."""
    yield name, weight
    for key, value in state.items():
        if isinstance(value, Tensor) and key != "step":
            yield key, value


def _of_zero(name: str, weight: Any, zero: Any) -> Iterator[Piece]:
    """Stages 1 and 2: this rank's part of the group's flat fp32 tensor holds a stretch of the weight, or nothing."""
    mapping = weight._hp_mapping
    if mapping is None:
        return
    place, start = mapping.hp_fragment_address, mapping.lp_fragment_address.start
    flat = zero.single_partition_of_fp32_groups[mapping.param_group_index]
    for what, value in _tensors("weight", flat, zero.optimizer.state.get(flat, {})):
        yield Piece(f"{what}/{name}", start, value.detach()[place.start : place.start + place.numel])


def _of_zero3(name: str, weight: Any, zero: Any) -> Iterator[Piece]:
    """Stage 3: every weight is cut flat, the last part padded."""
    group, offset, _ = zero.grad_position[zero.get_param_id(weight)]
    flat, sizes, rank = zero.fp32_partitioned_groups_flat[group], partition(weight)[1], dist.get_rank()
    for what, value in _tensors("weight", flat, zero.optimizer.state.get(flat, {})):
        yield Piece(f"{what}/{name}", sum(sizes[:rank]), value.detach()[offset : offset + sizes[rank]])


def restore(lm: SupervisedLM, optimizer: Any, shards: Shards, step: int) -> None:
    """Puts a checkpoint's state in place; every rank calls it.

    Raises:
        RunError: the checkpoint lacks something.
    """
    _make_room(optimizer, step)
    for piece in held(lm, optimizer):
        shards.read_into(piece)
    settle(lm, optimizer)


def _make_room(optimizer: Any, step: int) -> None:
    """Optimizer state as it looks after `step` steps; the numbers come from the checkpoint."""
    if (flats := _flat_groups(optimizer)) is not None:
        for flat in flats:
            counted = torch.tensor(float(step), device=flat.device)
            moments = {key: torch.zeros_like(flat) for key in ("exp_avg", "exp_avg_sq")}
            optimizer.optimizer.state[flat] = {"step": counted, **moments}
        return
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    trained = [weight for weight, _ in getattr(optimizer, "pairs", ())]
    for weight in trained or (p for group in optimizer.param_groups for p in group["params"]):
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    optimizer.zero_grad()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    for state in optimizer.state.values():
        counted = state["step"]
        state["step"] = counted.fill_(step) if isinstance(counted, Tensor) else step


def _flat_groups(optimizer: Any) -> list[Tensor] | None:
    """DeepSpeed's flat fp32 tensors."""
    for name in ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups"):
        if hasattr(optimizer, name):
            return list(getattr(optimizer, name))
    return None


@torch.no_grad()
def settle(lm: SupervisedLM, optimizer: Any) -> None:
    """Brings the weights that are computed with in line with their masters."""
    if isinstance(optimizer, MasterWeights):
        for weight, master in optimizer.pairs:
            weight.copy_(master)
    elif hasattr(optimizer, "update_lp_params"):
        optimizer.update_lp_params()
    elif hasattr(optimizer, "fp32_partitioned_groups_flat"):
        weight: Any
        for weight in lm.parameters():
            if weight.requires_grad:
                group, offset, length = optimizer.grad_position[optimizer.get_param_id(weight)]
                weight.ds_tensor.copy_(optimizer.fp32_partitioned_groups_flat[group][offset : offset + length])
        if gathered := optimizer.persistent_parameters:  # small weights, which stage 3 keeps whole
            gathered[0].partition(gathered)
            gathered[0].all_gather(gathered)
