"""Cross-entropies a chunk at a time against torch's own over all logits at once."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from raymdm.errors import UserError
from raymdm.models import loss_head
from raymdm.models.loss_head import chunked_losses, fused_kernel, has_true_gradients, token_losses

M, H, V = 13, 6, 29
CPU = torch.device("cpu")


def _problem(dtype: torch.dtype = torch.float64, bias: bool = False) -> tuple[Tensor, nn.Linear, Tensor, Tensor]:
    """Hidden states, head, labels and the tokens' weights: negative, zero and large ones."""
    draw = torch.Generator().manual_seed(0)
    head = nn.Linear(H, V, bias=bias, dtype=dtype)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw))
    hidden = torch.randn(M, H, generator=draw).to(dtype).requires_grad_()
    labels = torch.randint(V, (M,), generator=draw)
    return hidden, head, labels, torch.linspace(-2, 50, M).to(dtype).where(torch.arange(M) != 3, 0)


def _plainly(hidden: Tensor, head: nn.Module, labels: Tensor) -> Tensor:
    logits = head(hidden)
    return F.cross_entropy(
        logits.double() if logits.dtype == torch.float64 else logits.float(), labels, reduction="none"
    )


def _gradients(losses: Tensor, upstream: Tensor, hidden: Tensor, head: nn.Module) -> list[Tensor]:
    leaves = [hidden, *(parameter for parameter in head.parameters() if parameter.requires_grad)]
    return list(torch.autograd.grad((losses * upstream).sum(), leaves))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 4, 12])
def test_losses_and_gradients_are_those_of_all_logits_at_once(rows: int, bias: bool) -> None:
    hidden, head, labels, upstream = _problem(bias=bias)
    expected, found = _plainly(hidden, head, labels), chunked_losses(hidden, head, labels, rows * V)
    torch.testing.assert_close(found, expected)
    pairs = zip(_gradients(found, upstream, hidden, head), _gradients(expected, upstream, hidden, head), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs)


def test_gradients_are_those_of_finite_differences() -> None:
    hidden, head, labels, _ = _problem(bias=True)

    def losses(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        head.weight, head.bias = nn.Parameter(weight), nn.Parameter(bias)
        return loss_head._Chunked.apply(hidden, weight, bias, labels, 4, torch.float64)

    assert torch.autograd.gradcheck(losses, (hidden, head.weight, head.bias))


def test_what_fits_in_a_chunk_is_torch_s_own_to_the_last_bit() -> None:
    hidden, head, labels, upstream = _problem(torch.float32)
    expected, found = _plainly(hidden, head, labels), token_losses(hidden, head, labels, "chunked")
    assert torch.equal(found, expected)
    pairs = zip(_gradients(found, upstream, hidden, head), _gradients(expected, upstream, hidden, head), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("name", ["chunked", "cut_cross_entropy", "liger"])
def test_without_targets_there_are_no_losses_and_gradients_of_zero(name: Any) -> None:
    hidden, head, labels, _ = _problem()
    losses = token_losses(hidden[:0], head, labels[:0], name)
    assert losses.shape == (0,)
    assert not any(gradient.any() for gradient in _gradients(losses, losses.new_zeros(0), hidden, head))


def test_bf16_loses_no_more_in_chunks_than_at_once() -> None:
    """Sums of 400 chunks' gradients in bf16 would lose much of what comes last."""
    draw = torch.Generator().manual_seed(1)
    head = nn.Linear(H, V, bias=False, dtype=torch.bfloat16)
    nn.init.normal_(head.weight, generator=draw)
    hidden = (2 + torch.randn(800, H, generator=draw)).bfloat16().requires_grad_()
    labels, upstream = torch.randint(V, (800,), generator=draw), torch.linspace(0, 4, 800)
    exact = nn.Linear(H, V, bias=False, dtype=torch.float64)
    exact.load_state_dict(head.state_dict())
    wide = hidden.detach().double().requires_grad_()
    truth = _gradients(_plainly(wide, exact, labels), upstream, wide, exact)

    def errors(losses: Tensor) -> list[float]:
        assert losses.dtype == torch.float32
        found = zip(_gradients(losses, upstream, hidden, head), truth, strict=True)
        return [float((one.double() - other).norm() / other.norm()) for one, other in found]

    at_once = errors(_plainly(hidden, head, labels))
    assert errors(chunked_losses(hidden, head, labels, 2 * V)) <= [1.1 * error for error in at_once]


def test_autocast_multiplies_in_bf16_and_leaves_a_float32_head_float32_gradients() -> None:
    hidden, head, labels, upstream = _problem(torch.float32, bias=True)
    with torch.autocast("cpu", torch.bfloat16):
        expected, found = _plainly(hidden, head, labels), chunked_losses(hidden, head, labels, 4 * V)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)  # float32's would differ by 1e-2
    pairs = zip(_gradients(found, upstream, hidden, head), _gradients(expected, upstream, hidden, head), strict=True)
    for ours, theirs in pairs:
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-2 * float(theirs.abs().max()))


def _wrapped(kind: str, inner: nn.Linear) -> nn.Module:
    from peft import LoraConfig, inject_adapter_in_model

    holder = nn.Module()
    holder.head = inner
    options = (
        {"modules_to_save": ["head"], "target_modules": ["none"]} if kind == "copy" else {"target_modules": ["head"]}
    )
    if kind == "copy":
        holder.none = nn.Linear(1, 1)
    inject_adapter_in_model(LoraConfig(r=2, init_lora_weights=False, **options), holder)
    return holder.head


@pytest.mark.parametrize("kind", ["frozen", "lora", "copy"])
def test_heads_that_are_frozen_or_wrapped_by_an_adapter(kind: str) -> None:
    hidden, plain, labels, upstream = _problem(torch.float32)
    head = plain.requires_grad_(False) if kind == "frozen" else _wrapped(kind, plain).float()
    expected, found = _plainly(hidden, head, labels), chunked_losses(hidden, head, labels, 4 * V)
    torch.testing.assert_close(found, expected)
    ours, theirs = (_gradients(losses, upstream, hidden, head) for losses in (found, expected))
    assert len(ours) == {"frozen": 1, "lora": 3, "copy": 2}[kind]
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)


class _Dequantised(nn.Linear):
    """As quantised layers are: a Linear whose weight is not its matrix."""

    def forward(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, 2 * self.weight, self.bias)


def test_a_head_that_does_more_than_a_linear_layer_is_asked_itself() -> None:
    hidden, plain, labels, upstream = _problem()
    head = _Dequantised(H, V, bias=False, dtype=torch.float64)
    head.load_state_dict(plain.state_dict())
    expected, found = _plainly(hidden, head, labels), chunked_losses(hidden, head, labels, 4 * V)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(_gradients(losses, upstream, hidden, head) for losses in (found, expected)))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("make", [nn.Linear, _Dequantised])
def test_losses_without_a_graph(mode: Callable[[], Any], make: type[nn.Linear]) -> None:
    hidden, _, labels, _ = _problem(torch.float32)
    head = make(H, V)
    with mode():
        torch.testing.assert_close(chunked_losses(hidden, head, labels, 4 * V), _plainly(hidden, head, labels))


class _Largest(TorchDispatchMode):
    """Watches for the largest tensor that an operation makes."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        sizes = [
            part.numel() for part in (made if isinstance(made, tuple | list) else [made]) if isinstance(part, Tensor)
        ]
        self.numbers = max([self.numbers, *sizes])
        return made


@pytest.mark.parametrize("make", [nn.Linear, _Dequantised])
def test_no_pass_makes_more_logits_than_a_chunk_s(make: type[nn.Linear]) -> None:
    head, hidden, labels = make(2, 500), torch.randn(64, 2, requires_grad=True), torch.arange(64)
    with _Largest() as largest:
        chunked_losses(hidden, head, labels, 5 * 500).sum().backward()
    assert largest.numbers == 5 * 500


def test_between_the_passes_no_logits_are_kept() -> None:
    kept = []
    hidden, head, labels, _ = _problem()
    with torch.autograd.graph.saved_tensors_hooks(lambda part: kept.append(part.numel()) or part, lambda part: part):
        chunked_losses(hidden, head, labels, 4 * V)
    assert sorted(kept) == [M, M * H, H * V]


@pytest.mark.parametrize("kind", ["cut_cross_entropy", "liger"])
def test_a_fused_kernel_needs_a_gpu(kind: Any) -> None:
    hidden, head, labels, _ = _problem(torch.float32)
    with pytest.raises(UserError, match=f"train.loss_head: {kind} needs a GPU"):
        token_losses(hidden, head, labels, kind)


@pytest.mark.parametrize(
    ("kind", "head", "message"),
    [
        ("liger", _Dequantised(H, V), "_Dequantised"),
        ("cut_cross_entropy", nn.Linear(H, V, bias=True), "with a bias"),
        ("liger", nn.Linear(H, V, bias=True), "pip install raymdm"),
    ],
)
def test_a_fused_kernel_says_what_it_cannot_take(
    monkeypatch: pytest.MonkeyPatch, kind: Any, head: nn.Module, message: str
) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(loss_head, "import_module", missing)
    with pytest.raises(UserError, match=message):
        fused_kernel(kind, head, torch.device("cuda"))


class _MeanOnly(torch.autograd.Function):
    """As a kernel made for the mean over tokens: gradients are ready before the tokens' weights are known."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        with torch.enable_grad():
            leaves = [part.detach().requires_grad_() for part in (hidden, weight)]
            losses = F.cross_entropy(F.linear(*leaves).float(), labels, reduction="none")
            ctx.save_for_backward(*torch.autograd.grad(losses.sum(), leaves))
        return losses.detach()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        return *(part * upstream.mean() for part in ctx.saved_tensors), None


def test_a_kernel_that_weighs_tokens_alike_is_found_out() -> None:
    def wrong(hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None) -> Tensor:
        return _MeanOnly.apply(hidden, weight, labels)

    def right(hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None) -> Tensor:
        return loss_head._Chunked.apply(hidden, weight, bias, labels, 5, torch.bfloat16)

    assert has_true_gradients(right, CPU)
    assert not has_true_gradients(wrong, CPU)


def test_a_kernel_with_wrong_gradients_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(loss_head._KERNELS, "liger", lambda: None)
    monkeypatch.setattr(loss_head, "has_true_gradients", lambda kernel, device: False)
    with pytest.raises(UserError, match=r"liger gets the gradients .* wrong"):
        fused_kernel("liger", nn.Linear(H, V), torch.device("cuda"))
