"""What the masks look like, token by token."""

import numpy as np
import pytest
import torch

from raymdm.diffusion.masking import bernoulli_masks, draw_masks, fixed_size_masks, smallest_rate

ELIGIBLE = torch.tensor([[False, True, True, True, True], [False, False, True, True, False]])
U = torch.tensor([[0.1, 0.2, 0.9, 0.4, 0.6], [0.3, 0.1, 0.8, 0.3, 0.2]], dtype=torch.float64)


def _rates(*t: float) -> torch.Tensor:
    return torch.tensor(t, dtype=torch.float64)


def test_bernoulli_masks_tokens_below_the_rate() -> None:
    masks = bernoulli_masks(U, _rates(0.5, 0.5), ELIGIBLE)
    assert masks.mask.tolist() == [[[False, True, False, True, False], [False, False, False, True, False]]]
    assert masks.scale.tolist() == [[1 / (0.5 * 4), 1 / (0.5 * 2)]]


@pytest.mark.parametrize("t", [0.05, 0.3, 0.5])
def test_mirrored_masks_are_disjoint_up_to_one_half(t: float) -> None:
    u = torch.rand(200, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    first, second = bernoulli_masks(
        u, torch.full((200,), t, dtype=torch.float64), torch.ones(200, 30).bool(), True
    ).mask
    assert first.any() and second.any()
    assert not (first & second).any()


@pytest.mark.parametrize("t", [0.5, 0.8, 1.0])
def test_mirrored_masks_cover_every_token_from_one_half(t: float) -> None:
    u = torch.rand(200, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    first, second = bernoulli_masks(
        u, torch.full((200,), t, dtype=torch.float64), torch.ones(200, 30).bool(), True
    ).mask
    assert (first | second).all()


def test_each_mirrored_view_masks_with_probability_t() -> None:
    u = torch.rand(2000, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    masks = bernoulli_masks(u, torch.full((2000,), 0.3, dtype=torch.float64), torch.ones(2000, 50).bool(), True).mask
    assert masks.double().mean((1, 2)).tolist() == pytest.approx([0.3, 0.3], abs=0.01)


@pytest.mark.parametrize(("t", "k"), [(0.001, 1), (0.25, 1), (0.26, 2), (0.5, 2), (0.51, 3), (1.0, 4)])
def test_fixed_size_masks_exactly_the_rounded_up_share(t: float, k: int) -> None:
    masks = fixed_size_masks(U, _rates(t, t), ELIGIBLE)
    assert int(masks.mask[0, 0].sum()) == k
    assert float(masks.scale[0, 0]) == pytest.approx(1 / k)


def test_fixed_size_takes_the_smallest_u_and_its_mirror_the_largest() -> None:
    first, second = fixed_size_masks(U, _rates(0.3, 0.3), ELIGIBLE, mirrored=True).mask[:, 0]
    assert first.tolist() == [False, True, False, True, False]
    assert second.tolist() == [False, False, True, False, True]


def test_fixed_size_mirror_is_disjoint_or_covers() -> None:
    u = torch.rand(50, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for t in np.linspace(0.01, 1, 30):
        rates = torch.full((50,), float(t), dtype=torch.float64)
        first, second = fixed_size_masks(u, rates, torch.ones(50, 7).bool(), mirrored=True).mask
        k = int(np.ceil(t * 7))
        assert not (first & second).any() if 2 * k <= 7 else (first | second).all()


@pytest.mark.parametrize("kind", ["bernoulli", "fixed_size"])
def test_a_row_without_eligible_tokens_masks_nothing_and_weighs_nothing(kind: str) -> None:
    masks = draw_masks(kind, U, _rates(0.5, 0.5), torch.zeros(2, 5).bool(), mirrored=True)
    assert not masks.mask.any()
    assert masks.scale.tolist() == [[0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("kind", ["bernoulli", "fixed_size"])
def test_only_eligible_tokens_are_masked(kind: str) -> None:
    masks = draw_masks(kind, U, _rates(1.0, 1.0), ELIGIBLE, mirrored=True)
    assert torch.equal(masks.mask[0], ELIGIBLE)
    assert torch.equal(masks.mask[1], ELIGIBLE)


def test_smallest_rates() -> None:
    assert smallest_rate("bernoulli") == 1e-3
    assert smallest_rate("fixed_size") == 0
