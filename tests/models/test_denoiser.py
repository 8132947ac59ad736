"""The logits and losses of targets alone against the model's own full logits."""

import copy

import pytest
import torch
import torch.nn.functional as F

from raymdm.config.schema import ModelConfig
from raymdm.errors import UserError
from raymdm.models.denoiser import Denoiser, right_shifted
from raymdm.models.load import load_model

VOCABULARY = range(30)
TINY = ModelConfig(kind="tiny", tokenizer={"kind": "chars"})
IDS = torch.tensor([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]], dtype=torch.bool)
TARGETS = torch.tensor([[0, 0, 1, 0, 1, 1], [0, 1, 0, 1, 0, 0]], dtype=torch.bool)
ROW, POSITION = [0, 0, 0, 1, 1], [2, 4, 5, 1, 3]  # TARGETS in row-major order


@pytest.fixture(scope="module")
def mdm() -> Denoiser:
    return Denoiser(load_model(TINY, VOCABULARY, "mdm"), "mdm")


@pytest.fixture(scope="module")
def dream(mdm: Denoiser) -> Denoiser:
    """The MDM as one whose hidden states predict the token to their right."""
    model = copy.deepcopy(mdm.model)
    model.config.right_shift_logits = True
    return Denoiser(model, "mdm")


@pytest.fixture(scope="module")
def arm() -> Denoiser:
    return Denoiser(load_model(TINY, VOCABULARY, "arm"), "arm")


def test_mdm_position_i_predicts_token_i(mdm):
    expected = mdm.model(IDS, attention_mask=MASK).logits[ROW, POSITION]
    torch.testing.assert_close(mdm(IDS, MASK, TARGETS), expected)


def test_arm_position_before_i_predicts_token_i(arm):
    expected = arm.model(IDS, attention_mask=MASK).logits[ROW, [p - 1 for p in POSITION]]
    torch.testing.assert_close(arm(IDS, MASK, TARGETS), expected)


def test_right_shifted_mdm_predicts_from_the_position_before_and_the_first_from_itself(dream):
    targets = TARGETS.clone()
    targets[:, :2] = True
    logits = dream.model(IDS, attention_mask=MASK).logits
    expected = torch.cat([logits[:, :1], logits[:, :-1]], dim=1)[targets]
    torch.testing.assert_close(dream(IDS, MASK, targets), expected)
    gradients = [
        torch.autograd.grad(found.square().sum(), list(dream.parameters()), retain_graph=True)
        for found in (dream(IDS, MASK, targets), expected)
    ]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_right_shift_is_what_the_model_s_configuration_says(mdm, dream):
    assert right_shifted(dream.model)
    assert not right_shifted(mdm.model)


@pytest.mark.parametrize("name", ["mdm", "dream", "arm"])
def test_with_labels_there_are_cross_entropies(request, name):
    denoiser, labels = request.getfixturevalue(name), IDS[TARGETS]
    found = denoiser(IDS, MASK, TARGETS, labels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, F.cross_entropy(denoiser(IDS, MASK, TARGETS), labels, reduction="none"))


@pytest.mark.parametrize("kind", ["cut_cross_entropy", "liger"])
def test_the_loss_head_asked_for_is_the_one_used(mdm, kind):
    with pytest.raises(UserError, match=f"{kind} needs a GPU"):
        mdm(IDS, MASK, TARGETS, IDS[TARGETS], kind)


@pytest.mark.parametrize("name", ["mdm", "arm"])
def test_no_mask_means_no_padding(request, name):
    denoiser = request.getfixturevalue(name)
    torch.testing.assert_close(denoiser(IDS, None, TARGETS), denoiser(IDS, torch.ones_like(MASK), TARGETS))


@pytest.mark.parametrize("labels", [None, IDS[:0, 0]], ids=["logits", "losses"])
@pytest.mark.parametrize("name", ["mdm", "dream", "arm"])
def test_no_target_gives_nothing_and_a_zero_gradient_for_every_parameter(request, name, labels):
    denoiser = request.getfixturevalue(name)
    found = denoiser(IDS, MASK, torch.zeros_like(TARGETS), labels)
    assert found.shape == ((0, 30) if labels is None else (0,))
    found.sum().backward()
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
