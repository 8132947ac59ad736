"""Long tables as runs: what is read, what is made of it, and what is said of a broken one."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from raymdm.comparison.longform import runs_of_frames, runs_of_table
from raymdm.comparison.metrics import METRICS, parse_metric
from raymdm.comparison.runs import COLUMNS, Runs
from raymdm.errors import UserError

HEAD = "task,model,method,seed,metric,value"
SCORE_HEAD = "task,model,method,seed,example_id,score"
ACCURACY = METRICS["accuracy"]
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def make(rows: Iterable[str], name: str = "table.csv", head: str = HEAD) -> Path:
        path = tmp_path / name
        path.write_text("\n".join([head, *rows]) + "\n")
        return path

    return make


@pytest.fixture
def write_scores(write: Write) -> Write:
    return lambda rows: write(rows, "scores.csv", SCORE_HEAD)


def read(path: Path, scores: Path | None = None, **named: object) -> Runs:
    options = {"baseline": None, "metric": ACCURACY, "percent": False} | named
    return runs_of_table(path, scores, **options)  # type: ignore[arg-type]


TWO = [
    "sums,tiny,standard,2,accuracy,0.5",
    "sums,tiny,standard,1,accuracy,0.25",
    "sums,tiny,mirror,1,accuracy,0.75",
    "sums,tiny,mirror,2,accuracy,1",
]


def score_rows(**correct: list[int]) -> list[str]:
    """Rows of four examples, in descending order; `mirror_1=[1, 0, 1, 1]` are examples 0 to 3."""
    rows = []
    for name, scores in correct.items():
        method, _, seed = name.rpartition("_")
        rows += [f"sums,tiny,{method},{seed},{example},{scores[example]}" for example in reversed(range(4))]
    return rows


SCORED = score_rows(standard_1=[1, 0, 0, 0], standard_2=[1, 1, 0, 0], mirror_2=[1, 1, 1, 1], mirror_1=[0, 1, 1, 1])


def test_a_table_is_read_as_it_is(write: Write) -> None:
    runs = read(write(TWO))
    assert runs.name == "table"
    assert list(runs.table) == COLUMNS
    assert runs.labels == ["standard", "mirror"]
    assert runs.families == {"standard": "mdm", "mirror": "mdm"}
    assert runs.values("sums", "standard", "accuracy") == {2: 0.5, 1: 0.25}
    assert runs.baseline == "standard"
    assert runs.notes == []
    assert runs.scores == {}


def test_seeds_are_in_the_tables_first_order(write: Write) -> None:
    assert list(read(write(TWO)).values("sums", "mirror", "accuracy").items()) == [(2, 1.0), (1, 0.75)]


def test_parquet_is_read_like_csv(write: Write, write_scores: Write, tmp_path: Path) -> None:
    results, scores = write(TWO), write_scores(SCORED)
    for path in (results, scores):
        pd.read_csv(path).to_parquet(path.with_suffix(".parquet"))
    runs = read(results, scores)
    other = read(tmp_path / "table.parquet", tmp_path / "scores.parquet")
    pd.testing.assert_frame_equal(runs.table, other.table)
    assert runs.scores.keys() == other.scores.keys()
    for key, found in runs.scores.items():
        assert found.seeds == other.scores[key].seeds
        assert np.array_equal(found.values, other.scores[key].values)


def test_known_methods_have_their_parts(write: Write) -> None:
    runs = read(write([*TWO, "sums,tiny,own,1,accuracy,0.5", "sums,tiny,arm,1,accuracy,0.5"]))
    assert runs.specs["mirror"].views == 2
    assert "own" not in runs.specs
    assert runs.families["arm"] == "arm"
    assert runs.arms == ["arm"]


def test_a_method_of_several_models_is_labelled_with_them(write: Write) -> None:
    runs = read(write([*TWO, "sums,A,arm,1,accuracy,0.5", "sums,B,arm,1,accuracy,0.5"]))
    assert runs.labels == ["standard", "mirror", "arm (A)", "arm (B)"]


def test_a_baseline_of_several_models_must_be_chosen(write: Write) -> None:
    path = write([*TWO, "sums,big,standard,1,accuracy,0.5"])
    with pytest.raises(UserError, match=r"several models.*standard \(tiny\), standard \(big\)"):
        read(path)
    assert read(path, baseline="standard (big)").baseline == "standard (big)"


def test_other_models_on_another_task_are_noted(write: Write) -> None:
    rows = ["sums,A,standard,1,accuracy,0.5", "words,B,standard,1,accuracy,0.5", "words,B,ema,1,accuracy,0.5"]
    runs = read(write(rows))
    assert runs.labels == ["standard", "ema"]
    assert "standard trained different models: A on sums, B on words." in runs.notes


def test_a_task_without_the_baseline_is_noted(write: Write) -> None:
    assert read(write([*TWO, "words,tiny,mirror,1,accuracy,0.5"])).notes == [
        "words: no run of the baseline standard, so no difference to it is tested there."
    ]


def test_missing_seeds_are_noted(write: Write) -> None:
    assert read(write(TWO[:3])).notes == [
        "mirror lacks seed 2, which others have: it is compared on the seeds that both have, on all where they share "
        "none."
    ]


def test_without_a_standard_the_baseline_must_be_named(write: Write) -> None:
    path = write([row.replace("standard", "ema") for row in TWO])
    with pytest.raises(UserError, match=r"--baseline NAME, one of: ema, mirror"):
        read(path)
    assert read(path, baseline="ema").baseline == "ema"


def test_an_unknown_baseline_is_refused_with_the_near_one(write: Write) -> None:
    with pytest.raises(UserError, match=r"'miror' has a result. Did you mean 'mirror'\? Name one of: standard, mirror"):
        read(write(TWO), baseline="miror")


def test_one_method_is_not_compared(write: Write) -> None:
    runs = read(write(TWO[2:]))
    assert runs.baseline is None
    assert runs.not_compared == "No method is compared: only mirror has a result."


def test_the_metric_of_the_claims_must_be_there(write: Write) -> None:
    with pytest.raises(UserError, match=r"no run has the metric 'val_nll'. There are: accuracy"):
        read(write(TWO), metric=METRICS["val_nll"])


def test_runs_without_the_metric_are_left_out_with_a_note(write: Write) -> None:
    rows = [*TWO, "sums,tiny,ema,1,steps,9", "sums,tiny,mirror,1,steps,8", "pictures,P,standard,1,steps,7"]
    runs = read(write(rows))
    assert runs.tasks == ["sums"]
    assert runs.values("sums", "mirror", "steps") == {1: 8.0}
    assert runs.notes == ["Left out, because there is no accuracy: task pictures, ema-s1 (tiny) on sums."]


def test_an_unknown_metric_can_be_the_one_of_the_claims(write: Write) -> None:
    rows = ["t,m,standard,1,clip_score,28.61", "t,m,mirror,1,clip_score,34.88", "t,m,mirror,1,other,1"]
    runs = read(write(rows), metric=parse_metric("clip_score:higher"))
    assert list(runs.metrics) == ["clip_score"]
    assert runs.values("t", "mirror", "clip_score") == {1: 34.88}


# Broken tables


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.csv: no such file; name a CSV or Parquet file with the columns task"):
        read(tmp_path / "none.csv")


def test_another_suffix(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").touch()
    with pytest.raises(UserError, match=r"ends in \.csv or \.parquet"):
        read(tmp_path / "a.xlsx")


def test_missing_columns_are_named(write: Write) -> None:
    with pytest.raises(UserError, match=r"no column seed, value\. Expected task.*the file has task, model"):
        read(write(["a,b,c,d"], head="task,model,method,metric"))


def test_a_column_twice(write: Write) -> None:
    with pytest.raises(UserError, match="column value comes twice"):
        read(write(["a,b,c,1,accuracy,1,1"], head=f"{HEAD},value"))


def test_other_columns_are_noted(write: Write) -> None:
    runs = read(write([f"{row},x" for row in TWO], head=f"{HEAD},host"))
    assert runs.notes[0].endswith("table.csv: not read: host.")


@pytest.mark.parametrize(("text", "expected"), [("", "the file is empty"), (f"{HEAD}\n", "no rows below the header")])
def test_an_empty_file(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(UserError, match=expected):
        read(tmp_path / "table.csv")


@pytest.mark.parametrize("content", [b"\xff\xfe,b\n", b"task,model,method,seed,metric,value\n\xff,b,c,1,accuracy,1\n"])
def test_text_that_is_not_utf8(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "table.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"table\.csv: not "):
        read(tmp_path / "table.csv")


def test_text_that_is_not_utf8_far_down(write: Write) -> None:
    path = write(f"sums,tiny,standard,{seed},accuracy,0.5" for seed in range(9000))
    path.write_bytes(path.read_bytes() + b"\xff,tiny,standard,9000,accuracy,0.5\n")
    with pytest.raises(UserError, match=r"table\.csv: not a CSV file in UTF-8: .*9002"):
        read(path)


def test_a_file_that_is_no_parquet(tmp_path: Path) -> None:
    (tmp_path / "table.parquet").write_text(HEAD)
    with pytest.raises(UserError, match="not a Parquet file"):
        read(tmp_path / "table.parquet")


def test_a_row_of_another_length(write: Write) -> None:
    with pytest.raises(UserError, match=r"table\.csv, line 3: another number of fields"):
        read(write([TWO[0], "sums,tiny", *TWO[1:]]))


def test_a_seed_that_is_not_whole(write: Write) -> None:
    with pytest.raises(UserError, match=r"line 3: seed must be a whole number, not '1\.5'"):
        read(write([TWO[0], TWO[1].replace(",1,", ",1.5,")]))


@pytest.mark.parametrize(("field", "name"), [("seed", "a whole number"), ("value", "a number")])
def test_text_in_place_of_a_number(write: Write, field: str, name: str) -> None:
    row = TWO[1].replace(",1,", ",one,") if field == "seed" else TWO[1].replace("0.25", "one")
    with pytest.raises(UserError, match=rf"line 3: {field} must be {name}, not 'one'"):
        read(write([TWO[0], row]))


def test_text_in_a_column_of_parquet(write: Write, tmp_path: Path) -> None:
    pd.read_csv(write(TWO)).astype({"value": str}).to_parquet(tmp_path / "table.parquet")
    with pytest.raises(UserError, match="column value must hold numbers, not "):
        read(tmp_path / "table.parquet")


def test_numbers_for_the_names_of_methods_in_parquet(write: Write, tmp_path: Path) -> None:
    pd.read_csv(write(TWO)).assign(method=7).to_parquet(tmp_path / "table.parquet")
    with pytest.raises(UserError, match="column method must hold text, not int64"):
        read(tmp_path / "table.parquet")


@pytest.mark.parametrize(("field", "place"), [("task", 0), ("method", 2), ("seed", 3), ("metric", 4)])
def test_an_empty_name(write: Write, field: str, place: int) -> None:
    fields = TWO[1].split(",")
    fields[place] = ""
    with pytest.raises(UserError, match=rf"line 3: .*{field}.*empty"):
        read(write([TWO[0], ",".join(fields)]))


@pytest.mark.parametrize("value", ["", "nan", "NaN"])
def test_an_empty_value_asks_what_is_meant(write: Write, value: str) -> None:
    with pytest.raises(UserError, match=r"line 3: the value is empty.*Remove the row.*counts as missing; or write"):
        read(write([TWO[0], TWO[1].replace("0.25", value), *TWO[2:]]))


@pytest.mark.parametrize("value", ["inf", "-inf"])
def test_an_infinite_value(write: Write, value: str) -> None:
    with pytest.raises(UserError, match="line 3: the value is infinite"):
        read(write([TWO[0], f"sums,tiny,standard,1,val_nll,{value}"]))


def test_duplicates_name_both_rows(write: Write) -> None:
    with pytest.raises(UserError, match=r"lines 2, 6: a metric of a run comes twice"):
        read(write([*TWO, TWO[0].replace("0.5", "0.6")]))


def test_only_the_first_rows_are_named(write: Write) -> None:
    rows = [f"sums,tiny,standard,{seed},accuracy,58" for seed in range(9)]
    with pytest.raises(UserError, match=r"lines 2, 3, 4, 5, 6 and 4 more: accuracy must be between 0 and 1"):
        read(write(rows))


def test_lines_are_counted_with_blank_ones_and_quoted_breaks(write: Write) -> None:
    rows = [TWO[0], "", '"two\nlines",tiny,standard,1,accuracy,0.5', TWO[2].replace("0.75", "")]
    with pytest.raises(UserError, match=r"line 6: the value is empty"):
        read(write(rows))


def test_rows_of_parquet_count_from_one(write: Write, tmp_path: Path) -> None:
    pd.read_csv(write([TWO[0], TWO[1].replace("0.25", "")])).to_parquet(tmp_path / "table.parquet")
    with pytest.raises(UserError, match=r"table\.parquet, row 2: the value is empty"):
        read(tmp_path / "table.parquet")


# Percent


def test_accuracy_in_percent_needs_a_word(write: Write) -> None:
    rows = ["sums,tiny,standard,1,accuracy,52.96", "sums,tiny,standard,1,steps,200"]
    with pytest.raises(UserError, match=r"line 2: accuracy must be between 0 and 1, not 52\.96.*--percent"):
        read(write(rows))
    runs = read(write(rows), percent=True)
    assert runs.values("sums", "standard", "accuracy") == pytest.approx({1: 0.5296})
    assert runs.values("sums", "standard", "steps") == {1: 200.0}
    assert "Accuracy was given in percent and is divided by 100." in runs.notes


@pytest.mark.parametrize("value", ["100.1", "-1"])
def test_more_than_all_percent(write: Write, value: str) -> None:
    with pytest.raises(UserError, match="accuracy must be between 0 and 100"):
        read(write([f"sums,tiny,standard,1,accuracy,{value}"]), percent=True)


def test_percent_of_no_accuracy(write: Write) -> None:
    with pytest.raises(UserError, match="Leave --percent out"):
        read(write(["sums,tiny,standard,1,steps,3"]), percent=True, metric=METRICS["steps"])


# Frames


def test_frames_may_hold_a_run_that_diverged() -> None:
    rows = [("t", "m", "standard", 1, "val_nll", np.nan), ("t", "m", "ema", 1, "val_nll", np.inf)]
    frame = pd.DataFrame(rows, columns=HEAD.split(","))
    runs = runs_of_frames(frame, None, name="store", baseline=None, metric=METRICS["val_nll"])
    assert runs.name == "store"
    assert np.isnan(runs.values("t", "standard", "val_nll")[1])
    assert runs.values("t", "ema", "val_nll") == {1: np.inf}


def test_frames_are_checked_like_files() -> None:
    frame = pd.DataFrame([("t", "m", "standard", 1, "accuracy", 58.0)], columns=HEAD.split(","))
    with pytest.raises(UserError, match="the results of store: accuracy must be between 0 and 1, not 58"):
        runs_of_frames(frame, None, name="store", baseline=None, metric=ACCURACY)
