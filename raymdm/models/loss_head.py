"""Cross-entropies of the targets from their hidden states, without the logits of all of them at once.

Shape legend: M targets, H hidden size, V vocabulary.
"""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any, Literal, TypeGuard, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from raymdm.errors import UserError

LossHead = Literal["chunked", "cut_cross_entropy", "liger"]
Kernel = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""(hidden (M, H), weight (V, H), labels (M,), bias (V,) or None) -> (M,) cross-entropies."""

LIMIT = 2**26
"""Logits of one chunk: 256 MiB in float32, of which softmax and its gradient need as much again."""
_TOLERANCE = 0.05
"""Of a kernel's gradient: bf16 rounds to 0.4%, a kernel that averages over tokens is wrong by 100%."""


def token_losses(hidden: Tensor, head: nn.Module, labels: Tensor, kind: LossHead) -> Tensor:
    """Cross-entropies (M,) of the labels, float32 (float64 for a float64 model).

    They may be weighed token by token: the gradient is that of `F.cross_entropy(head(hidden).float(), labels)`.

    Args:
        hidden: (M, H).
        head: the output layer, (M, H) -> (M, V). A wrapped, quantised or frozen one will do for `chunked`.
        labels: (M,) long.
        kind: `chunked`: torch, at most LIMIT logits at a time, made again in the backward pass. The others are fused
            kernels. `cut_cross_entropy` adds its gradients up in bf16, `liger` in float32.

    Raises:
        UserError: a fused kernel without a GPU or its package, with an output layer that it cannot take, or one whose
            gradients are wrong.
    """
    if kind == "chunked" or not len(labels):
        return chunked_losses(hidden, head, labels, LIMIT)
    kernel, linear = fused_kernel(kind, head, hidden.device), cast(nn.Linear, head)
    dtype = _matmul_type(hidden, linear.weight)
    return kernel(hidden.to(dtype), linear.weight.to(dtype), labels, linear.bias)


def chunked_losses(hidden: Tensor, head: nn.Module, labels: Tensor, limit: int) -> Tensor:
    """`token_losses` in plain torch with at most `limit` logits at a time, but those of one token at least."""
    rows = max(1, limit // cast(int, head.out_features))
    if len(labels) <= rows:
        return _cross_entropies(head(hidden), labels)
    if is_plain(head):
        dtype = _matmul_type(hidden, head.weight)
        return cast(Tensor, _Chunked.apply(hidden, head.weight, head.bias, labels, rows, dtype))
    parts = zip(hidden.split(rows), labels.split(rows), strict=True)
    return torch.cat([_checkpointed(head, *part) for part in parts])


def _cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(_wide(logits), labels, reduction="none")


def _checkpointed(head: nn.Module, hidden: Tensor, labels: Tensor) -> Tensor:
    def losses(hidden: Tensor, labels: Tensor) -> Tensor:
        return _cross_entropies(head(hidden), labels)

    return cast(Tensor, checkpoint(losses, hidden, labels, use_reentrant=False))


def _wide(values: Tensor) -> Tensor:
    """In float32, or float64 where they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def is_plain(head: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether the output layer is a matrix and perhaps a bias: not wrapped by an adapter, quantised or sharded."""
    return type(head) is nn.Linear and type(head.weight) is nn.Parameter


def _matmul_type(hidden: Tensor, weight: Tensor) -> torch.dtype:
    """What torch would multiply in."""
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


class _Chunked(torch.autograd.Function):
    """`_cross_entropies(F.linear(hidden, weight, bias), labels)`, `rows` tokens at a time.

    Between the passes nothing is kept but its inputs. The weight's gradient is added up in float32: in bf16, late
    chunks would be rounded away. A frozen weight costs nothing.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, rows: int, dtype: torch.dtype
    ) -> Tensor:
        ctx.save_for_backward(hidden, weight, bias, labels)
        ctx.rows, ctx.dtype = rows, dtype
        matrix, offset = weight.to(dtype), None if bias is None else bias.to(dtype)
        parts = zip(hidden.split(rows), labels.split(rows), strict=True)
        return torch.cat([_cross_entropies(F.linear(part.to(dtype), matrix, offset), label) for part, label in parts])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, labels = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        matrix, offset = weight.to(ctx.dtype), None if bias is None else bias.to(ctx.dtype)
        by_hidden = torch.empty_like(hidden) if wanted[0] else None
        by_weight = torch.zeros_like(weight, dtype=upstream.dtype) if wanted[1] else None
        by_bias = torch.zeros_like(bias, dtype=upstream.dtype) if wanted[2] else None
        for start in range(0, len(labels), ctx.rows):
            part = slice(start, start + ctx.rows)
            states = hidden[part].to(ctx.dtype)
            residual = _residual(F.linear(states, matrix, offset), labels[part], upstream[part]).to(ctx.dtype)
            if by_hidden is not None:
                by_hidden[part] = residual @ matrix
            if by_weight is not None:
                by_weight += residual.T @ states
            if by_bias is not None:
                by_bias += residual.sum(0)
        by_weight = None if by_weight is None else by_weight.to(weight.dtype)
        by_bias = None if by_bias is None else by_bias.to(bias.dtype)
        return by_hidden, by_weight, by_bias, None, None, None


def _residual(logits: Tensor, labels: Tensor, upstream: Tensor) -> Tensor:
    """The gradient by the logits, (M, V): (softmax - onehot) times each token's own weight (M,)."""
    residual = _wide(logits).softmax(-1)
    residual[torch.arange(len(labels), device=labels.device), labels] -= 1
    return residual.mul_(upstream[:, None])


def fused_kernel(kind: LossHead, head: nn.Module, device: torch.device) -> Kernel:
    """A fused kernel, tried out on this device. Raises UserError as `token_losses` does."""
    if device.type != "cuda":
        raise UserError(f"train.loss_head: {kind} needs a GPU, and this run is on a {device.type.upper()}. Use chunked")
    if not is_plain(head):
        raise UserError(
            f"train.loss_head: {kind} cannot take an output layer that is quantised, or wrapped by an adapter "
            f"({type(head).__name__}). Use chunked"
        )
    if kind == "cut_cross_entropy" and head.bias is not None:
        raise UserError("train.loss_head: cut_cross_entropy cannot take an output layer with a bias. Use chunked")
    return _sound_kernel(kind, device)


@cache
def _sound_kernel(kind: LossHead, device: torch.device) -> Kernel:
    try:
        kernel = _KERNELS[kind]()
    except ImportError as error:
        raise UserError(f"train.loss_head: {kind} is not installed ({error}): pip install raymdm[gpu]") from error
    if not has_true_gradients(kernel, device):
        raise UserError(
            f"train.loss_head: the installed {kind} gets the gradients of weighted tokens wrong. Install a newer "
            "version of it, or use chunked"
        )
    return kernel


def has_true_gradients(kernel: Kernel, device: torch.device) -> bool:
    """Whether a kernel weighs every token's gradient by itself, on a few tokens in bf16.

    Kernels are made for the mean over tokens; versions of them took one weight for all.
    """
    draw = torch.Generator().manual_seed(0)
    hidden, matrix = torch.randn(24, 64, generator=draw), torch.randn(512, 64, generator=draw) / 4
    labels, upstream = torch.randint(512, (24,), generator=draw).to(device), torch.linspace(-1, 4, 24, device=device)

    def gradients(kernel: Kernel, dtype: torch.dtype) -> tuple[Tensor, ...]:
        leaves = [part.to(device, torch.bfloat16).to(dtype).requires_grad_() for part in (hidden, matrix)]
        with torch.enable_grad():
            losses = kernel(*leaves, labels, None)  # type: ignore[call-arg]
        return torch.autograd.grad((losses * upstream).sum(), leaves)

    def plainly(hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None) -> Tensor:
        return _cross_entropies(F.linear(hidden, weight, bias), labels)

    with torch.autocast(device.type, enabled=False):
        found, expected = gradients(kernel, torch.bfloat16), gradients(plainly, torch.float32)
    pairs = zip(found, expected, strict=True)
    return all(bool((one.float() - other).norm() < _TOLERANCE * other.norm()) for one, other in pairs)


def _cut_cross_entropy() -> Kernel:
    linear_cross_entropy = import_module("cut_cross_entropy").linear_cross_entropy

    def losses(hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None) -> Tensor:
        assert bias is None
        # Its filter drops small softmax values. A denoiser that knows little yet has nothing else at high rates.
        return cast(Tensor, linear_cross_entropy(hidden, weight, labels, reduction="none", filter_eps=None))

    return losses


def _liger() -> Kernel:
    functional = import_module("liger_kernel.transformers.functional")

    def losses(hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None) -> Tensor:
        found = functional.liger_fused_linear_cross_entropy(
            hidden, weight, labels, bias, reduction="none", accum_dtype=torch.float32
        )
        return cast(Tensor, found)

    return losses


_KERNELS: dict[LossHead, Callable[[], Kernel]] = {"cut_cross_entropy": _cut_cross_entropy, "liger": _liger}
