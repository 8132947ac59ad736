"""Sentences and caveats, from numbers known by construction."""

import pytest
from made_runs import made

from raymdm.comparison.analysis import analyse
from raymdm.comparison.document import Look, Report

STANDARD = [0.50, 0.51, 0.52, 0.53, 0.54]
HIGHER = [0.60, 0.61, 0.62, 0.63, 0.64]


def said(report: Report, label: str) -> str:
    return " ".join(report.verdicts[label])


def test_a_finding_is_tied_to_its_test() -> None:
    text = said(analyse(made({"standard": STANDARD, "mirror": HIGHER})), "mirror")
    # Welch with 8 degrees of freedom: 2.306 * 0.01 = 2.3 points
    expected = (
        "Accuracy +10.0 points (95% interval +7.7 to +12.3) against standard: better, its worst run better than the "
        "best of standard (5 against 5 seeds: p 0.0079)."
    )
    assert text.startswith(expected)


def test_what_the_seeds_cannot_support_is_not_said_to_be_better() -> None:
    report = analyse(made({"standard": STANDARD[:3], "mirror": HIGHER[:3]}))
    text = said(report, "mirror")
    assert "not supported by this many seeds (3 against 3 seeds: p 0.10; so many seeds reach 0.10 at best)" in text
    assert "better" not in text + report.headline
    assert report.headline == "Accuracy against standard – not supported by this many seeds: mirror."


def test_the_headline_names_methods_by_finding() -> None:
    runs = made({"standard": STANDARD, "mirror": HIGHER, "ema": STANDARD[::-1], "arm": HIGHER})
    assert analyse(runs).headline == "Accuracy against standard – better: mirror; not distinguishable: ema."


def test_the_headline_names_six_methods_of_a_finding() -> None:
    alike = {f"same {place}": STANDARD for place in range(9)}
    assert "same 4, same 5 and 3 more." in analyse(made({"standard": STANDARD} | alike)).headline


def test_claims_against_arms_with_one_finding_are_one_sentence() -> None:
    arms = {f"arm {name}": [value + 0.1 * place for value in STANDARD[:3]] for place, name in enumerate("abc")}
    found = analyse(made({"standard": STANDARD[:3], "mirror": HIGHER[:3]} | arms)).verdicts["mirror"]
    told = [text for text in found if text.startswith("Against")]
    # the only claim on mirror against standard joins 3 + 3 claims against ARMs
    best = "3 seeds each reach p 0.10 at best before Holm over 7 claims"
    assert told == [f"Against 3 ARMs, 3 claims: not supported by this many seeds ({best})."]
    assert found[0].startswith("Accuracy +10.0 points")


def test_better_than_several_arms_is_said_with_names() -> None:
    lower = {"arm a": [value - 0.2 for value in STANDARD], "arm b": [value - 0.3 for value in STANDARD]}
    text = said(analyse(made({"standard": STANDARD, "mirror": HIGHER} | lower)), "mirror")
    assert "Against 2 ARMs, 2 claims: better (arm a +30.0 points, arm b +40.0 points) (p at most" in text


def test_nll_at_equal_compute_is_told_where_rows_differ() -> None:
    rows = {"model_rows": {"standard": [100] * 5, "mirror": [200] * 5, "ema": [100] * 5}}
    equal = {"val_nll_equal_rows": {"standard": STANDARD, "mirror": HIGHER, "ema": HIGHER}}
    report = analyse(made({"standard": STANDARD, "mirror": HIGHER, "ema": STANDARD}, others=rows | equal))
    assert "Validation NLL at equal compute +0.100 nats/token" in said(report, "mirror")
    assert "equal compute" not in said(report, "ema")


def test_spread_that_does_not_differ_is_not_called_equivalent() -> None:
    text = said(analyse(made({"standard": STANDARD, "mirror": HIGHER})), "mirror")
    assert "1.0 times that of standard (0.32 to 3.1): not distinguishable (p 1.00); equivalence within a factor" in text
    assert "equivalence within a factor of 1.5 is not supported by this many seeds" in text


def test_many_seeds_show_equivalence() -> None:
    values = [0.5 + 0.001 * k for k in range(60)]
    text = said(analyse(made({"standard": values, "mirror": values[::-1]})), "mirror")
    assert "equivalent within a factor of 1.5" in text


def test_more_rows_are_said_to_be_more_compute() -> None:
    rows = {"model_rows": {"standard": [100] * 5, "mirror": [200] * 5}}
    text = said(analyse(made({"standard": STANDARD, "mirror": HIGHER}, others=rows)), "mirror")
    assert "It used 2.00 times the model rows of standard, so this is not equal compute." in text


def test_without_a_baseline_the_reason_is_the_headline() -> None:
    report = analyse(made({"mirror": HIGHER}, baseline=None, not_compared="No method is compared: why."))
    assert (report.headline, report.verdicts) == ("No method is compared: why.", {})


def test_one_seed_is_a_caveat() -> None:
    notes = analyse(made({"standard": [0.5], "mirror": [0.6]})).notes
    assert any(note.startswith("One seed a method") for note in notes)


def test_arms_whose_seeds_repeat_one_run_are_a_caveat() -> None:
    notes = analyse(made({"standard": STANDARD, "arm": [0.6] * 5})).notes
    assert any(note.startswith("arm: all seeds gave the same run") for note in notes)
    assert not any("gave the same run" in note for note in analyse(made({"standard": STANDARD, "arm": HIGHER})).notes)


def test_failed_runs_are_said_to_flatter() -> None:
    notes = analyse(made({"standard": STANDARD, "mirror": HIGHER}, failures={"mirror-s9": "lost"})).notes
    assert notes[0].startswith("1 run has no result.")


def test_looks_are_a_caveat() -> None:
    looks = [Look(runs={"standard": n, "mirror": n}, alpha=a) for n, a in ((3, 0.018), (5, 0.032))]
    notes = analyse(made({"standard": STANDARD, "mirror": HIGHER}, looks=looks)).notes
    assert any("with 2 looks at the results" in note and "(0.018, 0.032)" in note for note in notes)


@pytest.mark.parametrize("seeds", [2, 5])
def test_every_seed_alike_claims_nothing(seeds: int) -> None:
    report = analyse(made({"standard": [0.5] * seeds, "mirror": [0.6] * seeds}))
    assert "not tested (the seeds do not differ within either method)" in said(report, "mirror")


def test_an_interval_stays_within_the_values_a_metric_can_have() -> None:
    report = analyse(made({"standard": [0.8, 0.97, 0.99], "mirror": [0.02, 0.01, 0.2]}))
    bounds = [(level.mean.low, level.mean.high) for level in report.levels]
    assert bounds[0][1] == 1.0 and bounds[1][0] == 0.0
    assert bounds[0][0] is not None and bounds[0][0] < 0.8
    assert all(
        level.range is not None and level.range.high is not None and level.range.high <= 1 for level in report.levels
    )
