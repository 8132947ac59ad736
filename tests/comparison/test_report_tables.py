"""The tables of a report, cell by cell, and the terminal's."""

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from raymdm.comparison import claim_tables, level_tables
from raymdm.comparison.document import Cost, Estimate, Level, Look, Report
from raymdm.comparison.drawing import line_style
from raymdm.comparison.metrics import METRICS
from raymdm.comparison.runs import Runs
from raymdm.comparison.sections import main_metrics, sections
from raymdm.comparison.tables import NONE, Column, Table, build, p_cell, terminal
from raymdm.config.schema import METHODS

Sample = Callable[..., tuple[Report, Runs]]
ACCURACY, NLL = METRICS["accuracy"], METRICS["val_nll"]
HOSTILE = "[b]</td><script>x</script>"


@pytest.fixture(scope="module")
def one_task(sample: Sample) -> tuple[Report, Runs]:
    """standard, p_pots and arm on one task."""
    return sample({"standard": "standard", "p_pots": "p_pots"}, {"arm": "arm"}, ("gsm8k",))


def changed(report: Report, **changes: Any) -> Report:
    return report.model_copy(update=changes)


def printed(report: Report, runs: Runs, width: int = 100) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(terminal(report, runs))
    return console.export_text()


def level(label: str = "p_pots", **changes: Any) -> Level:
    """Accuracies of 0.60, 0.64 and 0.68."""
    estimates = {
        "mean": Estimate(value=0.64, low=0.54, high=0.74, how="t, seeds"),
        "median": Estimate(value=0.65, low=0.6, high=0.68, how="bootstrap"),
        "iqm": Estimate(value=0.64, low=0.61, high=0.67, how="bootstrap"),
        "sd": Estimate(value=0.04, low=0.0208, high=0.2514, how="chi-squared"),
        "range": Estimate(value=0.08, low=None, high=None, how="none"),
    }
    fields = {"task": "gsm8k", "label": label, "metric": "accuracy", "seeds": [1, 2, 3], "values": [0.6, 0.64, 0.68]}
    return Level.model_validate(fields | {"low": 0.6, "high": 0.68} | estimates | changes)


def test_a_column_that_holds_nothing_is_left_out() -> None:
    columns = [
        Column("Name", lambda row: row),
        Column("Empty", lambda _: NONE),
        Column("Some", lambda row: NONE if row == "a" else "1", words=True),
    ]
    assert build(columns, ["a", "b"]) == Table(["Name", "Some"], [["a", NONE], ["b", "1"]], (1,))


def test_a_papers_table_has_fewer_columns() -> None:
    columns = [Column("Name", lambda row: row), Column("Detail", lambda _: "1", brief=False)]
    assert build(columns, ["a"], brief=True).headers == ["Name"]


def test_a_level(one_task: tuple[Report, Runs]) -> None:
    table = level_tables.level_table(changed(one_task[0], levels=[level()]), ACCURACY)
    assert table.headers == ["Method", "Seeds", "Mean", "Median", "SD", "Smallest to\nlargest", "Range"]
    cells = [
        "64.0\n54.0 to 74.0",
        "65.0\n60.0 to 68.0",
        "4.0\n2.1 to 25.1",
        "60.0 to 68.0",
        "8.0",
    ]
    assert table.rows == [["p_pots", "3", *cells]]


def test_the_iqm_is_shown_from_four_seeds_on(one_task: tuple[Report, Runs]) -> None:
    four = level(seeds=[1, 2, 3, 4], values=[0.6, 0.64, 0.66, 0.68])
    assert "IQM" in level_tables.level_table(changed(one_task[0], levels=[level("standard"), four]), ACCURACY).headers


def test_the_baseline_is_marked_and_first(one_task: tuple[Report, Runs]) -> None:
    report, runs = one_task
    shown = changed(report, baseline="arm", levels=[row for row in report.levels if row.metric == "accuracy"])
    tables = [
        level_tables.level_table(shown, ACCURACY),
        level_tables.seeds_table(shown, runs, ACCURACY),
        level_tables.cost_table(shown),
    ]
    assert [[row[0] for row in table.rows] for table in tables] == [["arm (baseline)", "standard", "p_pots"]] * 3


def test_an_exact_nll_is_marked_beside_bounds(one_task: tuple[Report, Runs]) -> None:
    report, _ = one_task
    assert level_tables.level_table(report, NLL).rows[-1][0] == "arm (exact NLL)"


def test_a_preset_does_not_say_which_method_is_the_baseline(one_task: tuple[Report, Runs]) -> None:
    report, runs = one_task
    rows = level_tables.methods_table(changed(report, baseline="p_pots"), runs).rows
    assert rows[0] == ["standard", "t uniform, independent masks"]
    assert rows[1][0] == "p_pots (baseline)"


def test_cells_are_sorted_by_the_number_in_full(one_task: tuple[Report, Runs]) -> None:
    mean = Estimate(value=0.64004, low=None, high=None, how="")
    table = level_tables.level_table(changed(one_task[0], levels=[level(mean=mean)]), ACCURACY)
    assert getattr(table.rows[0][2], "sort", None) == 0.64004


def test_several_tasks_have_a_column(sample: Sample) -> None:
    report, _ = sample()
    table = level_tables.level_table(report, ACCURACY)
    assert table.headers[:2] == ["Method", "Task"]
    assert [row[1] for row in table.rows] == ["gsm8k"] * 6 + ["countdown"] * 6


def test_how_intervals_were_made_is_told_once(one_task: tuple[Report, Runs]) -> None:
    report, runs = one_task
    single = Estimate(value=0.7, low=None, high=None, how="one seed")
    levels = [level("standard"), level("p_pots"), level("arm", mean=single, sd=None, range=None)]
    shown = changed(report, levels=levels)
    notes = level_tables.level_notes(shown, runs, ACCURACY, level_tables.level_table(shown, ACCURACY))
    assert notes[0] == "Mean: t, seeds; one seed (1 row)."
    assert notes[1:4] == ["Median: bootstrap.", "SD: chi-squared.", "Range: none."]


def test_a_method_without_a_mean_is_named(one_task: tuple[Report, Runs]) -> None:
    report, runs = one_task
    shown = changed(report, levels=[level("standard"), level("arm")])
    notes = level_tables.level_notes(shown, runs, ACCURACY, level_tables.level_table(shown, ACCURACY))
    assert notes[-1] == "No mean of p_pots: see the notes below."


def test_every_run_has_a_cell(one_task: tuple[Report, Runs]) -> None:
    report, runs = one_task
    table = runs.table.copy()
    here = (table["metric"] == "accuracy") & (table["label"] == "p_pots")
    table.loc[here & (table["seed"] == 2), "value"] = float("nan")
    table = table[~(here & (table["seed"] == 3))]
    table.loc[here & (table["seed"] == 1), "value"] = 0.75
    shown = level_tables.seeds_table(report, replace(runs, table=table), ACCURACY)
    assert shown.headers == ["Method", "Seed 1", "Seed 2", "Seed 3"]
    assert shown.rows[1] == ["p_pots", "75.0", "not finite", NONE]


def test_many_seeds_are_a_list(sample: Sample) -> None:
    report, runs = sample({"standard": "standard"}, {}, ("gsm8k",), seeds=11)
    table = level_tables.seeds_table(report, runs, ACCURACY)
    assert table.headers == ["Method", "Seed: value"]
    assert table.rows[0][1].startswith("1: ")
    assert table.rows[0][1].count(", ") == 10


@pytest.mark.parametrize(("p", "text"), [(0.1, "0.10"), (0.0041, "0.0041"), (1.0, "1.00"), (None, NONE)])
def test_p_values(p: float | None, text: str) -> None:
    assert p_cell(p) == text


def test_a_difference(one_task: tuple[Report, Runs]) -> None:
    report, _ = one_task
    first = claim_tables.differences(report, ACCURACY, "standard")[0]
    welch = Estimate(value=0.04, low=-0.03, high=0.11, how="t")
    tested = {"p": 0.22, "p_permutation": 0.1, "p_welch": 0.22, "p_crossed": 0.18, "p_holm": 0.3, "p_examples": 0.03}
    row = first.model_copy(update=tested | {"welch": welch, "finding": "better"})
    table = claim_tables.difference_table(changed(report, differences=[row]), ACCURACY, "standard")
    heads = ["Seeds", "Difference", "g", "Largest\np", "p Holm", "p permu-\ntation", "p Welch", "p crossed"]
    assert table.headers[1:9] == heads
    cells = ["p_pots", "3 + 3", "+4.0\n+1.0 to +7.0", "+1.60\n+0.30 to +2.90", "0.22", "0.30", "0.10"]
    more = ["0.22\n-3.0 to +11.0", "0.18", "0.030", "0.78\n0.58 to 0.98", "-1.0", "better"]
    assert table.rows[0] == cells + more
    assert getattr(table.rows[0][-1], "note", "") == first.why.replace("p 0", "p\u00a00")


def test_welchs_interval_is_left_out_where_it_is_the_differences(one_task: tuple[Report, Runs]) -> None:
    report, _ = one_task
    first = claim_tables.differences(report, ACCURACY, "standard")[0]
    row = first.model_copy(update={"welch": first.difference, "p_welch": 0.22})
    table = claim_tables.difference_table(changed(report, differences=[row]), ACCURACY, "standard")
    assert table.rows[0][table.headers.index("p Welch")] == "0.22"


def test_a_difference_on_common_seeds_is_said_to_be_one(one_task: tuple[Report, Runs]) -> None:
    report, runs = one_task
    first = claim_tables.differences(report, ACCURACY, "standard")[0]
    row = first.model_copy(update={"seeds": (1, 1), "common": [42]})
    shown = changed(report, differences=[row])
    table = claim_tables.difference_table(shown, ACCURACY, "standard", brief=True)
    assert " ".join(table.rows[0][1].split()) == "1 + 1, seed 42 alone"
    assert any("not the difference of the means" in note for note in claim_tables.difference_notes([row]))
    text = printed(shown, runs)
    assert "+4.0 †" in text
    assert "† Of the runs whose seeds both methods have" in " ".join(text.split())


def test_an_estimated_p_is_marked(one_task: tuple[Report, Runs]) -> None:
    report, _ = one_task
    first = claim_tables.differences(report, ACCURACY, "standard")[0].model_copy(
        update={"p": 0.013, "p_permutation": 0.012, "exact": False}
    )
    table = claim_tables.difference_table(changed(report, differences=[first]), ACCURACY, "standard")
    assert table.rows[0][table.headers.index("p permu-\ntation")] == "~0.012"
    assert table.rows[0][table.headers.index("Largest\np")] == "0.013"
    assert claim_tables.difference_notes([first])[-1].startswith("~: estimated from random splits")


def test_an_effect_of_zero_has_no_sign(one_task: tuple[Report, Runs]) -> None:
    report, _ = one_task
    effect = Estimate(value=-0.001, low=-1.0, high=1.0, how="")
    first = claim_tables.differences(report, ACCURACY, "standard")[0].model_copy(update={"effect_size": effect})
    table = claim_tables.difference_table(changed(report, differences=[first]), ACCURACY, "standard")
    assert table.rows[0][table.headers.index("g")] == "0.00\n-1.00 to +1.00"


def test_a_spread(one_task: tuple[Report, Runs]) -> None:
    report, _ = one_task
    rows = claim_tables.spreads(report, ACCURACY, "standard")
    table = claim_tables.spread_table(changed(report, spreads=rows[:1]), ACCURACY, "standard")
    cells = [
        "p_pots",
        "0.71\n0.20 to 2.60",
        "0.41",
        "1.00",
        "0.30",
        "0.41",
        "0.10",
        "smaller",
        "0.38",
        "1.00",
        "equivalent",
        "54",
    ]
    assert table.rows == [cells]
    # 1 / 1.5
    assert claim_tables.spread_notes(rows)[0] == "Equivalent: a ratio between 0.67 and 1.50."


def test_what_all_rows_share_is_a_note(one_task: tuple[Report, Runs]) -> None:
    found = claim_tables.spread_table(one_task[0], ACCURACY, "standard")
    assert found.notes == ("Smallest p possible: 0.10 in every row.", "Seeds to show equivalence: 54 in every row.")
    assert "Seeds to show\nequivalence" not in found.headers


def test_holm_is_mentioned_only_where_something_is_tested(one_task: tuple[Report, Runs]) -> None:
    report, _ = one_task
    spreads = [row.model_copy(update={"p": None}) for row in claim_tables.spreads(report, ACCURACY, "standard")]
    rows = [row.model_copy(update={"p": None}) for row in claim_tables.differences(report, ACCURACY, "standard")]
    assert "Holm" not in " ".join([*claim_tables.spread_notes(spreads), *claim_tables.difference_notes(rows)])


def test_power(one_task: tuple[Report, Runs]) -> None:
    report, _ = one_task
    table = claim_tables.power_table(changed(report, differences=report.differences[:1]), ACCURACY)
    cells = ["p_pots", "standard", "3 + 3", "0.10", "0.0025", "2.1 and 1.8", "+4.0", "6.1", "12"]
    assert (table.rows[0], table.headers[4]) == (cells, "Alpha, first\nstep of Holm")


def test_a_difference_that_cannot_be_detected_is_none(one_task: tuple[Report, Runs]) -> None:
    report, runs = one_task
    rows = [
        row.model_copy(update={"power": row.power.model_copy(update={"detectable": None, "seeds_needed": None})})
        for row in report.differences
        if row.power
    ]
    shown = changed(report, differences=rows)
    assert claim_tables.power_table(shown, ACCURACY).rows[0][-2:] == ["none", "none"]
    leads = {section.name: section.lead for section in sections(shown, runs)}
    assert "With 3 + 3 seeds no difference whatever is detectable." in leads["power"]
    assert "no difference whatever" not in {s.name: s.lead for s in sections(report, runs)}["power"]


def test_costs(one_task: tuple[Report, Runs]) -> None:
    table = level_tables.cost_table(one_task[0])
    # p_pots is the second method: 107 s of training, 132 s in all, 120 rows measured
    cells = ["p_pots", "1", "6,400", "1.00", "120", "200", "160", "1 min 47 s", "20.0 s", "2 min 12 s", "4.20"]
    assert table.rows[1] == cells
    assert table.headers[3] == "Rows, times\nstandard"


def test_looks(one_task: tuple[Report, Runs]) -> None:
    looks = [Look(runs={"standard": 3, "arm": 3}, alpha=0.01), Look(runs={"standard": 5, "arm": 3}, alpha=0.04)]
    table = level_tables.looks_table(changed(one_task[0], looks=looks))
    assert table.rows == [
        ["1", "3 seeds of each method", "0.0100", "0.0100"],
        ["2", "standard 5, arm 3", "0.0400", "0.0500"],
    ]


def test_costs_that_nobody_knows_have_no_table(sample: Sample) -> None:
    report, runs = sample()
    unknown = dict.fromkeys(set(Cost.model_fields) - {"task", "label"})
    costs = [cost.model_copy(update=unknown) for cost in report.costs]
    levels = [row for row in report.levels if row.metric == "accuracy"]
    found = {section.name: section for section in sections(changed(report, costs=costs, levels=levels), runs)}
    assert found["cost"].blocks == []


def test_the_metric_of_the_claims_comes_first(one_task: tuple[Report, Runs]) -> None:
    report, runs = one_task
    shown = changed(report, metric="loss_variance")
    assert [metric.key for metric in main_metrics(shown, runs)] == ["loss_variance", "accuracy", "val_nll"]
    titles = [block.title for block in sections(shown, runs)[0].blocks if not block.folded]
    assert titles[0] == "Loss variance, (nats/token)²"


def test_the_terminal_table_fits_into_100_columns(sample: Sample) -> None:
    report, runs = sample()
    text = printed(report, runs)
    assert max(map(len, text.splitlines())) <= 100
    words = " ".join(text.split())
    assert "p_pots gsm8k 61.3 ± 2.5 +4.0 better 1.296 ± 0.011" in words
    assert "Without a result: standard-s9." in words


def test_the_terminal_without_a_comparison(one_task: tuple[Report, Runs]) -> None:
    report, runs = one_task
    text = printed(changed(report, baseline=None, differences=[], headline="No method is compared."), runs)
    assert "Finding" not in text
    assert "No method is compared." in text


def test_terminal_markup_from_data_is_text(sample: Sample) -> None:
    report, runs = sample({"standard": "standard", HOSTILE: "p_pots"}, {}, ("gsm8k",))
    text = printed(changed(report, name=HOSTILE, failures={HOSTILE: ""}), runs, width=250)
    assert text.count(HOSTILE) == 3


def test_no_two_methods_are_drawn_alike() -> None:
    labels = [*METHODS, *(f"standard (model {place})" for place in range(60))]
    assert len({line_style(label, labels, "standard")[:2] for label in labels}) == len(labels)


def test_seven_methods_beside_the_baseline_have_colours_of_their_own() -> None:
    labels = list(METHODS)[:8]
    colours = [line_style(label, labels, "mirror").colour for label in labels]
    assert len(set(colours)) == 8
    assert [label for label, colour in zip(labels, colours, strict=True) if colour == "#000000"] == ["mirror"]


def test_definitions_are_of_columns_that_are_shown(one_task: tuple[Report, Runs]) -> None:
    found = sections(*one_task)
    assert "IQM" not in found[0].lead and "IQM" not in found[0].brief_lead
    assert "p permutation" in found[1].lead and "p permutation" not in found[1].brief_lead
