"""Losses and gradients of a fixed model over sequences, rates and masks, on Ray Data.

Shape legend: M sequences, T rate draws, D rates a draw, K masks, G (sequence, rate draw) pairs of a block, R sketch
size.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import pandas as pd

from raymdm import keys
from raymdm.config.schema import MethodSpec, Recipe
from raymdm.data import loading
from raymdm.orchestrate.pool import run_blocks
from raymdm.orchestrate.shared import location
from raymdm.storage import fetched

if TYPE_CHECKING:  # the processes that hold the model import torch, the one that asks them does not
    from raymdm.training.measure import Sketch

Gradient = Literal["none", "exact", "head"]


class Resources(NamedTuple):
    """Of the processes that hold the model."""

    num_actors: int
    cpus: float
    gpus: float
    batch_size: int
    """Model rows a batch."""


@dataclass(frozen=True)
class Probe:
    """What is measured: every sequence at every rate draw."""

    method: MethodSpec
    """Whose masks are drawn."""
    rows: np.ndarray
    """(M,) rows of the training split."""
    t: np.ndarray
    """(D, T) masking rates."""
    masks: int
    """K masks a pair."""
    weights: np.ndarray | None = None
    """(D, T) factors of the rates' losses; None: 1."""
    gradient: Gradient = "none"
    """`exact` measures gradients beside the losses; `head` the output layer's bound in their place."""
    sketch: int = 0
    """R; 0 keeps the gradients' norms alone."""
    width: np.ndarray | None = None
    """(T,) cells around single rates: each sequence's rate lies anywhere in its cell, the same for all its masks; None
    takes the rates as they are."""

    def to_json(self) -> dict[str, object]:
        weights = np.ones_like(self.t) if self.weights is None else self.weights
        return {
            "method": self.method.model_dump(exclude_unset=True), "t": self.t.tolist(), "weights": weights.tolist(),
            "width": np.zeros(self.t.shape[1]).tolist() if self.width is None else self.width.tolist(),
            "masks": self.masks, "gradient": self.gradient, "sketch": self.sketch,
        }  # fmt: skip


class Measured(NamedTuple):
    """What a probe found, weights included."""

    losses: np.ndarray
    """(M, T, K)."""
    squares: np.ndarray | None
    """(M, T, K) squared norms of the gradients."""
    sketches: np.ndarray | None
    """(M, T, K, R) float32."""
    parameters: int
    """Trained parameters of the model."""


class Prober:
    """Holds the model and measures a block of pairs of one probe."""

    def __init__(self, recipe: str, data: str, weights: str, probes: str, seed: str, purpose: str, device: str) -> None:
        """recipe: as JSON; data: prepared folder on storage; weights: a model folder there in place of the recipe's
        model, or ""; probes: name -> `Probe.to_json`, as JSON; seed, purpose: of the draws."""
        import torch

        from raymdm.models.denoiser import Denoiser
        from raymdm.models.load import load_model

        settings, folder = Recipe.model_validate_json(recipe), fetched(data)
        self._probes = json.loads(probes)
        methods = {name: MethodSpec.model_validate(probe["method"]) for name, probe in self._probes.items()}
        (family,) = {method.family for method in methods.values()}
        self._methods, self._seed, self._purpose = methods, int(seed), purpose
        self._device = torch.device(device)
        tokenizer = loading.tokenizer(folder)
        self._ids = tokenizer.mask_token_id, tokenizer.pad_token_id
        model = settings.model if family == "mdm" else settings.arm_model or settings.model
        loaded = load_model(model, tokenizer, family, fetched(weights) if weights else None, self._device)
        self._denoiser = Denoiser(loaded, family).eval()
        self._split = loading.load_split(folder, "train")
        self._sizes = [p.numel() for p in self._denoiser.parameters() if p.requires_grad]
        self._parameters = sum(self._sizes)
        self._sketch: Sketch | None = None

    def __call__(self, pairs: pd.DataFrame) -> pd.DataFrame:
        """pairs: columns probe (one value), pair, row, t_index, cpus. Returns the numbers' bytes."""
        import torch

        from raymdm.training.measure import Draws, measure_gradients, measure_head_gradients, measure_losses

        torch.set_num_threads(max(1, int(pairs["cpus"].iloc[0])))
        name = pairs["probe"].iloc[0]
        probe, index = self._probes[name], pairs["t_index"].to_numpy()
        t, weights = np.array(probe["t"])[:, index], np.array(probe["weights"])[:, index]
        rows = pairs["row"].to_numpy()
        place = keys.uniforms(self._seed, f"{self._purpose}-rate", index, rows, 1)[:, 0] - 0.5
        t = t + place * np.array(probe["width"])[index]
        draws = Draws(self._methods[name], rows, t, index, probe["masks"], self._seed, self._purpose)
        where = self._denoiser, self._split, draws, self._ids, self._device
        if probe["gradient"] != "exact":
            losses = measure_losses(*where, weights) if probe["gradient"] == "none" else measure_head_gradients(*where)
            none = np.zeros((len(losses), 0))
            return self._packed(pairs, losses=losses, squares=none, sketches=none)
        found = measure_gradients(*where, weights, self._sketcher(probe["sketch"]))
        return self._packed(pairs, losses=found.losses, squares=found.squares, sketches=found.sketches)

    def _packed(self, pairs: pd.DataFrame, **arrays: np.ndarray) -> pd.DataFrame:
        """A row a pair with each array's part as bytes: Arrow holds those as they are."""
        columns = {name: [part.tobytes() for part in array] for name, array in arrays.items()}
        return pairs[["probe", "pair"]].assign(parameters=self._parameters, **columns)

    def _sketcher(self, size: int) -> "Sketch | None":
        from raymdm.training.measure import Sketch

        if size and self._sketch is None:
            self._sketch = Sketch(self._sizes, size, self._seed, self._device)
        return self._sketch if size else None


def probe(
    recipe: Recipe,
    probes: Mapping[str, Probe],
    data: Path,
    weights: Path | None,
    seed: int,
    purpose: str,
    resources: Resources,
) -> dict[str, Measured]:
    """Measure probes in one pass. A block is one batch, so the result does not depend on the number of actors."""
    blocks = []
    for name, wanted in probes.items():
        pairs = _pairs(name, wanted, resources.cpus)
        size = max(1, resources.batch_size // (wanted.masks * wanted.method.views))
        if wanted.gradient == "exact":
            size = max(1, min(size, len(wanted.rows) * wanted.t.shape[1] // (4 * resources.num_actors)))
        blocks += [pairs.iloc[start : start + size] for start in range(0, len(pairs), size)]
    where = {
        "recipe": recipe.model_dump_json(),
        "data": location(recipe, data),
        "weights": location(recipe, weights) if weights else "",
        "probes": json.dumps({name: wanted.to_json() for name, wanted in probes.items()}),
        "seed": str(seed),
        "purpose": purpose,
        "device": "cuda" if resources.gpus else "cpu",
    }
    found = run_blocks(blocks, Prober, where, resources.num_actors, resources.cpus, resources.gpus)
    return {name: _unpacked(found[found["probe"] == name], wanted) for name, wanted in probes.items()}


def _pairs(name: str, wanted: Probe, cpus: float) -> pd.DataFrame:
    """The pairs of a probe, sequence by sequence."""
    sequences, rates = len(wanted.rows), wanted.t.shape[1]
    return pd.DataFrame(
        {
            "probe": name,
            "pair": np.arange(sequences * rates),
            "row": np.repeat(wanted.rows, rates),
            "t_index": np.tile(np.arange(rates), sequences),
            "cpus": cpus,
        }
    )


def _unpacked(found: pd.DataFrame, wanted: Probe) -> Measured:
    found = found.sort_values("pair")
    shape = len(wanted.rows), wanted.t.shape[1], wanted.masks

    def array(column: str, dtype: type) -> np.ndarray:
        return np.frombuffer(b"".join(found[column]), dtype=dtype)

    losses, parameters = array("losses", np.float64).reshape(shape), int(found["parameters"].iloc[0])
    if wanted.gradient != "exact":
        return Measured(losses, None, None, parameters)
    sketches = array("sketches", np.float32).reshape(*shape, -1) if wanted.sketch else None
    return Measured(losses, array("squares", np.float64).reshape(shape), sketches, parameters)
