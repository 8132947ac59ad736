"""Long tables that are refused or noted so that no two runs, methods or models pass for one another."""

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from raymdm.comparison.analysis import analyse
from raymdm.comparison.longform import runs_of_frames, runs_of_table
from raymdm.comparison.metrics import METRICS
from raymdm.comparison.runs import Runs
from raymdm.errors import UserError

HEAD = ["task", "model", "method", "seed", "metric", "value"]
SCORE_HEAD = [*HEAD[:4], "example_id", "score"]
Read = Callable[..., Runs]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Reads rows of results, and of scores, from CSV."""

    def make(rows: list[str], scores: list[str] | None = None, metric: str = "accuracy") -> Runs:
        paths = [tmp_path / "results.csv", tmp_path / "scores.csv"]
        for path, head, lines in zip(paths, (HEAD, SCORE_HEAD), (rows, scores or []), strict=True):
            path.write_text("\n".join([",".join(head), *lines]) + "\n")
        return runs_of_table(paths[0], paths[1] if scores else None, baseline=None, metric=METRICS[metric])

    return make


def of_seeds(*seeds: object) -> list[str]:
    return [f"sums,tiny,standard,{seed},accuracy,0.5" for seed in seeds]


def parquet(folder: Path, seeds: pd.Series) -> Runs:
    frame = pd.DataFrame(dict.fromkeys(HEAD[:3], "x"), index=range(len(seeds)))
    path = folder / "results.parquet"
    frame.assign(seed=seeds, metric="accuracy", value=0.5).to_parquet(path)
    return runs_of_table(path, None, baseline=None, metric=METRICS["accuracy"])


# Seeds: a float holds whole numbers exactly up to 2**53 = 9007199254740992


@pytest.mark.parametrize(
    "seeds",
    [
        [9007199254740992, 9007199254740993],
        [2**63 - 1, -(2**63), -1],
        [2**64 - 1, 2**64 - 2, 0],
    ],
)
def test_large_seeds_are_told_apart(read: Read, tmp_path: Path, seeds: list[int]) -> None:
    kind = "uint64" if max(seeds) >= 2**63 else "int64"
    for runs in (
        read(of_seeds(*seeds)),
        parquet(tmp_path, pd.Series(seeds, dtype=kind)),
        parquet(tmp_path, pd.Series(map(str, seeds), dtype="str")),
    ):
        assert list(runs.values(runs.tasks[0], runs.labels[0], "accuracy")) == seeds


def test_large_seeds_of_scores_are_told_apart(read: Read) -> None:
    seeds = [2**64 - 1, 2**64 - 2, 7]
    scores = [f"sums,tiny,standard,{seed},1,{score}" for seed, score in zip(seeds, (0, 1, 1), strict=True)]
    runs = read([row.replace("accuracy", "val_nll") for row in of_seeds(*seeds)], scores)
    assert runs.values("sums", "standard", "accuracy") == {seeds[0]: 0.0, seeds[1]: 1.0, seeds[2]: 1.0}
    assert runs.scores["sums", "standard"].seeds == seeds


@pytest.mark.parametrize("text", ["7", " 7", "+7", "007", "7.0", "7."])
def test_a_seed_may_be_written_in_several_ways(read: Read, text: str) -> None:
    assert read(of_seeds(text)).values("sums", "standard", "accuracy") == {7: 0.5}


@pytest.mark.parametrize(
    "text", ["9007199254740993.0", "1e3", "1_000", "0x7", "18446744073709551616", "-9223372036854775809", "9" * 5000]
)
def test_a_seed_that_does_not_fit(read: Read, text: str) -> None:
    with pytest.raises(UserError, match=rf"line 3: seed must be a whole number, not '{text}'\. Write all its digits"):
        read(of_seeds(1, text))


def test_signed_and_unsigned_seeds_that_have_no_common_type(read: Read) -> None:
    with pytest.raises(UserError, match=r"line 3: seed must be a whole number, not '9223372036854775808'.*sign incl"):
        read(of_seeds(-1, 2**63))


def test_seeds_that_are_floats(tmp_path: Path) -> None:
    assert parquet(tmp_path, pd.Series([7.0, 8.0])).values("x", "x", "accuracy") == {7: 0.5, 8: 0.5}
    with pytest.raises(UserError, match=r"row 2: seed must be a whole number, not 9007199254740992\.0"):
        parquet(tmp_path, pd.Series([7.0, 2.0**53]))
    with pytest.raises(UserError, match=r"row 1: seed must be a whole number, not empty"):
        parquet(tmp_path, pd.Series([None, 8.0]))


# Names


def test_two_methods_of_one_label(read: Read) -> None:
    rows = ["t,a,x,1,accuracy,0.5", "t,b,x,1,accuracy,0.5", "t,b,x (a),1,accuracy,0.5", "t,a,standard,1,accuracy,0.5"]
    with pytest.raises(UserError, match=r"methods 'x' and 'x \(a\)' would both be called 'x \(a\)'.*Rename one"):
        read(rows)


@pytest.mark.parametrize("place", [0, 1, 2, 4])
def test_a_name_with_a_blank_at_its_end(read: Read, place: int) -> None:
    fields = of_seeds(2)[0].split(",")
    fields[place] += " "
    with pytest.raises(UserError, match=rf"line 3: the {HEAD[place]} begins or ends with a blank: '{fields[place]}'"):
        read([*of_seeds(1), ",".join(fields)])


# Models


def rows_of(*runs: str) -> list[str]:
    """`task model method` each."""
    return [f"{','.join(run.split())},1,accuracy,0.5" for run in runs]


TOGETHER = "A difference between runs of two models is one of model and method together."


def test_methods_of_different_models_are_noted(read: Read) -> None:
    runs = read(rows_of("t small standard", "t large mirror", "t large ema", "u small standard", "u small mirror"))
    assert f"t: standard trained small; mirror and ema trained large. {TOGETHER}" in runs.notes
    assert not any(note.startswith("u:") for note in runs.notes)


def test_an_arm_of_another_model_is_noted(read: Read) -> None:
    assert read(rows_of("t small standard", "t large arm")).notes == [
        f"t: standard trained small; arm trained large. {TOGETHER}"
    ]


def test_tasks_with_the_same_models_share_a_note(read: Read) -> None:
    runs = read(rows_of("t small standard", "t large ema", "u small standard", "u large ema"))
    assert runs.notes == [f"t and u: standard trained small; ema trained large. {TOGETHER}"]


def test_labels_that_all_say_their_model_need_no_note(read: Read) -> None:
    rows = rows_of("t small standard", "t large standard")
    frame = pd.DataFrame([row.split(",") for row in rows], columns=HEAD).astype({"value": float})
    runs = runs_of_frames(frame, None, name="a", baseline="standard (small)", metric=METRICS["accuracy"])
    assert runs.notes == []


# Sizes


@pytest.mark.parametrize("value", ["1e+61", "-1e+61", "1e-61", "-4.94066e-324"])
def test_a_value_beyond_all_statistics(read: Read, value: str) -> None:
    rows = [row.replace("accuracy", "val_nll") for row in of_seeds(1, 2)]
    with pytest.raises(
        UserError, match=rf"line 3: a value's size must be 0 or between 1e-60 and 1e\+60, not {re.escape(value)}:"
    ):
        read([rows[0], rows[1].replace("0.5", value)], metric="val_nll")


@pytest.mark.parametrize("value", ["1e60", "-1e60", "1e-60", "0"])
def test_a_value_at_the_limit(read: Read, value: str) -> None:
    rows = [row.replace("accuracy,0.5", f"val_nll,{value}") for row in of_seeds(1)]
    assert read(rows, metric="val_nll").values("sums", "standard", "val_nll") == {1: float(value)}


STANDARD, MIRROR = [0.5, 0.625, 0.75, 0.9375], [0.25, 0.5, 0.4375, 0.3125]


def scaled(standard: float, mirror: float) -> list[str]:
    sides = {"standard": [standard * x for x in STANDARD], "mirror": [mirror * x for x in MIRROR]}
    return [
        f"t,m,{method},{seed},val_nll,{value!r}"
        for method, values in sides.items()
        for seed, value in enumerate(values)
    ]


@pytest.mark.parametrize("power", [199, -197])  # 2**199 is 8e59, 2**-197 is 5e-60
def test_statistics_do_not_depend_on_the_unit(read: Read, power: int) -> None:
    (one,), (other,) = (analyse(read(scaled(unit, unit), metric="val_nll")).differences for unit in (1.0, 2.0**power))
    assert other.p == pytest.approx(one.p, rel=1e-9)
    assert other.difference.high == pytest.approx(one.difference.high * 2.0**power, rel=1e-9)


@pytest.mark.parametrize("sizes", [(2.0**199, 2.0**-197), (2.0**-197, 2.0**199)])
def test_sides_of_both_limits_can_be_compared(read: Read, sizes: tuple[float, float]) -> None:
    assert len(analyse(read(scaled(*sizes), metric="val_nll")).differences) == 1


@pytest.mark.parametrize("size", [2.0**199, 2.0**-197])
def test_values_that_differ_in_their_last_digit_can_be_compared(read: Read, size: float) -> None:
    rows = scaled(size, size) + [f"t,m,ema,{seed},val_nll,{size * (1 + seed * 2.0**-52)!r}" for seed in range(4)]
    assert len(analyse(read(rows, metric="val_nll")).differences) == 2
