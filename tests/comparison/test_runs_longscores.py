"""Scores beside a long table: their order, what is made of them, and what is said where they do not fit."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from raymdm.comparison.longform import runs_of_frames, runs_of_table
from raymdm.comparison.metrics import METRICS, parse_metric
from raymdm.comparison.runs import Runs
from raymdm.errors import UserError

RUN = "task,model,method,seed"
RESULTS = [
    "sums,tiny,standard,2,accuracy,0.5",
    "sums,tiny,standard,1,accuracy,0.25",
    "sums,tiny,mirror,1,accuracy,0.75",
    "sums,tiny,mirror,2,accuracy,1",
]
CORRECT = {
    "standard,1": [1, 0, 0, 0],
    "standard,2": [1, 1, 0, 0],
    "mirror,2": [1, 1, 1, 1],
    "mirror,1": [0, 1, 1, 1],
}
Read = Callable[..., Runs]


def score_rows(correct: dict[str, list[int]], ids: Iterable[object] = range(4), task: str = "sums") -> list[str]:
    """Rows in descending order of the example; by `method,seed`."""
    return [
        f"{task},tiny,{run},{example},{score}"
        for run, scores in correct.items()
        for example, score in reversed(list(zip(ids, scores, strict=True)))
    ]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Reads rows of results and of scores."""

    def make(results: list[str], scores: list[str]) -> Runs:
        paths = tmp_path / "results.csv", tmp_path / "scores.csv"
        heads = f"{RUN},metric,value", f"{RUN},example_id,score"
        for path, head, rows in zip(paths, heads, (results, scores), strict=True):
            path.write_text("\n".join([head, *rows]) + "\n")
        return runs_of_table(*paths, baseline=None, metric=METRICS["accuracy"])

    return make


def test_scores_are_seeds_by_examples(read: Read) -> None:
    found = read(RESULTS, score_rows(CORRECT)).scores["sums", "mirror"]
    assert found.seeds == [2, 1]  # as the table has them
    assert found.values.tolist() == [[1, 1, 1, 1], [0, 1, 1, 1]]


def test_examples_are_in_numeric_order(read: Read) -> None:
    found = read(RESULTS, score_rows(CORRECT, [2, 9, 10, 100])).scores["sums", "standard"]
    assert found.values.tolist() == [[1, 1, 0, 0], [1, 0, 0, 0]]


def test_examples_may_have_names(read: Read) -> None:
    found = read(RESULTS, score_rows(CORRECT, ["b", "a", "d", "c"])).scores["sums", "standard"]
    assert found.values.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0]]


def test_accuracy_that_is_not_given_is_the_mean_of_the_scores(read: Read) -> None:
    results = [row.replace("accuracy", "steps") for row in RESULTS]
    assert read(results, score_rows(CORRECT)).values("sums", "mirror", "accuracy") == {2: 1.0, 1: 0.75}


def test_accuracy_that_its_scores_deny(read: Read) -> None:
    results = [*RESULTS[:3], RESULTS[3].replace(",1", ",0.99")]
    with pytest.raises(UserError, match=r"not the mean of the scores: mirror-s2 \(tiny\) \(0\.99, scores 1\)"):
        read(results, score_rows(CORRECT))


def test_accuracy_may_be_rounded_to_a_millionth(read: Read) -> None:
    results = ["sums,tiny,standard,1,accuracy,0.3333333"]
    assert read(results, score_rows({"standard,1": [1, 0, 0]}, range(3))).scores["sums", "standard"].seeds == [1]
    with pytest.raises(UserError, match="not the mean of the scores"):
        read(["sums,tiny,standard,1,accuracy,0.33333"], score_rows({"standard,1": [1, 0, 0]}, range(3)))


def test_scores_of_a_run_without_results(read: Read) -> None:
    with pytest.raises(UserError, match=r"scores of ema-s1 \(tiny\), of which .*results\.csv has no result"):
        read(RESULTS, score_rows(CORRECT | {"ema,1": [0, 0, 0, 0]}))


def test_results_of_a_run_without_scores(read: Read) -> None:
    with pytest.raises(UserError, match=r"no scores of ema-s1 \(tiny\), of which .*results\.csv has results"):
        read([*RESULTS, "sums,tiny,ema,1,accuracy,0.5"], score_rows(CORRECT))


def test_a_task_may_have_no_scores_at_all(read: Read) -> None:
    rows = [*RESULTS, *(row.replace("sums", "words") for row in RESULTS)]
    assert list(read(rows, score_rows(CORRECT)).scores) == [("sums", "standard"), ("sums", "mirror")]


def test_tasks_may_have_different_examples(read: Read) -> None:
    rows = [*RESULTS, *(row.replace("sums", "words") for row in RESULTS)]
    twice = {run: scores * 2 for run, scores in CORRECT.items()}
    runs = read(rows, score_rows(CORRECT) + score_rows(twice, range(8), "words"))
    assert {key: found.values.shape for key, found in runs.scores.items()} == {
        ("sums", "standard"): (2, 4),
        ("sums", "mirror"): (2, 4),
        ("words", "standard"): (2, 8),
        ("words", "mirror"): (2, 8),
    }


def test_other_examples_name_runs_counts_and_overlap(read: Read) -> None:
    rows = score_rows({run: scores for run, scores in CORRECT.items() if run != "mirror,2"})
    rows += score_rows({"mirror,2": [1, 1]}, [3, 7])
    with pytest.raises(
        UserError,
        match=r"mirror-s2 \(tiny\) was scored on 2 test examples, .*-s1 \(tiny\) on 4, of which 1 are the same",
    ):
        read(RESULTS, rows)


def test_an_example_twice(read: Read) -> None:
    rows = score_rows(CORRECT)
    with pytest.raises(UserError, match=r"scores\.csv, lines 3, 18: an example of a run comes twice"):
        read(RESULTS, [*rows, rows[1]])


@pytest.mark.parametrize("score", ["2", "-0.5", "", "inf"])
def test_a_score_out_of_range(read: Read, score: str) -> None:
    rows = score_rows(CORRECT)
    rows[2] = rows[2][:-1] + score
    with pytest.raises(UserError, match=r"scores\.csv, line 4: score must be between 0 and 1"):
        read(RESULTS, rows)


def test_scores_lack_a_column(tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_text(f"{RUN},metric,value\n{RESULTS[0]}\n")
    (tmp_path / "scores.csv").write_text(f"{RUN},score\n")
    with pytest.raises(UserError, match=r"scores\.csv: no column example_id"):
        runs_of_table(tmp_path / "results.csv", tmp_path / "scores.csv", baseline=None, metric=METRICS["accuracy"])


def test_measured_runs_may_lack_scores() -> None:
    columns = RUN.split(",")
    results = pd.DataFrame(
        [("t", "m", "standard", 1, "accuracy", 0.5), ("t", "m", "ema", 1, "accuracy", 0.5)],
        columns=[*columns, "metric", "value"],
    )
    scores = pd.DataFrame(
        [("t", "m", "ema", 1, 0, 1.0), ("t", "m", "ema", 1, 1, 0.0)], columns=[*columns, "example_id", "score"]
    )
    runs = runs_of_frames(results, scores, name="store", baseline=None, metric=METRICS["accuracy"])
    assert list(runs.scores) == [("t", "ema")]
    assert np.array_equal(runs.scores["t", "ema"].values, [[1.0, 0.0]])


# The paper's results, which jobs/results holds


@pytest.fixture
def paper(repo_root: Path) -> Path:
    return repo_root / "jobs" / "results" / "paper.csv"


def test_the_papers_means(paper: Path) -> None:
    # as its table prints them, in percent
    printed = {
        "standard": (45.52, 52.51, 58.68),
        "clipped": (49.33, 56.18, 60.63),
        "p_pots": (46.80, 58.58, 61.37),
        "mirror": (46.38, 53.70, 64.48),
        "p_pots_mirror": (52.53, 60.53, 67.10),
        "arm (Llama3.1-8B-Instruct)": (46.59, 47.70, 65.39),
        "arm (Qwen2.5-7B-Instruct)": (46.42, 54.82, 45.83),
        "arm (Qwen3-8B-Base)": (51.62, 70.93, 48.91),
    }
    runs = runs_of_table(paper, None, baseline=None, metric=METRICS["accuracy"])
    for label, means in printed.items():
        found = [100 * np.mean(list(runs.values(task, label, "accuracy").values())) for task in runs.tasks]
        assert found == pytest.approx(means, abs=0.00501)


def test_the_papers_pictures_are_of_another_metric(paper: Path) -> None:
    runs = runs_of_table(paper, None, baseline=None, metric=parse_metric("clip_score:higher"))
    means = {label: np.mean([*runs.values("text-to-image-2M", label, "clip_score").values()]) for label in runs.labels}
    assert means == pytest.approx(
        {"standard": 31.36, "p_pots": 31.65, "mirror": 34.07, "p_pots_mirror": 34.59}, abs=0.00501
    )


# Naming a metric


def test_a_known_metric_needs_no_direction() -> None:
    assert parse_metric("val_nll") is METRICS["val_nll"]
    assert parse_metric("val_nll:lower") is METRICS["val_nll"]


def test_an_unknown_metric_has_its_name_and_direction() -> None:
    metric = parse_metric("clip_score:higher")
    assert (metric.key, metric.label, metric.higher_is_better) == ("clip_score", "clip_score", True)
    assert metric.write(28.614) == "28.6"
    assert parse_metric("fid:lower").higher_is_better is False


def test_a_metric_without_a_better_end_takes_one() -> None:
    assert parse_metric("grad_norm:lower").higher_is_better is False


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("clip_score", "clip_score:higher or clip_score:lower"),
        ("acuracy", "Or did you mean accuracy"),
        ("accuracy:lower", "of accuracy, higher is better"),
        ("grad_norm", "write grad_norm:higher or grad_norm:lower"),
        ("accuracy:up", "expected NAME, NAME:higher or NAME:lower"),
        ("accuracy:", "expected NAME, NAME:higher or NAME:lower"),
        (":higher", "expected NAME, NAME:higher or NAME:lower"),
    ],
)
def test_a_metric_that_is_not_clear(text: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        parse_metric(text)
