"""Answers to `--assert` and `stop_when`."""

import pytest
from made_runs import made

from raymdm.comparison.analysis import analyse
from raymdm.comparison.answers import answers
from raymdm.comparison.document import Report
from raymdm.config.criteria import parse
from raymdm.errors import UserError

# of 5 seeds: mirror is better than standard beyond doubt, ema is as standard
RUNS = made(
    {
        "standard": [0.50, 0.51, 0.52, 0.53, 0.54],
        "mirror": [0.70, 0.71, 0.72, 0.73, 0.74],
        "ema": [0.505, 0.515, 0.52, 0.525, 0.54],
        "arm (a b)": [0.60, 0.61, 0.62, 0.63, 0.64],
    }
)


@pytest.fixture(scope="module")
def report() -> Report:
    return analyse(RUNS, [("ema", "mirror")])


@pytest.mark.parametrize(
    ("question", "holds"),
    [
        ("decided(mirror, standard)", True),
        ("decided(standard, mirror)", True),
        ("better(mirror, standard)", True),
        ("better(standard, mirror)", False),
        ("decided(ema, standard)", False),
        ("dominates(mirror, standard)", True),
        ("dominates(standard, mirror)", False),
        ("better(mirror, ema)", True),
        ("dominates(ema, mirror)", False),
        ("better(mirror, 'arm (a b)')", True),
        ("equivalent_spread(mirror, standard)", False),
        ("not decided(ema, standard) and better(mirror, standard)", True),
        # t with 4 degrees of freedom: 2.776 * 0.01581 / sqrt(5) = 1.963 points
        ("halfwidth(accuracy) <= 1.97", True),
        ("halfwidth(accuracy, standard) <= 1.96", False),
    ],
)
def test_what_holds(report: Report, question: str, holds: bool) -> None:
    found, reasons = answers(report, parse(question))
    assert found == holds
    assert len(reasons) == len(parse(question).atoms)


def test_the_reason_names_the_numbers(report: Report) -> None:
    _, (reason,) = answers(report, parse("better(mirror, standard)"))
    assert reason.startswith(
        "better(mirror, standard): yes: task: mirror to standard: better (5 against 5 seeds: p 0.00"
    )


def test_dominance_is_told_with_its_gap(report: Report) -> None:
    # mirror's worst 70, standard's best 54; the other way round 50 and 74
    for question, gap in (("dominates(mirror, standard)", "+16.0"), ("dominates(standard, mirror)", "-24.0")):
        _, (reason,) = answers(report, parse(question))
        assert reason.endswith(f", worst run to best {gap}")


def test_one_seed_dominates_nothing() -> None:
    found, _ = answers(analyse(made({"standard": [0.5], "mirror": [0.6]})), parse("dominates(mirror, standard)"))
    assert not found


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("decided(mirror, strats)", "no method 'strats' in the results. Known: standard, mirror, ema, arm"),
        ("halfwidth(val_nll) <= 1", "no run has the metric 'val_nll'. Known: accuracy"),
    ],
)
def test_what_is_not_there(report: Report, question: str, said: str) -> None:
    with pytest.raises(UserError, match=r"Known") as error:
        answers(report, parse(question))
    assert said in str(error.value)


def test_one_seed_has_no_half_width() -> None:
    report = analyse(made({"standard": [0.5], "mirror": [0.6]}))
    found, (reason,) = answers(report, parse("halfwidth(accuracy) <= 50"))
    assert not found and "no interval: one seed" in reason
