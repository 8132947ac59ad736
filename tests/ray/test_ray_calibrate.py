"""The calibration does not depend on how it was spread out."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from raymdm.config.methods import METHODS
from raymdm.config.schema import Recipe
from raymdm.orchestrate.calibrate import calibrate, calibrations
from raymdm.orchestrate.connection import connected

MakeRecipe = Callable[..., Recipe]
WANTED = calibrations([METHODS["p_pots"], METHODS["fixed_size_p_pots_mirror"], METHODS["fixed_size_g_pots"]])
MASKS = list(WANTED)


@pytest.fixture(scope="module")
def folders(make_recipe: MakeRecipe, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Calibrations with one actor, with two, and in other batches."""
    settings = {
        "one": {},
        "two": {"calibrate__num_actors": 2, "calibrate__cpus_per_actor": 0.5},
        "batches": {"calibrate__batch_size": 17},
    }
    top = tmp_path_factory.mktemp("calibrations")
    with connected():
        for name, changes in settings.items():
            calibrate(make_recipe(calibrate__gradient_sequences=2, **changes), WANTED, tiny_data, top / name)
    return {name: top / name for name in settings}


def _moments(folder: Path, mask: str) -> pd.DataFrame:
    return pd.read_parquet(folder / mask / "moments.parquet")


def _without_time(folder: Path, mask: str) -> dict[str, object]:
    summary: dict[str, object] = json.loads((folder / mask / "density.json").read_text())
    del summary["seconds"]
    return summary


@pytest.mark.parametrize("mask", MASKS)
def test_two_actors_give_the_same_bits_as_one(folders: dict[str, Path], mask: str) -> None:
    pd.testing.assert_frame_equal(_moments(folders["one"], mask), _moments(folders["two"], mask), check_exact=True)
    assert _without_time(folders["one"], mask) == _without_time(folders["two"], mask)


@pytest.mark.parametrize("mask", MASKS)
def test_other_batches_give_the_same_numbers(folders: dict[str, Path], mask: str) -> None:
    one, other = _moments(folders["one"], mask), _moments(folders["batches"], mask)
    assert np.array_equal(one["example_id"], other["example_id"])
    assert one["sum_loss_sq"].to_numpy() == pytest.approx(other["sum_loss_sq"].to_numpy(), rel=1e-4)


@pytest.mark.parametrize("mask", MASKS)
def test_every_sequence_and_rate_has_its_masks(folders: dict[str, Path], mask: str) -> None:
    moments = _moments(folders["one"], mask)
    sequences, masks = (2, 1) if "gradient" in mask else (3, 2)
    assert len(moments) == sequences * 70
    assert (moments["count"] == masks).all()
    assert (moments["sum_loss_sq"] * masks >= moments["sum_loss"] ** 2 * (1 - 1e-12)).all()


def test_a_calibration_that_is_there_is_kept(
    folders: dict[str, Path], make_recipe: MakeRecipe, tiny_data: Path
) -> None:
    """No Ray runs here, so measuring again would fail."""
    before = (folders["one"] / "bernoulli" / "density.json").read_text()
    calibrate(
        make_recipe(calibrate__gradient_sequences=2), {"bernoulli": WANTED["bernoulli"]}, tiny_data, folders["one"]
    )
    assert (folders["one"] / "bernoulli" / "density.json").read_text() == before


def test_the_gradients_density_falls_with_the_rate(folders: dict[str, Path]) -> None:
    """A loss of few masked tokens has the largest gradient: 1/k of a sum of k."""
    summary = _without_time(folders["one"], "fixed_size_gradient")
    assert summary["target"] == "gradient"
    assert summary["fitted"][0] > summary["fitted"][-1]
