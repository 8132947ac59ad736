"""The logits of targets alone against the model's own full logits."""

import pytest
import torch

from raymdm.config.schema import ModelConfig
from raymdm.errors import UserError
from raymdm.models.denoiser import Denoiser
from raymdm.models.load import load_model

VOCABULARY = range(30)
TINY = ModelConfig(kind="tiny", tokenizer={"kind": "chars"})
IDS = torch.tensor([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]], dtype=torch.bool)
TARGETS = torch.tensor([[0, 0, 1, 0, 1, 1], [0, 1, 0, 1, 0, 0]], dtype=torch.bool)
ROW, POSITION = [0, 0, 0, 1, 1], [2, 4, 5, 1, 3]  # TARGETS in row-major order


@pytest.fixture(scope="module")
def mdm() -> Denoiser:
    return Denoiser(load_model(TINY, VOCABULARY, "mdm"), shift=False)


@pytest.fixture(scope="module")
def arm() -> Denoiser:
    return Denoiser(load_model(TINY, VOCABULARY, "arm"), shift=True)


def test_mdm_position_i_predicts_token_i(mdm):
    expected = mdm.model(IDS, attention_mask=MASK).logits[ROW, POSITION]
    torch.testing.assert_close(mdm(IDS, MASK, TARGETS), expected)


def test_arm_position_before_i_predicts_token_i(arm):
    expected = arm.model(IDS, attention_mask=MASK).logits[ROW, [p - 1 for p in POSITION]]
    torch.testing.assert_close(arm(IDS, MASK, TARGETS), expected)


@pytest.mark.parametrize("name", ["mdm", "arm"])
def test_no_mask_means_no_padding(request, name):
    denoiser = request.getfixturevalue(name)
    torch.testing.assert_close(denoiser(IDS, None, TARGETS), denoiser(IDS, torch.ones_like(MASK), TARGETS))


@pytest.mark.parametrize("name", ["mdm", "arm"])
def test_no_target_gives_no_logits_and_a_zero_gradient_for_every_parameter(request, name):
    denoiser = request.getfixturevalue(name)
    logits = denoiser(IDS, MASK, torch.zeros_like(TARGETS))
    assert logits.shape == (0, 30)
    logits.sum().backward()
    gradients = [p.grad for p in denoiser.parameters()]
    denoiser.zero_grad()
    assert all(g is not None and not g.any() for g in gradients)


def test_arm_cannot_predict_a_row_s_first_token(arm):
    targets = TARGETS.clone()
    targets[1, 0] = True
    with pytest.raises(UserError, match="empty prompt"):
        arm(IDS, MASK, targets)


def test_mdm_can_predict_a_row_s_first_token(mdm):
    targets = torch.zeros_like(TARGETS)
    targets[1, 0] = True
    torch.testing.assert_close(mdm(IDS, MASK, targets)[0], mdm.model(IDS, attention_mask=MASK).logits[1, 0])
