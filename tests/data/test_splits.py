"""Parts of splits, from local files and through `datasets`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from raymdm.config.schema import DataConfig, ModelConfig
from raymdm.data.loading import load_split
from raymdm.data.prepare import prepare
from raymdm.data.rows import read_rows, row_place
from raymdm.data.splits import Part, check_splits, split_part
from raymdm.data.tasks import read_examples
from raymdm.errors import UserError

Sft = Callable[..., DataConfig]
ROWS = [{"prompt": f"p{i}", "response": "r"} for i in range(10)]


def prompts(data: DataConfig, source: Any) -> list[str]:
    return [row.fields["prompt"] for row in read_rows(data, source)]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("train", Part("train")),
        ("train[:5000]", Part("train", 0, 5000)),
        ("train[5000:]", Part("train", 5000)),
        ("train[5000:6000]", Part("train", 5000, 6000)),
        ("train[:]", Part("train")),
        ("train[:10%]", None),
        ("train+test", Part("train+test")),
        (f"train[:{'9' * 5000}]", None),
    ],
)
def test_notation(text: str, part: Part | None) -> None:
    assert split_part(DataConfig(task="sft", path="x", train_split=text), "train") == part


@pytest.mark.parametrize("text", ["train[5:5]", "train[6:5]", "train[:0]", "[:5]", ""])
def test_a_part_without_rows_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"data\.test_split: .* holds no row\. Write NAME"):
        split_part(DataConfig(task="sft", path="x", test_split=text), "test")


@pytest.mark.parametrize(("part", "rows"), [("[:3]", range(3)), ("[7:]", range(7, 10)), ("[3:7]", range(3, 7))])
def test_a_part_of_a_file(sft: Sft, part: str, rows: range) -> None:
    assert prompts(sft(ROWS, train_split=f"train{part}"), "train") == [f"p{i}" for i in rows]


def test_one_file_gives_both_parts(sft: Sft) -> None:
    file = Path(sft(ROWS).path or "") / "train.jsonl"
    data = DataConfig(task="sft", path=str(file), train_split="train[:8]", test_split="train[8:]")
    assert (len(prompts(data, "train")), prompts(data, "test")) == (8, ["p8", "p9"])


def test_rows_of_a_part_keep_their_place_in_the_file(sft: Sft) -> None:
    data = sft([*ROWS[:3], "", *ROWS[3:]], train_split="train[2:4]")
    places = [row_place(data, "train", row.example_id) for row in read_rows(data, "train")]
    assert [place.rpartition("/")[2] for place in places] == ["train.jsonl, line 3", "train.jsonl, line 5"]


def test_a_broken_row_counts_as_one(sft: Sft) -> None:
    data = sft(["{", *ROWS], train_split="train[1:3]", on_bad_row="skip")
    assert [example.prompt for example in read_examples(data, "train", "[EOS]").examples] == ["p0", "p1"]


@pytest.mark.parametrize("part", ["[:11]", "[5:11]", "[10:]", "[12:]"])
def test_a_part_beyond_the_file_is_refused(sft: Sft, part: str) -> None:
    with pytest.raises(UserError, match=r"train\.jsonl: rows .* are asked for, but it has 10"):
        prompts(sft(ROWS, train_split=f"train{part}"), "train")


def test_percentages_of_a_local_file_are_refused(sft: Sft) -> None:
    with pytest.raises(UserError, match=r"'train\[:10%\]' cannot be read\. Local files take NAME"):
        prompts(sft(ROWS, train_split="train[:10%]"), "train")


@pytest.mark.parametrize(
    ("train", "test"),
    [("train[:6]", "train[5:]"), ("train", "train[5:]"), ("train[5:]", "train[:6]"), ("train", "train")],
)
def test_training_on_test_rows_is_refused(sft: Sft, train: str, test: str) -> None:
    with pytest.raises(UserError, match=r"data\.train_split and data\.test_split: .* have rows in common"):
        prompts(sft(ROWS, train_split=train, test_split=test), "train")


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train[:50%]", "train[40%:]"),
        ("train", "train[:10%]"),
        ("train[:10%]", "train[5:7]"),
        ("train+test", "test"),
        ("train+test", "train+test"),
        ("train[:5] + test[:5]", "test[5:]"),
        ("train[0:5000]", "train[-5000:]"),
        ("all", "test"),
        ("train", "all"),
    ],
)
def test_what_only_datasets_reads_may_not_share_a_split(train: str, test: str) -> None:
    with pytest.raises(UserError, match=r"data\.train_split and data\.test_split: .* may have rows in common"):
        check_splits(DataConfig(task="sft", path="someone/x", train_split=train, test_split=test))


@pytest.mark.parametrize(("train", "test"), [("train[:50%]", "test"), ("train+extra", "test[-5:]")])
def test_what_only_datasets_reads_may_be_of_different_splits(train: str, test: str) -> None:
    check_splits(DataConfig(task="sft", path="someone/x", train_split=train, test_split=test))


def test_one_file_under_two_names_is_refused(sft: Sft) -> None:
    data = sft(ROWS)
    file = Path(data.path or "") / "test.jsonl"
    file.unlink()
    file.symlink_to("train.jsonl")
    with pytest.raises(UserError, match=r"are rows of one file, .*train\.jsonl, and have rows in common"):
        prompts(data, "train")
    apart = data.model_copy(update={"train_split": "train[:8]", "test_split": "test[8:]"})
    assert prompts(apart, "test") == ["p8", "p9"]


def test_parts_of_different_splits_have_no_row_in_common(sft: Sft) -> None:
    assert len(prompts(sft(ROWS, train_split="train[:5]", test_split="test[:5]"), "test")) == 5


def test_datasets_cuts_its_own_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(path: str, subset: str | None, split: str) -> list[dict[str, str]]:
        asked.append(split)
        return ROWS[5:7]

    monkeypatch.setattr(datasets, "load_dataset", load)
    data = DataConfig(task="sft", path="someone/some-rows", train_split="train[:10%]", test_split="test[5:7]")
    assert [row.example_id for row in read_rows(data, "test")] == [5, 6]
    assert [row.example_id for row in read_rows(data, "train")] == [0, 1]
    assert asked == ["test[5:7]", "train[:10%]"]


def test_prepared_parts_are_cached_apart(sft: Sft, chars: ModelConfig, tmp_path: Path) -> None:
    rows = [{"prompt": "p" * i, "response": "r"} for i in range(1, 11)]
    data = sft(rows, train_split="train[:4]", test_split="train[4:6]", validation_fraction=0.5)
    first = prepare(data, chars, tmp_path / "cache")
    assert prepare(data, chars, tmp_path / "cache") == first
    other = prepare(data.model_copy(update={"test_split": "train[6:9]"}), chars, tmp_path / "cache")
    assert [load_split(folder, "test").example_ids.tolist() for folder in (first, other)] == [[4, 5], [6, 7, 8]]
