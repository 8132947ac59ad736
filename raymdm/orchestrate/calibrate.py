"""The calibration sweep on Ray Data: losses over a grid of masking rates, their moments, and the fitted density.

Shape legend: M sequences, T rates of the grid, K masks, V views, G (sequence, rate) pairs of a batch, L positions.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from raymdm import keys
from raymdm.comparison.figures import draw_density
from raymdm.comparison.results import Calibration
from raymdm.config.schema import METHODS, MethodSpec, Recipe
from raymdm.data import loading
from raymdm.diffusion.calibration import summarise
from raymdm.diffusion.epr import rate_grid
from raymdm.diffusion.masking import draw_masks, smallest_rate
from raymdm.diffusion.moments import GridMoments
from raymdm.errors import UserError
from raymdm.models.denoiser import Denoiser
from raymdm.models.load import load_model
from raymdm.models.precision import precision
from raymdm.orchestrate.folder import write_json
from raymdm.orchestrate.pool import run_blocks
from raymdm.training.step import diffusion_forward


class Calibrator:
    """Holds the model and turns a block of (sequence, rate) pairs into sums over K masks of l and l^2."""

    def __init__(self, recipe: str, data: str) -> None:
        """recipe: as JSON; data: prepared folder."""
        settings, folder = Recipe.model_validate_json(recipe), Path(data)
        self._settings = settings.calibrate
        self._device = torch.device("cuda" if self._settings.gpus_per_actor else "cpu")
        torch.set_num_threads(max(1, int(self._settings.cpus_per_actor)))
        tokenizer = loading.tokenizer(folder)
        self._ids = tokenizer.mask_token_id, tokenizer.pad_token_id
        self._denoiser = Denoiser(load_model(settings.model, tokenizer, "mdm"), shift=False).to(self._device).eval()
        self._split = loading.load_split(folder, "train")

    def __call__(self, pairs: pd.DataFrame) -> pd.DataFrame:
        """pairs: columns mask (one value), row (of the training split), t_index, t."""
        losses = self._losses(_method(pairs["mask"].iloc[0]), pairs)
        return pairs.assign(
            count=losses.shape[1], sum_loss=losses.sum(axis=1), sum_loss_sq=(losses * losses).sum(axis=1)
        )

    @torch.inference_mode()
    def _losses(self, method: MethodSpec, pairs: pd.DataFrame) -> np.ndarray:
        """(G, K) float64."""
        rows, draws = pairs["row"].to_numpy(), self._settings.masks
        sequences = [self._split.input_ids[i] for i in rows]
        batch = loading.collate(sequences, self._split.prompt_lengths[rows], self._ids[1])
        batch = type(batch)(*(part.repeat_interleave(draws, 0) for part in batch))
        # a draw is keyed by (rate, sequence, mask), so it is the same whatever batch or actor it falls to
        steps, draw = np.repeat(pairs["t_index"].to_numpy(), draws), np.tile(np.arange(draws), len(rows))
        length = batch.input_ids.shape[1]
        u = keys.uniforms(self._settings.seed, "calibrate", steps, np.repeat(rows, draws), length, draw)
        t = torch.from_numpy(pairs["t"].to_numpy()).repeat_interleave(draws)
        masks = draw_masks(method.mask, torch.from_numpy(u), t, batch.response_mask, method.mirrored)
        with precision(self._device):
            losses = diffusion_forward(self._denoiser, batch, masks, self._ids[0], self._device)
        return losses.double().cpu().numpy().reshape(len(rows), draws)


def calibrate(recipe: Recipe, masks: Sequence[str], data: Path, output: Path) -> dict[str, Path]:
    """Calibrate a density for each masking, all in one pass; returns mask name -> `density.json`.

    One folder a masking under `output`; a masking whose `density.json` is there is not measured again. The files do
    not depend on the number of actors, bit for bit. Raises UserError naming the example when a loss is not finite.
    """
    paths = {mask: output / mask / "density.json" for mask in masks}
    missing = [mask for mask in masks if not paths[mask].exists()]
    if missing:
        started = time.monotonic()
        pairs = pd.concat([_pairs(recipe, mask, data) for mask in missing], ignore_index=True)
        moments = _measure(recipe, pairs, data)
        _refuse_nonfinite(moments)
        seconds = time.monotonic() - started
        for mask in missing:
            _write(recipe, mask, moments[moments["mask"] == mask], seconds / len(missing), paths[mask])
    return paths


def _pairs(recipe: Recipe, mask: str, data: Path) -> pd.DataFrame:
    """The (sequence, rate) pairs of a masking, sequence by sequence."""
    settings, split = recipe.calibrate, loading.load_split(data, "train")
    size = min(settings.sequences, len(split.input_ids))
    chosen = keys.generator(settings.seed, "calibration-sequences").choice(len(split.input_ids), size, replace=False)
    t, _ = rate_grid(settings.grid, smallest_rate(_method(mask).mask))
    return pd.DataFrame(
        {
            "mask": mask,
            "row": np.repeat(chosen, len(t)),
            "example_id": np.repeat(split.example_ids[chosen], len(t)),
            "t_index": np.tile(np.arange(len(t)), size),
            "t": np.tile(t, size),
        }
    )


def _method(mask: str) -> MethodSpec:
    """A method with this masking; which one does not matter to the losses."""
    return next(method for method in METHODS.values() if method.family == "mdm" and method.mask_name == mask)


def _measure(recipe: Recipe, pairs: pd.DataFrame, data: Path) -> pd.DataFrame:
    """Sums of l and l^2 for every pair, in the order of `pairs`. A block is a batch, so actors change no batch."""
    settings = recipe.calibrate
    blocks = []
    for mask, group in pairs.groupby("mask", sort=False):
        size = max(1, settings.batch_size // (settings.masks * _method(str(mask)).views))
        blocks += [group.iloc[start : start + size] for start in range(0, len(group), size)]
    where = {"recipe": recipe.model_dump_json(), "data": str(data)}
    measured = run_blocks(
        blocks, Calibrator, where, settings.num_actors, settings.cpus_per_actor, settings.gpus_per_actor
    )
    return measured.sort_values(["mask", "row", "t_index"], kind="stable", ignore_index=True)


def _refuse_nonfinite(moments: pd.DataFrame) -> None:
    broken = moments[~np.isfinite(moments["sum_loss_sq"])]
    if len(broken):
        worst = broken.iloc[0]
        raise UserError(
            f"calibration: the loss of training example {worst['example_id']} at t = {worst['t']:.4f} is not finite "
            f"({len(broken)} of {len(moments)} measurements are not): look at this row and at the model's weights"
        )


def _write(recipe: Recipe, mask: str, moments: pd.DataFrame, seconds: float, path: Path) -> None:
    """Fit and write one masking's files; `density.json` last and at once, as it says that the folder is complete."""
    settings = recipe.calibrate
    shape = (-1, settings.grid)
    grid = GridMoments(*(moments[name].to_numpy().reshape(shape) for name in ("count", "sum_loss", "sum_loss_sq")))
    seed = keys.derive_seed(settings.seed, "epr", mask)
    eps = smallest_rate(_method(mask).mask)
    summary: dict[str, Any] = summarise(grid, eps, settings.starts, settings.uniform_mix, seed)
    rows = int(grid.count.sum()) * _method(mask).views
    summary |= {"mask": mask, "seconds": seconds, "rows": rows, "sequences": len(grid.count)}
    path.parent.mkdir(parents=True, exist_ok=True)
    moments.drop(columns=["mask", "row"]).to_parquet(path.parent / "moments.parquet", index=False)
    draw_density(Calibration.model_validate(summary), path.parent / "density.png")
    write_json(path, summary)
