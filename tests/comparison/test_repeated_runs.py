"""Runs of an ARM that differ by rounding alone are one run; runs that dropout or an order of their own tells apart are
several."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from raymdm.comparison.analysis import analyse
from raymdm.comparison.metrics import METRICS
from raymdm.comparison.reading import runs_of_sweeps
from raymdm.comparison.runs import Runs
from raymdm.comparison.samples import Pair, repeat_one_run, samples
from raymdm.errors import UserError

MakeSweep = Callable[..., Path]
NOISY = (30, 31, 33)
"""Right answers, of 50, of three seeds of an ARM on a GPU."""


@pytest.fixture
def noisy(make_sweep: MakeSweep, rescore: Callable[..., None]) -> Path:
    """`standard` and `arm`; the ARM's seeds differ a little."""
    folder = make_sweep(["standard", "arm"])
    for seed, correct in zip((42, 731, 20231), NOISY, strict=True):
        rescore(folder, "arm", seed, correct)
        path = folder / "trials" / f"arm-s{seed}" / "result.json"
        result = json.loads(path.read_text())
        result["metrics"].pop("accuracy", None)
        path.write_text(json.dumps(result))
    return folder


def set_train(folder: Path, **fields: Any) -> None:
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["train"] |= fields
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))


def keep_config(folder: Path, **fields: Any) -> None:
    """What the runs' saved models say of themselves."""
    for seed in (42, 731, 20231):
        model = folder / "trials" / f"arm-s{seed}" / "model"
        model.mkdir()
        (model / "config.json").write_text(json.dumps({"model_type": "any"} | fields))


def read(folder: Path) -> Runs:
    return runs_of_sweeps([folder], baseline=None, metric=METRICS["accuracy"])


def test_noise_is_not_a_spread_over_seeds(noisy: Path) -> None:
    runs = read(noisy)
    assert repeat_one_run(runs, "gsm8k", "arm", "accuracy")
    assert not repeat_one_run(runs, "gsm8k", "standard", "accuracy")


def test_such_runs_stand_for_their_mean(noisy: Path) -> None:
    ((_, theirs),) = samples(read(noisy), "gsm8k", Pair("standard", "arm", "arm"), "accuracy")
    assert theirs.repeats
    assert theirs.values == pytest.approx([np.mean(NOISY) / 50] * 3)
    assert theirs.scores is not None and np.ptp(theirs.scores, axis=0).max() == 0
    assert theirs.scores.mean(1) == pytest.approx(theirs.values)


def test_the_report_counts_them_as_one_run(noisy: Path) -> None:
    report = analyse(read(noisy))
    (claim,) = [found for found in report.differences if (found.reference, found.metric) == ("arm", "accuracy")]
    (spread,) = [found for found in report.spreads if found.reference == "arm"]
    assert claim.seeds == (3, 1)
    assert "3 seeds against the one run that arm repeats" in claim.why
    assert (spread.finding, spread.why) == ("not tested", "the seeds of arm do not differ")
    assert any(note.startswith("arm: all seeds gave the same run, rounding aside.") for note in report.notes)


def test_seeds_with_an_order_of_their_own_are_several_runs(noisy: Path) -> None:
    set_train(noisy, order_seed="run")
    report = analyse(read(noisy))
    (claim,) = [found for found in report.differences if (found.reference, found.metric) == ("arm", "accuracy")]
    assert claim.seeds == (3, 3)
    assert not any("gave the same run" in note for note in report.notes)
    assert any("train.order_seed: run the order of the rows" in note for note in report.notes)


@pytest.mark.parametrize(
    ("fields", "repeats"),
    [
        ({"attention_dropout": 0.0, "summary_first_dropout": 0.1, "classifier_dropout": 0.1}, True),
        ({"resid_pdrop": 0.1}, False),
        ({"attention_dropout": 0.1}, False),
        ({"hidden_dropout_prob": 0.1}, False),
        ({"dropout": 0.1}, False),
    ],
)
def test_a_model_s_own_dropout_tells_its_runs_apart(noisy: Path, fields: dict[str, float], repeats: bool) -> None:
    keep_config(noisy, **fields)
    assert repeat_one_run(read(noisy), "gsm8k", "arm", "accuracy") is repeats


def test_a_broken_config_is_named(noisy: Path) -> None:
    keep_config(noisy)
    broken = noisy / "trials" / "arm-s42" / "model" / "config.json"
    broken.write_text("{")
    with pytest.raises(UserError, match=str(broken)):
        repeat_one_run(read(noisy), "gsm8k", "arm", "accuracy")
