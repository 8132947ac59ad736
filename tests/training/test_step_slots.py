"""How a worker's slots become micro-batches: by length, as many as asked for, and what that leaves as it is."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch

from raymdm.config.schema import METHODS, ModelConfig
from raymdm.data.loading import Split
from raymdm.diffusion.masking import smallest_rate
from raymdm.diffusion.samplers import Density
from raymdm.errors import UserError
from raymdm.models.denoiser import Denoiser
from raymdm.models.load import load_model
from raymdm.training import step
from raymdm.training.step import StepInputs, forward_backward

LENGTHS = np.array([5, 9, 4, 9, 12, 6, 7, 4])
SIZE, MASK, PAD, CPU = len(LENGTHS), 10, 11, torch.device("cpu")
Outcome = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


@pytest.fixture(scope="module")
def split() -> Split:
    """A prompt of two tokens, then responses of all lengths."""
    draw, none = np.random.default_rng(0), [np.array([], dtype=np.int32)] * SIZE
    ids = [draw.integers(0, 10, length).astype(np.int32) for length in LENGTHS]
    return Split(np.arange(SIZE), ids, np.full(SIZE, 2), [""] * SIZE, [""] * SIZE, none, none)


@pytest.fixture(scope="module", params=["mdm", "arm"])
def model(request: pytest.FixtureRequest) -> "Counted":
    config = ModelConfig(kind="tiny", hidden_size=16, num_layers=1, num_heads=2, tokenizer={"kind": "chars"})
    return Counted(load_model(config, range(12), request.param), request.param)


class Counted(Denoiser):
    """Writes down the shape of every forward pass."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, input_ids: torch.Tensor, *arguments: Any) -> torch.Tensor:
        self.shapes.append(tuple(input_ids.shape))
        return super().forward(input_ids, *arguments)


def _step(
    model: Counted, split: Split, slots: slice = slice(0, SIZE), micro: int = 3, passes: int | None = None,
    **settings: Any,
) -> Outcome:  # fmt: skip
    """The gradient, then what `forward_backward` returns."""
    method = METHODS["standard" if model.family == "mdm" else "arm"]
    density = Density.uniform(smallest_rate(method.mask))
    inputs = StepInputs(method, density, 7, SIZE, MASK, PAD, **settings)
    model.shapes.clear()
    model.zero_grad()
    found = forward_backward(model, split, np.arange(SIZE), 3, inputs, slots, micro, 1, CPU, np.ones(10), passes)
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return torch.cat([torch.zeros(0), *(gradient.flatten() for gradient in gradients)]), *found


def _assert_close(found: Outcome, expected: Outcome) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_micro_batches_hold_sequences_of_similar_length(model: Counted, split: Split) -> None:
    _step(model, split)
    assert model.shapes == [(3, 12), (3, 7), (2, 4)]


def test_without_grouping_slots_stay_in_order(model: Counted, split: Split) -> None:
    _step(model, split, group_by_length=False)
    assert model.shapes == [(3, 9), (3, 12), (2, 7)]


def test_grouping_changes_neither_gradient_nor_losses_nor_their_order(model: Counted, split: Split) -> None:
    _assert_close(_step(model, split), _step(model, split, group_by_length=False))


def test_losses_come_in_the_order_of_slots(model: Counted, split: Split) -> None:
    carried = _step(model, split, slice(2, 8), micro=4)[3]
    alone = [_step(model, split, slice(slot, slot + 1))[3] for slot in range(2, 8)]
    torch.testing.assert_close(carried, torch.cat(alone), rtol=1e-4, atol=1e-6)


def test_a_single_micro_batch_keeps_the_order_of_slots(model: Counted, split: Split) -> None:
    """To the last bit what it was before there was grouping."""
    ours = _step(model, split, micro=SIZE)
    assert all(map(torch.equal, ours, _step(model, split, micro=SIZE, group_by_length=False)))


def test_passes_beyond_the_slots_add_nothing(model: Counted, split: Split) -> None:
    expected = _step(model, split)
    found = _step(model, split, passes=5)
    assert model.shapes == [(3, 12), (3, 7), (2, 4), (1, 4), (1, 4)]
    assert all(map(torch.equal, found, expected))


def test_fewer_passes_than_the_slots_need_leave_none_out(model: Counted, split: Split) -> None:
    _assert_close(_step(model, split, passes=1), _step(model, split))


def test_a_worker_without_slots_has_gradients_of_zero(model: Counted, split: Split) -> None:
    gradient, sums, binned, carried = _step(model, split, slice(4, 4), passes=2)
    assert len(gradient) == sum(parameter.numel() for parameter in model.parameters())
    assert not any(part.any() for part in (gradient, sums, binned))
    assert carried.shape == (0,)


def test_replicas_hold_their_gradients_back_until_the_last_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[bool] = []

    class Replica(torch.nn.Module):
        def no_sync(self) -> Any:
            held.append(True)
            return nullcontext()

    monkeypatch.setattr(torch.nn.parallel, "DistributedDataParallel", Replica)
    exchange: Callable[..., Any] = step._exchange
    with exchange(Replica(), last=False), exchange(Replica(), last=True):
        assert held == [True]


def test_the_loss_head_of_a_run_is_the_one_of_its_steps(model: Counted, split: Split) -> None:
    with pytest.raises(UserError, match="liger needs a GPU"):
        _step(model, split, loss_head="liger")
