"""Which differences are claims, what is found of each, and what the seeds could have shown."""

from typing import Any

import numpy as np
import pytest
from made_runs import SEEDS, made
from scipy import stats

from raymdm.comparison.analysis import analyse
from raymdm.comparison.claims import differences, supported
from raymdm.comparison.document import Difference, Look
from raymdm.comparison.runs import Runs
from raymdm.comparison.samples import Pair, pairs
from raymdm.comparison.stats.sequential import spending

STANDARD = [0.50, 0.51, 0.52, 0.53, 0.54]
HIGHER = [0.60, 0.61, 0.62, 0.63, 0.64]


def accuracy(runs: Runs, *asked: tuple[str, str]) -> dict[tuple[str, str], Difference]:
    found = differences(runs, asked, 0.95)
    return {(d.label, d.reference): d for d in found if d.metric == "accuracy"}


def test_every_mdm_is_compared_to_the_baseline_and_to_each_arm() -> None:
    runs = made({"standard": STANDARD, "mirror": STANDARD, "arm (a)": STANDARD, "arm (b)": STANDARD})
    assert pairs(runs) == [
        Pair("mirror", "standard", "baseline"),
        Pair("standard", "arm (a)", "arm"),
        Pair("mirror", "arm (a)", "arm"),
        Pair("standard", "arm (b)", "arm"),
        Pair("mirror", "arm (b)", "arm"),
    ]


def test_an_arm_as_baseline_is_compared_to_once() -> None:
    runs = made({"arm": STANDARD, "mirror": HIGHER}, baseline="arm")
    assert pairs(runs) == [Pair("mirror", "arm", "baseline")]


def test_asked_pairs_join_once_in_either_order() -> None:
    runs = made({"standard": STANDARD, "mirror": HIGHER, "ema": STANDARD})
    asked = [("standard", "mirror"), ("mirror", "ema"), ("ema", "mirror"), ("accuracy",)]
    assert pairs(runs, asked)[2:] == [Pair("mirror", "ema", "asked")]
    assert accuracy(runs, ("mirror", "ema"))["mirror", "standard"].claims == 3


def test_without_a_baseline_nothing_is_claimed() -> None:
    assert not pairs(made({"standard": STANDARD, "mirror": HIGHER}, baseline=None))


def test_three_against_three_seeds_support_no_claim_however_large_the_difference() -> None:
    found = accuracy(made({"standard": STANDARD[:3], "mirror": [0.9, 0.91, 0.92]}))["mirror", "standard"]
    # 20 ways to split six runs, two of them as far apart: 2 / 20
    assert found.p == pytest.approx(0.1)
    assert found.finding == "not supported by this many seeds"
    assert found.power and found.power.smallest_p == pytest.approx(0.1)
    assert found.power.detectable is None


def test_five_against_five_seeds_support_one_claim() -> None:
    found = accuracy(made({"standard": STANDARD, "mirror": HIGHER}))["mirror", "standard"]
    assert (found.p, found.finding) == (pytest.approx(2 / 252), "better")
    assert found.difference.value == pytest.approx(0.1)
    assert (found.gap, found.gap_back) == (pytest.approx(0.06), pytest.approx(-0.14))


def test_a_worse_method_is_worse() -> None:
    assert accuracy(made({"standard": HIGHER, "mirror": STANDARD}))["mirror", "standard"].finding == "worse"


def test_lower_is_better_where_it_is() -> None:
    runs = made(
        {"standard": STANDARD, "mirror": STANDARD},
        others={"val_nll": {"standard": [2.0, 2.1, 2.2, 2.3, 2.4], "mirror": [1.0, 1.1, 1.2, 1.3, 1.4]}},
    )
    (found,) = [d for d in differences(runs, (), 0.95) if d.metric == "val_nll"]
    assert found.finding == "better" and found.gap == pytest.approx(0.6)


def test_within_the_noise_is_not_distinguishable() -> None:
    found = accuracy(made({"standard": STANDARD, "mirror": [0.505, 0.515, 0.52, 0.53, 0.54]}))["mirror", "standard"]
    assert found.finding == "not distinguishable"


def test_the_family_makes_a_claim_unsupported() -> None:
    # 2/70 suffices for one claim of four against four seeds, not for two of them
    near, far = [0.50, 0.53, 0.51, 0.52], [0.9, 0.91, 0.92, 0.93]
    alone = accuracy(made({"standard": STANDARD[:4], "mirror": far}))
    assert alone["mirror", "standard"].finding == "better"
    family = accuracy(made({"standard": STANDARD[:4], "mirror": far, "ema": near}))
    assert family["mirror", "standard"].p_holm == pytest.approx(4 / 70)
    assert family["mirror", "standard"].finding == "not supported by this many seeds"


def test_a_claim_is_supported_where_its_smallest_p_would_have_done() -> None:
    assert supported([0.5, 0.3], 0, smallest=0.024)
    assert not supported([0.5, 0.3], 0, smallest=0.026)
    # after the other is rejected first, this one's own p counts once
    assert supported([0.5, 0.001], 0, smallest=0.04)


def test_on_seeds_that_both_have() -> None:
    runs = made({"standard": STANDARD, "mirror": HIGHER[:3]}, seeds={"standard": [1, 2, 3, 4, 5], "mirror": [5, 3, 2]})
    found = accuracy(runs)["mirror", "standard"]
    # seeds 5, 3 and 2: 0.60, 0.61, 0.62 against 0.54, 0.52, 0.51
    assert (found.seeds, found.common) == ((3, 3), [5, 3, 2])
    assert found.difference.value == pytest.approx(0.61 - (0.54 + 0.52 + 0.51) / 3)
    assert found.why.startswith("3 against 3 seeds, on 3 seeds, those that both have: p ")


def test_seeds_chosen_apart_are_all_used() -> None:
    for first in (10, 4):  # none in common, and one
        seeds = {"standard": range(5), "mirror": range(first, first + 4)}
        found = accuracy(made({"standard": STANDARD, "mirror": HIGHER[:4]}, seeds=seeds))["mirror", "standard"]
        assert (found.seeds, found.common) == ((4, 5), [])


def test_examples_are_paired_and_widen_the_interval() -> None:
    rng = np.random.default_rng(1)
    easy = rng.random(200)
    scores = {label: (rng.random((5, 200)) < easy * level).astype(float) for label, level in
              (("standard", 0.8), ("mirror", 1.0))}  # fmt: skip
    found = accuracy(made(scores))["mirror", "standard"]
    ours, theirs = scores["mirror"], scores["standard"]
    assert found.p_examples == pytest.approx(stats.ttest_rel(ours.mean(0), theirs.mean(0)).pvalue)
    assert found.difference.how == "t, seeds and examples"
    assert found.welch is not None and found.welch.value == pytest.approx(found.difference.value)
    welch = stats.ttest_ind(ours.mean(1), theirs.mean(1), equal_var=False).confidence_interval()
    assert (found.welch.low, found.welch.high) == (pytest.approx(welch.low), pytest.approx(welch.high))


def test_one_seed_is_not_tested() -> None:
    found = accuracy(made({"standard": [0.5], "mirror": [0.9]}))["mirror", "standard"]
    assert (found.p, found.finding, found.power) == (None, "not tested", None)
    assert found.why == "a test needs two seeds or more, mirror has one"


@pytest.mark.parametrize("copies", [2, 5])
def test_an_arm_whose_seeds_repeat_one_run_counts_as_one_run(copies: int) -> None:
    values = [*STANDARD, 0.49, 0.55]
    found = accuracy(made({"standard": values, "arm": [0.6] * copies}))["standard", "arm"]
    # every sign alike, in 2 of 2^7 cases
    assert (found.seeds, found.p_permutation) == ((7, 1), pytest.approx(2 / 2**7))
    assert found.finding == "worse"
    assert (found.effect_size, found.welch, found.p_welch) == (None, None, None)
    assert found.p == pytest.approx(max(2 / 2**7, stats.ttest_1samp(values, 0.6).pvalue))
    assert found.why.startswith("7 seeds against the one run that arm repeats: p ")


def test_a_finding_never_stands_beside_an_interval_that_holds_zero() -> None:
    # the methods differ on 12 of 100 examples, more often in one's favour: plain over seeds, not over examples
    base = np.zeros((10, 100))
    base[:, :50] = 1
    base[::2, 50] = 1  # some spread over seeds
    better = base.copy()
    better[:, 90:98] = 1
    better[:, :4] = 0
    found = accuracy(made({"standard": base + 0.0, "mirror": better}))["mirror", "standard"]
    assert found.p_permutation is not None and found.p_permutation < 0.001
    assert found.difference.low is not None and found.difference.low < 0 < found.difference.value
    assert found.p == found.p_crossed and found.p is not None and found.p > 0.05
    assert found.finding == "not distinguishable"


def test_many_claims_can_be_findings_with_more_seeds_than_can_be_enumerated() -> None:
    # 11 against 11 seeds: random splits, whose smallest p must not stop 260 claims
    rng = np.random.default_rng(0)
    methods = {f"m{place}": 0.9 + rng.normal(0, 0.01, 11) for place in range(130)}
    same = {f"n{place}": 0.5 + rng.normal(0, 0.01, 11) for place in range(130)}
    runs = made({"standard": 0.5 + rng.normal(0, 0.01, 11), **methods, **same})
    assert sum(found.finding == "better" for found in accuracy(runs).values()) >= 130


def test_losses_with_and_without_masks_are_not_compared() -> None:
    nll = {"val_nll": {"standard": STANDARD, "arm": STANDARD}}
    found = differences(made({"standard": STANDARD, "arm": HIGHER}, others=nll), (), 0.95)
    assert {d.metric for d in found} == {"accuracy"}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e200])
def test_a_diverged_seed_is_not_dropped_from_a_comparison(value: float) -> None:
    nll = {"val_nll": {"standard": STANDARD, "mirror": [1.0, value, 1.0, 1.0, 1.0]}}
    runs = made({"standard": STANDARD, "mirror": HIGHER}, others=nll)
    assert {d.metric for d in differences(runs, (), 0.95)} == {"accuracy"}
    assert any(
        note.startswith("mirror on task: Validation NLL is missing or not finite") for note in analyse(runs).notes
    )


def test_a_run_that_did_not_report_a_metric_keeps_its_method_out() -> None:
    nll = {"val_nll": {"standard": STANDARD, "mirror": STANDARD[:4]}}
    runs = made({"standard": STANDARD, "mirror": HIGHER}, others=nll)
    assert {d.metric for d in differences(runs, (), 0.95)} == {"accuracy"}


def looked(counts: list[int | tuple[int, int]], alphas: list[float]) -> dict[str, Any]:
    """Looks at the first runs of standard and mirror."""
    looks = []
    for count, alpha in zip(counts, alphas, strict=True):
        both = count if isinstance(count, tuple) else (count, count)
        seeds = {label: list(SEEDS[:n]) for label, n in zip(("standard", "mirror"), both, strict=True)}
        looks.append(Look(runs=dict(zip(seeds, both, strict=True)), seeds=seeds, alpha=alpha))
    return {"adaptive": True, "looks": looks}


def test_a_look_counts_for_its_share_of_alpha_alone() -> None:
    alphas = spending(3, 5, 2, 0.05)
    runs = made({"standard": STANDARD, "mirror": HIGHER}, **looked([3, 5], alphas))
    found = accuracy(runs)["mirror", "standard"]
    # looks: 2/20 with 0.05 (3/5)^3 to spend, 2/252 with the rest
    assert alphas == pytest.approx([0.0108, 0.0392])
    assert found.p == pytest.approx(min(0.1 * 0.05 / 0.0108, 2 / 252 * 0.05 / 0.0392))
    assert found.finding == "better"


def test_an_early_finding_lasts() -> None:
    # decided at the first look; what came later would not have decided it
    first, late = [0.9, 0.91, 0.92, 0.93, 0.94], [0.2, 0.3]
    runs = made({"standard": [*STANDARD, 0.5, 0.5], "mirror": [*first, *late]}, **looked([5, 7], [0.04, 0.01]))
    assert accuracy(runs)["mirror", "standard"].finding == "better"


def test_a_look_that_pointed_the_other_way_decides_nothing() -> None:
    # better at the look that would have rejected, worse in the end
    runs = made(
        {"standard": [*STANDARD, 0.9, 0.9, 0.9], "mirror": [*HIGHER, 0.2, 0.2, 0.2]}, **looked([5, 8], [0.04, 0.01])
    )
    assert accuracy(runs)["mirror", "standard"].finding == "not distinguishable"


def test_before_the_first_look_nothing_is_tested() -> None:
    found = accuracy(made({"standard": STANDARD, "mirror": HIGHER}, adaptive=True))["mirror", "standard"]
    assert (found.finding, found.why) == ("not tested", "the sweep has not looked at its results yet")


def test_runs_after_the_last_look_do_not_count() -> None:
    runs = made({"standard": STANDARD, "mirror": HIGHER}, **looked([3], [0.0108]))
    found = accuracy(runs)["mirror", "standard"]
    assert found.p == pytest.approx(0.1 * 0.05 / 0.0108)


def test_asked_pairs_need_no_baseline() -> None:
    runs = made({"standard": STANDARD, "mirror": HIGHER}, baseline=None)
    assert pairs(runs, [("mirror", "standard")]) == [Pair("mirror", "standard", "asked")]


def test_intervals_of_an_adaptive_sweep_are_at_the_level_of_its_last_look() -> None:
    runs = made({"standard": STANDARD, "mirror": HIGHER}, **looked([3, 5], [0.018, 0.032]))
    report = analyse(runs)
    assert report.confidence == pytest.approx(0.968)
    (mean,) = [level.mean for level in report.levels if level.label == "mirror"]
    expected = stats.t.interval(0.968, 4, np.mean(HIGHER), stats.sem(HIGHER))
    assert (mean.low, mean.high) == (pytest.approx(expected[0]), pytest.approx(expected[1]))


def test_added_seeds_are_all_used_though_one_side_has_more() -> None:
    runs = made({"standard": STANDARD, "mirror": HIGHER[:4]}, **looked([(5, 4)], [0.05]))
    assert accuracy(runs)["mirror", "standard"].seeds == (4, 5)
