"""AdamW: torch's own, or with moments in 8 bits a number; and its state in a checkpoint, which knows no workers.

A checkpoint holds torch's state dict of a whole model: parameters by their place, every tensor whole.

Shape legend: a parameter has R rows of C numbers, an 8-bit moment C / S blocks a row, S <= 256.
"""

import math
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from raymdm.config.training import TrainConfig
from raymdm.training.parallel import as_sharded, part

BLOCK = 256
"""Numbers that share a scale, at most."""
SMALLEST_BLOCK = 32
"""Rows that cannot be cut into blocks of at least this keep their moments in float32: scales would outweigh codes."""
AT_ONCE = 2**24
"""Numbers of a parameter that are moved at once: a large one's moments are never whole in float32."""


def make_optimizer(parameters: Iterable[nn.Parameter], settings: TrainConfig) -> Optimizer:
    """AdamW over the parameters that are trained, sharded or not."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if settings.optimizer == "adamw_8bit":
        return AdamW8bit(trained, settings.lr, settings.weight_decay)
    return torch.optim.AdamW(trained, lr=settings.lr, weight_decay=settings.weight_decay, fused=True)


def read_moments(folder: Path, shard: tuple[int, int] | None) -> dict[str, Any]:
    """A checkpoint's optimiser state; of every tensor only the rows of a worker with `shard`: (rank, workers)."""
    found: dict[str, Any] = torch.load(
        folder / "optimizer.pt", weights_only=True, map_location="cpu", mmap=shard is not None
    )
    if shard:
        for moments in found["state"].values():
            moments.update({name: part(value, *shard) for name, value in moments.items()})
    return found


def load_moments(optimizer: Optimizer, moments: dict[str, Any]) -> None:
    """Go on with what `read_moments` read."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, values in moments["state"].items():
        values.update({name: as_sharded(value, parameters[index]) for name, value in values.items()})
    optimizer.load_state_dict(moments)


class AdamW8bit(Optimizer):
    """AdamW whose moments are kept in 8 bits a number, each block of a row with its largest one as scale.

    Dettmers et al., "8-bit Optimizers via Block-wise Quantization", 2022, with their maps from codes to numbers. Blocks
    lie within rows, and workers share a parameter by rows: so moments do not depend on the number of workers. Vectors
    keep theirs in float32.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state = self.state[parameter] or self._start(parameter)
                    state["step"] += 1
                    for chunk in _chunks(parameter, state):
                        _move(*chunk, state["step"].item(), group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As usual, but that codes stay bytes: torch would turn them into the parameters' type."""
        super().load_state_dict({**state_dict, "state": {}})
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for index, values in state_dict["state"].items():
            device = _local(parameters[index]).device
            self.state[parameters[index]] = {
                name: value.to(device) if value.ndim else value for name, value in values.items()
            }

    def _start(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        state, local = {"step": torch.tensor(0.0)}, _local(parameter)
        size = block_size(parameter.shape)
        for name, signed in (("exp_avg", True), ("exp_avg_sq", False)):
            if size is None:
                state[name] = torch.zeros_like(local, dtype=torch.float32)
                continue
            zero = int((code_map(signed, local.device) == 0).nonzero())
            state[name] = torch.full_like(local, zero, dtype=torch.uint8)
            blocks = (*local.shape[:-1], local.shape[-1] // size)
            state[f"{name}_scale"] = torch.zeros(blocks, dtype=torch.float32, device=local.device)
        self.state[parameter] = {name: as_sharded(value, parameter) for name, value in state.items()}
        return self.state[parameter]


def block_size(shape: torch.Size) -> int | None:
    """Numbers S of a block: the largest that cuts rows evenly; None for a parameter whose moments stay in float32."""
    if len(shape) < 2:
        return None
    return next((size for size in range(BLOCK, SMALLEST_BLOCK - 1, -1) if shape[-1] % size == 0), None)


def quantise(values: Tensor, scale: Tensor, codes: Tensor, signed: bool) -> None:
    """Numbers (r, C) into codes (r, C) and scales (r, C / S), in place. A block of zeros has the scale 0."""
    blocks = values.unflatten(-1, (scale.shape[-1], -1))
    torch.amax(blocks.abs(), -1, out=scale)
    numbers = code_map(signed, values.device)
    borders = (numbers[:-1] + numbers[1:]) / 2
    relative = blocks / scale.clamp(min=torch.finfo(torch.float32).tiny).unsqueeze(-1)
    codes.copy_(torch.bucketize(relative, borders, right=True, out_int32=True).flatten(-2))


def dequantise(codes: Tensor, scale: Tensor, signed: bool) -> Tensor:
    """Codes (r, C) and scales (r, C / S) -> numbers (r, C) float32."""
    numbers = code_map(signed, codes.device)[codes.int()]
    return (numbers.unflatten(-1, (scale.shape[-1], -1)) * scale.unsqueeze(-1)).flatten(-2)


@cache
def code_map(signed: bool, device: torch.device) -> Tensor:
    """The 256 numbers of "dynamic tree quantization", ascending, from 0 (signed: from -0.993) to 1.

    Of 7 decades, each has twice as many numbers as the one below: the middles of equal parts of (0.1, 1] times it.
    """
    numbers = [0.0, 1.0]
    for decade in range(7):
        parts = 2**decade if signed else 2 ** (decade + 1)
        edges = torch.linspace(0.1, 1, parts + 1, dtype=torch.float64)
        middles = ((edges[:-1] + edges[1:]) / 2 * 10.0 ** (decade - 6)).tolist()
        numbers += [*middles, *(-middle for middle in middles if signed)]
    return torch.tensor(sorted(numbers), dtype=torch.float64).float().to(device)


def _chunks(parameter: nn.Parameter, state: dict[str, Tensor]) -> Iterable[tuple[Tensor, Tensor, dict[str, Tensor]]]:
    """Some rows after others of what this worker holds: parameter, gradient and moments, as (r, C)."""
    assert parameter.grad is not None
    held = {name: _rows(value) for name, value in state.items() if name != "step"}
    numbers, gradient = _rows(parameter), _rows(parameter.grad)
    size = max(1, AT_ONCE // max(1, numbers.shape[-1]))
    for start in range(0, len(numbers), size):
        some = slice(start, start + size)
        yield numbers[some], gradient[some], {name: value[some] for name, value in held.items()}


def _move(numbers: Tensor, gradient: Tensor, moments: dict[str, Tensor], step: float, group: dict[str, Any]) -> None:
    """One step of AdamW, in float32; the parameter (r, C) and its moments change in place."""
    (beta1, beta2), lr = group["betas"], group["lr"]
    moved, gradient = numbers.float() * (1 - lr * group["weight_decay"]), gradient.float()
    mean = _read(moments, "exp_avg").lerp_(gradient, 1 - beta1)
    square = _read(moments, "exp_avg_sq").lerp_(gradient.square(), 1 - beta2)
    spread = square.sqrt().div_(math.sqrt(1 - beta2**step)).add_(group["eps"])
    moved.addcdiv_(mean, spread, value=-lr / (1 - beta1**step))
    numbers.copy_(moved)
    for name, values in (("exp_avg", mean), ("exp_avg_sq", square)):
        if f"{name}_scale" in moments:
            quantise(values, moments[f"{name}_scale"], moments[name], name == "exp_avg")


def _read(moments: dict[str, Tensor], name: str) -> Tensor:
    """A moment in float32: a copy of what is in 8 bits, and otherwise itself."""
    if f"{name}_scale" not in moments:
        return moments[name]
    return dequantise(moments[name], moments[f"{name}_scale"], name == "exp_avg")


def _rows(tensor: Tensor) -> Tensor:
    """A view (r, C) of what this worker holds."""
    local = _local(tensor)
    return local.view(1, -1) if local.ndim < 2 else local.view(-1, local.shape[-1])


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
