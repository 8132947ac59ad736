"""The loss of noised sequences and its sums, by hand."""

import math

import pytest
import torch

from raymdm.diffusion.masking import Masks
from raymdm.diffusion.objective import LossSums, autoregressive_losses, loss_sums, noise, sequence_losses

IDS = torch.tensor([[1, 2, 0], [2, 0, 1]])
MASK = torch.tensor([[[True, False, True], [False, False, False]], [[False, True, False], [True, False, False]]])


def _weight(*rows: list[list[list[float]]]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def test_noise_replaces_the_masked_tokens_of_every_view() -> None:
    noised = noise(IDS, Masks(MASK, MASK[None].double()), 9)
    assert noised.input_ids.tolist() == [[9, 2, 9], [2, 0, 1], [1, 9, 0], [9, 0, 1]]
    assert noised.labels.tolist() == [1, 0, 2, 2]
    assert noised.rows.tolist() == [0, 0, 2, 3]
    assert torch.equal(noised.targets, MASK.flatten(0, 1))


def test_a_loss_is_the_weighted_sum_of_its_targets_cross_entropies() -> None:
    weight = _weight([[[0.5, 0, 0.25], [0, 0, 0]], [[0, 3.0, 0], [2.0, 0, 0]]])
    masks = Masks(MASK, weight)
    token = torch.tensor([math.log(4), math.log(4), math.log(2), math.log(2)])  # of the labels 1, 0, 2, 2
    losses = sequence_losses(token, noise(IDS, masks, 9), masks)
    assert losses.tolist() == [pytest.approx([0.75 * math.log(4) + 3 * math.log(2), 2 * math.log(2)])]


def test_each_rate_has_a_loss_with_weights_of_its_own_negative_ones_too() -> None:
    weight = _weight(
        [[[1.0, 0, 1.0], [0, 0, 0]], [[0, -1.0, 0], [0, 0, 0]]], [[[0, 0, 0], [0, 0, 0]], [[0, 1.0, 0], [1.0, 0, 0]]]
    )
    masks = Masks(MASK, weight)
    one = math.log(3)
    losses = sequence_losses(torch.full((4,), one), noise(IDS, masks, 9), masks)
    assert losses.flatten().tolist() == pytest.approx([2 * one - one, 0, one, one])


def test_autoregressive_losses_are_means_over_the_response() -> None:
    losses = autoregressive_losses(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 0, 2]), 3)
    assert losses.tolist() == [1.5, 0, 4]


def test_sums_of_one_rate_a_sequence() -> None:
    """l = 1, 2, 3 with w = 2, 1, 0.5: w l = 2, 2, 1.5; w l^2 = 2, 4, 4.5."""
    sums = loss_sums(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[2.0, 1.0, 0.5]]))
    assert sums.tolist() == pytest.approx([3, 5.5, 10.5, 4 + 4 + 2.25, 5.5, 10.25])


def test_a_sequence_with_several_rates_is_one_draw() -> None:
    """Sequence one: w l = 2 and 4, mean 3; w l^2 = 2 and 8, mean 5. Sequence two: w l = 1 and 0; w l^2 = 1 and 0."""
    sums = loss_sums(torch.tensor([[1.0, 1.0], [2.0, 0.0]]), torch.tensor([[2.0, 1.0], [2.0, 1.0]]))
    assert sums.tolist() == pytest.approx([2, 3.5, 5.5, 9.25, 3.5, 9.25])


def test_reported_losses_leave_what_is_carried_alone() -> None:
    sums = loss_sums(torch.tensor([[1.0, 2.0]]), torch.ones(1, 2), torch.tensor([[0.5, 1.0]]))
    assert sums.tolist() == pytest.approx([2, 1.5, 1.25, 1.25, 3, 5])


def test_online_variances_are_the_paper_s() -> None:
    """w l = 2, 2, 1.5 and w l^2 = 2, 4, 4.5: 10.5/3 - (5.5^2 - 10.25)/6, and the sample variance of w l, 1/12."""
    found = LossSums(3, 5.5, 10.5, 10.25, 5.5, 10.25)
    assert found.mean == pytest.approx(5.5 / 3)
    assert found.loss_variance == pytest.approx(10.5 / 3 - (5.5**2 - 10.25) / 6)
    assert found.backprop_variance == pytest.approx(1 / 12)
