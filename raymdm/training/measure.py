"""Losses and gradients of chosen draws with the model as it is: what calibration, refit and diagnosis are made of.

Shape legend: G (sequence, rate) pairs, D rates a sequence, K masks a pair, L positions, P parameters, R sketch size.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from raymdm import keys
from raymdm.config.schema import MethodSpec
from raymdm.data.loading import Batch, Split
from raymdm.diffusion.masking import Masks
from raymdm.diffusion.objective import noise
from raymdm.models.denoiser import Denoiser
from raymdm.models.loss_head import is_plain
from raymdm.models.precision import precision
from raymdm.training.draws import draw_step_masks
from raymdm.training.step import autoregressive_forward, diffusion_forward

CHUNK = 2**22
"""Numbers of a gradient that are looked at at once: beside a large gradient there is no room for a copy of it."""
VOCABULARY = 2**14
"""Rows of the output layer in one product."""
KEPT = 2**24
"""P up to which a sketch keeps its map, four bytes a parameter; a larger one is drawn again for every gradient."""


@dataclass(frozen=True)
class Draws:
    """What is measured, and the keys of its masks: (seed, purpose, index, row, mask)."""

    method: MethodSpec
    rows: np.ndarray
    """(G,) rows of the split."""
    t: np.ndarray
    """(D, G) masking rates."""
    index: np.ndarray
    """(G,) tells the rates of one row apart."""
    masks: int
    """K."""
    seed: int
    purpose: str


class Sketch:
    """A keyed random linear map from P to R numbers that keeps inner products on average (CountSketch).

    Each number goes to one of R places with a sign, both drawn for a chunk of a parameter at a time from (seed,
    parameter, chunk). Charikar, Chen and Farach-Colton, "Finding frequent items in data streams", 2002.
    """

    def __init__(self, sizes: Sequence[int], size: int, seed: int, device: torch.device) -> None:
        """sizes: numbers of each parameter, P together. No map at all when P is `size` or less: then inner products
        are exact."""
        total = sum(sizes)
        self.exact = total <= size
        self.size = total if self.exact else size
        self._sizes, self._seed, self._device = list(sizes), seed, device
        self._kept = None
        if not self.exact and total <= KEPT:
            self._kept = [list(self._drawn(parameter)) for parameter in range(len(sizes))]

    def __call__(self, gradient: Sequence[Tensor | None]) -> Tensor:
        """The gradient by each parameter, of any shape, None for zero -> (R,) float64."""
        if self.exact:
            parts = zip(gradient, self._sizes, strict=True)
            return torch.cat(
                [
                    torch.zeros(size, dtype=torch.float64, device=self._device)
                    if part is None
                    else part.flatten().double()
                    for part, size in parts
                ]
            )
        found = torch.zeros(self.size, dtype=torch.float64, device=self._device)
        for parameter, part in enumerate(gradient):
            if part is not None:
                places = self._kept[parameter] if self._kept is not None else self._drawn(parameter)
                for numbers, place in zip(_chunks(part), places, strict=True):
                    found.index_add_(0, place >> 1, numbers * (1 - 2 * (place & 1)))
        return found

    def _drawn(self, parameter: int) -> Iterator[Tensor]:
        """Twice the place, plus one for a minus sign, of each number of a parameter; chunk by chunk, int32."""
        size = self._sizes[parameter]
        for chunk, start in enumerate(range(0, size, CHUNK)):
            random = keys.generator(self._seed, "sketch", parameter, chunk)
            place = random.integers(0, 2 * self.size, min(CHUNK, size - start), dtype=np.int32)
            yield torch.from_numpy(place).to(self._device)


def measure_losses(
    model: nn.Module,
    split: Split,
    draws: Draws,
    ids: tuple[int, int],
    device: torch.device,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """Losses, averaged over a sequence's rates, (G, K) float64; in one forward pass.

    ids: (mask_id, pad_id); weights: (D, G) factors of the rates' losses, 1 without. The model is left in evaluation
    mode.
    """
    model.eval()
    repeated = np.repeat(draws.rows, draws.masks)
    batch = split.batch(repeated, ids[1])
    with torch.no_grad(), precision(device):
        losses = _losses(model, batch, draws, np.arange(len(repeated)), ids[0], device)
    factor = np.ones_like(draws.t) if weights is None else weights
    weighted = losses.double().cpu().numpy() * np.repeat(factor, draws.masks, axis=1)
    return weighted.mean(0).reshape(-1, draws.masks)


def measure_head_gradients(
    model: Denoiser, split: Split, draws: Draws, ids: tuple[int, int], device: torch.device
) -> np.ndarray:
    """A bound on each draw's gradient norm from its forward pass alone, (G, K) float64, up to a common factor.

    sqrt(sum over targets of weight^2 |(softmax - onehot) W|^2), W the output layer: the gradient by the last hidden
    states, target by target (Katharopoulos and Fleuret, "Not All Samples Are Created Equal", 2018). One rate a
    sequence. The model is left in evaluation mode.
    """
    model.eval()
    repeated = np.repeat(draws.rows, draws.masks)
    batch = split.batch(repeated, ids[1])
    masks = _masks(batch, draws, np.arange(len(repeated)))
    noised = noise(batch.input_ids, masks, ids[0])
    weight = masks.weight[0][masks.mask].to(device)
    noised = type(noised)(*(part.to(device) for part in noised))
    attention = batch.attention_mask.repeat(len(masks.mask), 1).to(device)
    with torch.no_grad(), precision(device):
        residual = model(noised.input_ids, attention, noised.targets).softmax(-1, dtype=torch.float32)
        residual[torch.arange(len(residual), device=device), noised.labels] -= 1
        hidden = _by_hidden(residual, model.model.get_output_embeddings())
    squares = weight.new_zeros(len(repeated))
    squares.index_add_(0, noised.rows % len(repeated), weight.square() * hidden.double().square().sum(-1))
    return squares.sqrt().cpu().numpy().reshape(-1, draws.masks)


@dataclass(frozen=True)
class Gradients:
    """What is kept of each draw's gradient."""

    losses: np.ndarray
    """(G, K) weighted losses."""
    squares: np.ndarray
    """(G, K) squared Euclidean norms over all trained parameters."""
    sketches: np.ndarray
    """(G, K, R) float32."""


def measure_gradients(
    model: nn.Module,
    split: Split,
    draws: Draws,
    ids: tuple[int, int],
    device: torch.device,
    weights: np.ndarray | None = None,
    sketch: Sketch | None = None,
) -> Gradients:
    """The gradient of every draw's loss alone, one backward pass each.

    weights: (D, G) factors of the rates' losses, 1 without. Parameters' `grad` stays as it is; the model is left in
    evaluation mode.
    """
    model.eval()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    shape = len(draws.rows), draws.masks
    losses, squares = np.zeros(shape), np.zeros(shape)
    sketches = np.zeros((*shape, sketch.size if sketch else 0), dtype=np.float32)
    factor = np.ones_like(draws.t) if weights is None else weights

    # a function of its own: a draw's gradient is gone before the next one needs the room
    def measure_one(draw: int, pair: tuple[int, int]) -> None:
        batch = split.batch(draws.rows[[pair[0]]], ids[1])
        with precision(device):
            loss = _losses(model, batch, draws, np.array([draw]), ids[0], device)[:, 0]
            loss = (loss * torch.from_numpy(factor[:, pair[0]]).to(loss)).mean()
        gradient = torch.autograd.grad(loss, parameters, allow_unused=True)
        losses[pair], squares[pair] = loss.item(), _square(gradient, device)
        if sketch:
            sketches[pair] = sketch(gradient).cpu().numpy()

    for draw in range(len(draws.rows) * draws.masks):
        measure_one(draw, divmod(draw, draws.masks))
    return Gradients(losses, squares, sketches)


def _chunks(part: Tensor) -> Iterable[Tensor]:
    """The numbers of one parameter's gradient in float64, CHUNK at a time."""
    return (numbers.double() for numbers in part.flatten().split(CHUNK))


def _square(gradient: Sequence[Tensor | None], device: torch.device) -> float:
    """Squared Euclidean norm over all parameters; a parameter that the loss does not reach (None) adds nothing."""
    total = torch.zeros((), dtype=torch.float64, device=device)
    for part in gradient:
        if part is not None:
            for numbers in _chunks(part):
                total += numbers.square().sum()
    return total.item()


def _by_hidden(residual: Tensor, head: nn.Module) -> Tensor:
    """residual (M, V) times the output layer (V, H), in float32: autocast would round both to bf16.

    Part of the vocabulary at a time, so that a bf16 head has no whole float32 copy. What a quantised or adapted layer
    multiplies with, its own backward pass knows, in its own precision.
    """
    if not is_plain(head):
        with torch.enable_grad():
            size = len(residual), cast(int, head.in_features)
            hidden = torch.zeros(size, device=residual.device, requires_grad=True)
            logits = head(hidden)
            return torch.autograd.grad(logits, hidden, residual.to(logits.dtype))[0]
    found = residual.new_zeros(len(residual), head.in_features)
    with torch.autocast(residual.device.type, enabled=False):
        for part, rows in zip(residual.split(VOCABULARY, 1), head.weight.split(VOCABULARY), strict=True):
            found += part @ rows.float()
    return found


def _losses(
    model: nn.Module, batch: Batch, draws: Draws, which: np.ndarray, mask_id: int, device: torch.device
) -> Tensor:
    """(D, S) losses of S of the G K draws, given by their places `which` (S,); `batch` holds their sequences."""
    if draws.method.family == "arm":
        return autoregressive_forward(model, batch, device)[None]
    return diffusion_forward(model, batch, _masks(batch, draws, which), mask_id, device)


def _masks(batch: Batch, draws: Draws, which: np.ndarray) -> Masks:
    pair, mask = np.divmod(which, draws.masks)
    return draw_step_masks(
        draws.method, draws.seed, draws.index[pair], draws.rows[pair], draws.t[:, pair], batch, draws.purpose, mask
    )
