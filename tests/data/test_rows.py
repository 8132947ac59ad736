"""Reading rows: sources, layouts and everything that can be wrong with them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from raymdm.config.schema import DataConfig
from raymdm.data.rows import RowError, conversation, read_rows
from raymdm.errors import UserError

Sft = Callable[..., DataConfig]
ROW = {"prompt": "a", "response": "b"}


def test_folder_of_jsonl_reads_both_splits(sft: Sft) -> None:
    data = sft([ROW], [{"prompt": "c", "response": "d"}, ROW])
    assert [row.fields for row in read_rows(data, "train")] == [ROW]
    assert [row.fields["prompt"] for row in read_rows(data, "test")] == ["c", "a"]


def test_parquet_reads_like_jsonl(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i}", "response": "r"} for i in range(3)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "train.parquet")
    data = DataConfig(task="sft", path=str(tmp_path))
    assert [(row.example_id, row.fields) for row in read_rows(data, "train")] == list(enumerate(rows))


def test_broken_parquet_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match=r"train\.parquet: can't be read as parquet"):
        list(read_rows(DataConfig(task="sft", path=str(tmp_path)), "train"))


def test_split_names_choose_the_files(sft: Sft) -> None:
    data = sft([ROW], [ROW, ROW], train_split="test", test_split="train")
    assert len(list(read_rows(data, "train"))) == 2


def test_relative_path_starts_at_the_current_directory(sft: Sft, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(sft([ROW]).path or "")
    monkeypatch.chdir(folder.parent)
    assert len(list(read_rows(DataConfig(task="sft", path=folder.name), "train"))) == 1


def test_blank_lines_are_no_rows_but_count_as_lines(sft: Sft) -> None:
    assert [row.example_id for row in read_rows(sft([ROW, "", "  ", ROW]), "train")] == [0, 3]


def test_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(json.dumps(ROW), encoding="utf-8-sig")
    rows = list(read_rows(DataConfig(task="sft", path=str(tmp_path)), "train"))
    assert [(row.fields, row.problem) for row in rows] == [(ROW, None)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"prompt": "a"', "not valid JSON"),
        (b"[1, 2]", "a row must be a JSON object, not list"),
        (b'{"prompt": "\xff"}', "not UTF-8"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"prompt": ' + b"9" * 5000 + b"}", "not valid JSON"),
    ],
)
def test_broken_line_carries_its_problem(tmp_path: Path, line: bytes, reason: str) -> None:
    (tmp_path / "train.jsonl").write_bytes(b'{"prompt": "a", "response": "b"}\n' + line + b"\n")
    rows = list(read_rows(DataConfig(task="sft", path=str(tmp_path)), "train"))
    assert rows[0].problem is None
    assert reason in (rows[1].problem or "")


def test_single_file_trains(sft: Sft) -> None:
    file = Path(sft([ROW]).path or "") / "train.jsonl"
    assert len(list(read_rows(DataConfig(task="sft", path=str(file)), "train"))) == 1


def test_single_file_has_no_test_split(sft: Sft) -> None:
    file = Path(sft([ROW]).path or "") / "train.jsonl"
    with pytest.raises(UserError, match="the test split is missing"):
        list(read_rows(DataConfig(task="sft", path=str(file)), "test"))


def test_single_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a,b\n")
    with pytest.raises(UserError, match=r"rows\.csv is not a \.jsonl or \.parquet file"):
        list(read_rows(DataConfig(task="sft", path=str(tmp_path / "rows.csv")), "train"))


def test_folder_without_the_test_file_says_which(sft: Sft) -> None:
    data = sft([ROW])
    (Path(data.path or "") / "test.jsonl").unlink()
    with pytest.raises(UserError, match=r"has no test\.jsonl or test\.parquet"):
        list(read_rows(data, "test"))


def test_two_files_for_a_split_are_ambiguous(sft: Sft) -> None:
    data = sft([ROW])
    (Path(data.path or "") / "train.parquet").write_bytes(b"")
    with pytest.raises(UserError, match=r"both train\.jsonl and train\.parquet"):
        list(read_rows(data, "train"))


@pytest.mark.parametrize("path", ["/no/such/folder", "./missing", "~/no-such-folder-here", "folder/missing.jsonl"])
def test_missing_local_path_is_named(path: str) -> None:
    with pytest.raises(UserError, match="does not exist") as raised:
        list(read_rows(DataConfig(task="sft", path=path), "train"))
    assert path in str(raised.value)


def test_subset_of_a_local_file_is_refused(sft: Sft) -> None:
    with pytest.raises(UserError, match=r"data\.subset: 'main' has no meaning"):
        list(read_rows(sft([ROW], subset="main"), "train"))


def test_empty_file_is_named(sft: Sft) -> None:
    with pytest.raises(UserError, match=r"train\.jsonl: the file is empty"):
        list(read_rows(sft([""], [ROW]), "train"))


def test_datasets_name_is_loaded_with_subset_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def load(path: str, subset: str | None, split: str) -> list[dict[str, str]]:
        asked.append((path, subset, split))
        return [ROW]

    monkeypatch.setattr(datasets, "load_dataset", load)
    data = DataConfig(task="sft", path="someone/some-rows", subset="main", test_split="validation")
    assert [row.fields for row in read_rows(data, "test")] == [ROW]
    assert asked == [("someone/some-rows", "main", "validation")]


def test_datasets_layout_of_a_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "rows" / "data").mkdir(parents=True)
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist([ROW, ROW]), tmp_path / "rows/data/train-00000-of-00001.parquet"
    )
    data = DataConfig(task="sft", path=str(tmp_path / "rows"))
    assert [row.fields for row in read_rows(data, "train")] == [ROW, ROW]


@pytest.mark.parametrize("error", [ValueError("Unknown split"), datasets.exceptions.DatasetNotFoundError("not there")])
def test_datasets_name_that_does_not_load_is_named(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(UserError, match=rf"data\.path: 'someone/nothing'.*{error}"):
        list(read_rows(DataConfig(task="sft", path="someone/nothing"), "train"))


def messages(*turns: tuple[str, str]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


@pytest.mark.parametrize(
    "fields",
    [{"prompt": "q", "response": "a"}, {"question": "q", "answer": "a"}, messages(("user", "q"), ("assistant", "a"))],
)
def test_auto_reads_every_layout(fields: dict[str, Any]) -> None:
    assert conversation(fields, "auto") == ([{"role": "user", "content": "q"}], "a")


def test_last_assistant_message_is_the_response() -> None:
    fields = messages(
        ("system", "s"), ("user", "1"), ("assistant", "2"), ("user", "3"), ("assistant", "4"), ("user", "5")
    )
    prompt, response = conversation(fields, "messages")
    assert response == "4"
    assert [m["content"] for m in prompt] == ["s", "1", "2", "3"]


def test_named_layout_overrules_auto() -> None:
    fields = {"prompt": "p", "response": "r", "question": "q", "answer": "a"}
    assert conversation(fields, "question_answer") == ([{"role": "user", "content": "q"}], "a")


@pytest.mark.parametrize(
    ("fields", "layout", "reason"),
    [
        ({"prompt": "p"}, "auto", "found columns: prompt"),
        ({}, "auto", "found columns: none"),
        ({"prompt": "p"}, "prompt_response", "column 'response' is missing"),
        ({"prompt": "p", "response": None}, "auto", "'response' must be text, not NoneType"),
        ({"prompt": 3, "response": "r"}, "auto", "'prompt' must be text, not int"),
        ({"prompt": "p", "response": " \n"}, "auto", "the response is empty"),
        ({"prompt": "", "response": "r"}, "auto", "the prompt is empty"),
        ({"messages": "hello"}, "auto", "must be a list"),
        ({"messages": [{"role": "user"}]}, "auto", "message 1 must have"),
        ({"messages": ["hello"]}, "auto", "message 1 must have"),
        (messages(("user", "q")), "auto", "no message with role 'assistant'"),
        (messages(("assistant", "a")), "auto", "the prompt is empty"),
    ],
)
def test_unusable_row_says_why(fields: dict[str, Any], layout: str, reason: str) -> None:
    with pytest.raises(RowError, match=reason):
        conversation(fields, layout)
