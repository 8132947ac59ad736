"""Who sees whom: for each family, attention backend and padding."""

import functools

import pytest
import torch
from torch import Tensor
from transformers import masking_utils
from transformers.integrations import flex_attention

from raymdm.config.schema import ModelConfig
from raymdm.errors import UserError
from raymdm.models.checks import assert_bidirectional, assert_causal
from raymdm.models.denoiser import hidden_states
from raymdm.models.load import load_model

VOCABULARY = range(30)
REAL = 7
PADDING = {"none": (0, 0), "right": (0, 3), "left": (3, 0), "both": (2, 1)}
BACKENDS = ["eager", "sdpa"]
TINY = {"kind": "tiny", "tokenizer": {"kind": "chars"}}


def tiny(**fields) -> ModelConfig:
    return ModelConfig(**{**TINY, **fields})


def padded(tokens: Tensor, side: str, pad_id: int = 0) -> tuple[Tensor, Tensor | None]:
    """One row of real tokens among `pad_id`, and its mask (None without padding)."""
    left, right = PADDING[side]
    ids = torch.nn.functional.pad(tokens[None], (left, right), value=pad_id)
    mask = torch.nn.functional.pad(torch.ones(1, len(tokens), dtype=torch.bool), (left, right), value=False)
    return ids, (mask if left or right else None)


def real_logits(model, tokens: Tensor, side: str, pad_id: int = 0) -> Tensor:
    """Logits (REAL, V) of the real positions."""
    ids, mask = padded(tokens, side, pad_id)
    with torch.no_grad():
        logits = model.get_output_embeddings()(hidden_states(model, ids, mask))[0]
    return logits if mask is None else logits[mask[0]]


def change_by_last_token(model, side: str) -> Tensor:
    """Largest change (REAL,) of each real position's logits when the last real token changes."""
    tokens = torch.arange(3, 3 + REAL)
    changed = tokens.clone()
    changed[-1] = 25
    return (real_logits(model, changed, side) - real_logits(model, tokens, side)).abs().amax(dim=1)


@functools.cache
def build(family: str, backend: str):
    return load_model(tiny(attn_implementation=backend), VOCABULARY, family)


@pytest.fixture(params=BACKENDS)
def mdm(request):
    return build("mdm", request.param)


@pytest.fixture(params=BACKENDS)
def arm(request):
    return build("arm", request.param)


@pytest.fixture(params=[(family, backend) for family in ("mdm", "arm") for backend in BACKENDS], ids="-".join)
def model(request):
    return build(*request.param)


@pytest.mark.parametrize("side", PADDING)
def test_mdm_every_position_sees_the_last_token(mdm, side):
    assert (change_by_last_token(mdm, side) > 1e-4).all()


@pytest.mark.parametrize("side", PADDING)
def test_arm_no_earlier_position_sees_the_last_token(arm, side):
    change = change_by_last_token(arm, side)
    assert (change[:-1] == 0).all()
    assert change[-1] > 1e-4


@pytest.mark.parametrize("side", ["left", "right", "both"])
def test_padding_content_changes_nothing(model, side):
    tokens = torch.arange(3, 3 + REAL)
    assert torch.equal(real_logits(model, tokens, side, pad_id=0), real_logits(model, tokens, side, pad_id=29))


@pytest.mark.parametrize("side", ["left", "right", "both"])
def test_padded_row_equals_unpadded_row(model, side):
    tokens = torch.arange(3, 3 + REAL)
    torch.testing.assert_close(real_logits(model, tokens, side), real_logits(model, tokens, "none"))


def test_gradients_are_finite_with_rows_of_padding_in_front(model):
    ids, mask = padded(torch.arange(3, 3 + REAL), "left")
    hidden_states(model, ids, mask)[mask].sum().backward()
    gradients = [p.grad for p in model.get_decoder().parameters()]
    model.zero_grad()
    assert all(g is not None and g.isfinite().all() for g in gradients)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("side", PADDING)
def test_flex_attention_is_bidirectional(monkeypatch, side):
    # Uncompiled, flex_attention computes the same on a CPU, in milliseconds instead of half a minute.
    monkeypatch.setattr(flex_attention, "WrappedFlexAttention", lambda training: lambda: flex_attention.flex_attention)
    compiled = masking_utils.create_block_mask
    monkeypatch.setattr(masking_utils, "create_block_mask", lambda **kw: compiled(**{**kw, "_compile": False}))
    model = load_model(tiny(), VOCABULARY, "mdm")
    expected = real_logits(model, torch.arange(3, 3 + REAL), side)
    model.set_attn_implementation("flex_attention")
    assert (change_by_last_token(model, side) > 1e-4).all()
    torch.testing.assert_close(real_logits(model, torch.arange(3, 3 + REAL), side), expected)


def test_check_refuses_a_causal_model_as_bidirectional():
    model = load_model(tiny(), VOCABULARY, "arm")
    with pytest.raises(UserError, match=r"no padding.*first position does not see the last token"):
        assert_bidirectional(model)


def test_check_sees_what_is_causal_only_without_padding():
    # transformers' own trap: sdpa without a mask asks the module, and the configuration says nothing to it.
    model = load_model(tiny(), VOCABULARY, "mdm")
    for layer in model.get_decoder().layers:
        layer.self_attn.register_forward_pre_hook(
            lambda _, args, kwargs: (args, {**kwargs, "is_causal": True}), with_kwargs=True
        )
    assert (change_by_last_token(model, "left") > 1e-4).all()
    with pytest.raises(UserError, match="no padding"):
        assert_bidirectional(model)


def test_check_refuses_a_bidirectional_model_as_causal():
    with pytest.raises(UserError, match=r"is bidirectional.*arm_model\.path"):
        assert_causal(load_model(tiny(), VOCABULARY, "mdm"))


def test_check_refuses_a_model_that_sees_padding():
    model = load_model(tiny(), VOCABULARY, "mdm")
    for layer in model.get_decoder().layers:
        layer.self_attn.register_forward_pre_hook(
            lambda _, args, kwargs: (args, {**kwargs, "attention_mask": None}), with_kwargs=True
        )
    with pytest.raises(UserError, match="does not ignore padding"):
        assert_bidirectional(model)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
@pytest.mark.parametrize("backend", ["flex_attention", "flash_attention_2"])
def test_gpu_attention_without_a_gpu_is_refused(backend):
    with pytest.raises(UserError, match=f"{backend} needs a GPU"):
        load_model(tiny(attn_implementation=backend), VOCABULARY, "mdm")
