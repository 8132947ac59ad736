"""Differences to the baseline and the sentences made from them, on numbers known by construction (see conftest)."""

from collections.abc import Callable
from pathlib import Path

import pytest

from raymdm.comparison.analysis import Comparison, analyse, headline, verdicts
from raymdm.comparison.notes import notes
from raymdm.comparison.results import load_sweep

MakeSweep = Callable[..., Path]


def analysed(folder: Path) -> Comparison:
    return analyse(load_sweep(folder))


def test_a_method_within_the_noise_is_said_not_to_help(make_sweep: MakeSweep) -> None:
    # 60, 64, 68 % against 58, 60, 62 %: the interval worked out in test_seed_statistics
    verdict = verdicts(analysed(make_sweep(["standard", "p_pots"])))["p_pots"]
    expected = "accuracy +4.0 points (95% interval -4.3 to +12.3): not distinguishable from standard with 3 seeds."
    assert verdict.startswith(expected)


def test_a_method_beyond_the_noise_is_said_to_be_better(make_sweep: MakeSweep) -> None:
    # 70, 72, 74 % against 58, 60, 62 %: 12 -+ 2.776 * sqrt(8/3) with 4 degrees of freedom
    verdict = verdicts(analysed(make_sweep(["standard", "p_pots_mirror"])))["p_pots_mirror"]
    assert "+12.0 points (95% interval +7.5 to +16.5): better than standard with 3 seeds" in verdict
    assert "its worst seed is better than the best seed of standard" in verdict


def test_a_worse_method_is_said_to_be_worse(make_sweep: MakeSweep) -> None:
    verdict = verdicts(analysed(make_sweep(["standard", "p_pots_mirror"], baseline="p_pots_mirror")))["standard"]
    assert "accuracy -12.0 points (95% interval -16.5 to -7.5): worse than p_pots_mirror" in verdict
    assert "Validation NLL +0.650 nats/token" in verdict


def test_a_mirrored_method_pays_for_its_two_rows(make_sweep: MakeSweep) -> None:
    # mean back-propagated variances 1.6 and 8.1, two views against one
    comparison = analysed(make_sweep(["standard", "p_pots_mirror"]))
    assert comparison.relative_variance["p_pots_mirror", "backprop_variance"] == pytest.approx(2 * 1.6 / 8.1)
    assert "It used 2.00 times the model rows of standard" in verdicts(comparison)["p_pots_mirror"]


def test_one_seed_claims_nothing(make_sweep: MakeSweep) -> None:
    folder = make_sweep(["standard", "p_pots_mirror"], [42])
    comparison = analysed(folder)
    verdict = verdicts(comparison)["p_pots_mirror"]
    assert "accuracy +12.0 points: no interval" in verdict
    assert "may be chance" in verdict
    assert "better" not in verdict
    assert "1 without an interval" in headline(comparison)
    assert any(note.startswith("One seed a method") for note in notes(load_sweep(folder), comparison))


def test_arm_is_compared_in_accuracy_alone(make_sweep: MakeSweep) -> None:
    comparison = analysed(make_sweep(["standard", "arm"]))
    assert set(comparison.differences) == {("arm", "accuracy")}
    assert not comparison.relative_variance


def test_arms_are_noted_only_where_there_are_some(make_sweep: MakeSweep) -> None:
    folder = make_sweep(["standard", "arm"])
    sweep = load_sweep(folder)
    assert any("its NLL is exact" in note for note in notes(sweep, analyse(sweep)))
    sweep = load_sweep(make_sweep(["standard", "p_pots"]))
    assert not any("its NLL is exact" in note for note in notes(sweep, analyse(sweep)))


@pytest.mark.parametrize("baseline", ["mirror", "p_pots"])
def test_without_its_baseline_nothing_is_compared_and_the_reason_given(
    make_sweep: MakeSweep, rewrite: Callable[..., None], baseline: str
) -> None:
    folder = make_sweep(["standard", "p_pots"], [42], baseline=baseline)
    rewrite(folder, "p_pots", 42, status="failed", error="lost")
    comparison = analysed(folder)
    assert not comparison.differences
    assert not verdicts(comparison)
    assert f"the baseline {baseline} (sweep.baseline) has no result" in headline(comparison)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_a_diverged_seed_is_not_dropped_from_a_mean(
    make_sweep: MakeSweep, rewrite: Callable[..., None], value: float | None
) -> None:
    folder = make_sweep(["standard", "p_pots"])
    rewrite(folder, "p_pots", 731, metrics={"val_nll": value})
    sweep = load_sweep(folder)
    comparison = analyse(sweep)
    assert comparison.summaries["p_pots", "val_nll"] is None
    assert ("p_pots", "val_nll") not in comparison.differences
    assert ("p_pots", "accuracy") in comparison.differences
    assert any(note.startswith("p_pots: Validation NLL is missing or not finite") for note in notes(sweep, comparison))


def test_a_failed_run_is_said_to_flatter(make_sweep: MakeSweep, rewrite: Callable[..., None]) -> None:
    folder = make_sweep(["standard", "p_pots"])
    rewrite(folder, "p_pots", 42, status="failed", error="lost")
    sweep = load_sweep(folder)
    comparison = analyse(sweep)
    assert "with 2 against 3 seeds" in verdicts(comparison)["p_pots"]
    assert notes(sweep, comparison)[0].startswith("1 of 6 runs have no result")
