"""HiTab: samples and tables in the form of the original files, by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raymdm.config.schema import DataConfig, ModelConfig
from raymdm.data.hitab import to_html
from raymdm.data.prepare import prepare
from raymdm.data.rows import RowError
from raymdm.data.tasks import Examples, delimiters, read_examples
from raymdm.errors import UserError

MakeFolder = Callable[..., Path]

TABLE: dict[str, Any] = {
    "title": "workers by sector & sex",
    "texts": [
        ["sector", "men", "", "women", ""],
        ["", "number", "percent", "number", "percent"],
        ["goods", "", "", "", ""],
        ["mining", "1,200", "4.5", "300", "<0.1"],
        ["total", 5000.0, 11.0, None, 7],
    ],
    "merged_regions": [
        {"first_row": 0, "last_row": 1, "first_column": 0, "last_column": 0},
        {"first_row": 0, "last_row": 0, "first_column": 1, "last_column": 2},
        {"first_row": 0, "last_row": 0, "first_column": 3, "last_column": 4},
        {"first_row": 2, "last_row": 2, "first_column": 1, "last_column": 4},
    ],
    "top_root": {"row_index": -1, "column_index": -1, "children": []},
    "left_root": {"row_index": -1, "column_index": -1, "children": []},
    "top_header_rows_num": 2,
    "left_header_columns_num": 1,
}
SAMPLE: dict[str, Any] = {
    "id": "e3ea71e5",
    "table_id": "1028",
    "table_source": "statcan",
    "sub_sentence": "4.5% of men worked in mining",
    "question": "how many percent of men worked in mining? ",
    "answer": [4.5],
    "aggregation": ["none"],
    "linked_cells": {"entity_link": {}, "quantity_link": {"[ANSWER]": {"(3, 2)": 4.5}}},
    "answer_formulas": ["=C6"],
}
HTML = """<table>
<caption>workers by sector &amp; sex</caption>
<thead>
<tr><th rowspan="2">sector</th><th colspan="2">men</th><th colspan="2">women</th></tr>
<tr><th>number</th><th>percent</th><th>number</th><th>percent</th></tr>
</thead>
<tbody>
<tr><th>goods</th><td colspan="4"></td></tr>
<tr><th>mining</th><td>1,200</td><td>4.5</td><td>300</td><td>&lt;0.1</td></tr>
<tr><th>total</th><td>5000</td><td>11</td><td></td><td>7</td></tr>
</tbody>
</table>"""


@pytest.fixture
def folder(tmp_path: Path) -> MakeFolder:
    def make(*samples: dict[str, Any], table: Any = TABLE) -> Path:
        (tmp_path / "tables" / "raw").mkdir(parents=True, exist_ok=True)
        (tmp_path / "tables" / "raw" / "1028.json").write_text(json.dumps(table))
        for split in ("train", "dev", "test"):
            lines = "".join(f"{json.dumps(sample)}\n" for sample in samples or (SAMPLE,))
            (tmp_path / f"{split}_samples.jsonl").write_text(lines)
        return tmp_path

    return make


def read(folder: Path, **fields: Any) -> Examples:
    return read_examples(DataConfig(task="hitab", path=str(folder), **fields), "train", "[EOS]")


def changed(**fields: Any) -> dict[str, Any]:
    return TABLE | fields


def region(*edges: Any) -> dict[str, Any]:
    return dict(zip(("first_row", "last_row", "first_column", "last_column"), edges, strict=True))


def test_a_table_with_several_levels_of_headers() -> None:
    assert to_html(TABLE) == HTML


def test_a_sample(folder: MakeFolder) -> None:
    (example,) = read(folder()).examples
    assert example.prompt.startswith(f"{HTML}\n\nQuestion: how many percent of men worked in mining?\n\nAnswer the")
    assert r"\boxed{}" in example.prompt
    assert (example.response, example.answer) == (r"\boxed{4.5}", "4.5")
    assert example.messages == [{"role": "user", "content": example.prompt.rstrip()}]


def test_the_official_names_of_splits_need_not_be_given(folder: MakeFolder) -> None:
    data = DataConfig(task="hitab", path=str(folder(SAMPLE, SAMPLE)))
    assert len(read_examples(data, "test", "[EOS]").examples) == 2
    assert len(read_examples(data.model_copy(update={"test_split": "dev"}), "test", "[EOS]").examples) == 2


@pytest.mark.parametrize(
    ("values", "answer"),
    [
        ([154983.0], "154983"),
        ([139337], "139337"),
        ([0.876264], "0.876264"),
        ([1e-07], "0.0000001"),
        (["men", "women"], "men; women"),
        ([2014.0, "total  r&d"], "2014; total r&d"),
        (["(5)"], "(5)"),
    ],
)
def test_answers_are_written_plainly(folder: MakeFolder, values: list[Any], answer: str) -> None:
    (example,) = read(folder(SAMPLE | {"answer": values})).examples
    assert (example.response, example.answer) == (rf"\boxed{{{answer}}}", answer)


def test_a_generated_response_is_learnt(folder: MakeFolder) -> None:
    response = r"In mining, men: 4.5 percent. \boxed{4.50\%}"
    (example,) = read(folder(SAMPLE | {"response": response})).examples
    assert (example.response, example.answer) == (response, "4.5")


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (r"\boxed{4.6}", "the response answers '4.6', the sample '4.5'"),
        ("4.5", "no answer in .boxed"),
        ("", "no answer in .boxed"),
        (None, "'response' must be text, not NoneType"),
    ],
)
def test_a_response_with_another_answer_is_rejected(folder: MakeFolder, response: Any, reason: str) -> None:
    rows = folder(SAMPLE, SAMPLE | {"response": response})
    with pytest.raises(UserError, match=rf"train_samples\.jsonl, line 2: .*{reason}"):
        read(rows)
    assert read(rows, on_bad_row="skip").bad_rows == 1


@pytest.mark.parametrize("response", [None, r"\boxed{4.6}", "none"])
def test_responses_of_test_samples_are_not_read(folder: MakeFolder, response: Any) -> None:
    data = DataConfig(task="hitab", path=str(folder(SAMPLE | {"response": response})))
    (example,) = read_examples(data, "test", "[EOS]").examples
    assert (example.response, example.answer) == (r"\boxed{4.5}", "4.5")


@pytest.mark.parametrize("answer", ["a}b", "{", "\\", "x\\", "**", "."])
def test_any_answer_is_a_valid_sample_without_a_response(folder: MakeFolder, answer: str) -> None:
    (example,) = read(folder(SAMPLE | {"answer": [answer]})).examples
    assert example.answer == answer


@pytest.mark.parametrize(("train", "test"), [("train", "train_samples"), ("dev_samples", "dev")])
def test_one_file_of_samples_under_two_names_is_refused(folder: MakeFolder, train: str, test: str) -> None:
    with pytest.raises(UserError, match=r"are rows of one file, .*_samples\.jsonl"):
        read(folder(SAMPLE, SAMPLE), train_split=train, test_split=test)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"table_id": "7"}, r"its table .*tables/raw/7\.json does not exist\. Unpack tables\.zip"),
        ({"table_id": "../1028"}, "'table_id' must be the name of a table's file"),
        ({"table_id": None}, "'table_id' must be"),
        ({"question": " "}, "'question' must be a text"),
        ({"answer": []}, "'answer' must be a list"),
        ({"answer": "4.5"}, "'answer' must be a list"),
        ({"answer": [True]}, "'answer' must be a list"),
        ({"answer": [""]}, "nothing but empty texts"),
    ],
)
def test_a_broken_sample_is_named(folder: MakeFolder, fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=rf"train_samples\.jsonl, line 2: .*{reason}"):
        read(folder(SAMPLE, SAMPLE | fields))


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (
            {"title": "t", "top_root": {}, "left_root": {}, "data": []},
            "Use the tables of tables/raw, not of tables/hmt",
        ),
        ([1], "must be a JSON object"),
        (changed(texts=[["a", ["b"]]]), "neither text nor number"),
        (changed(top_header_rows_num=None), "'top_header_rows_num' must be a whole number"),
        (changed(left_header_columns_num=-1), "'left_header_columns_num' must be a whole number"),
        (changed(merged_regions=[{"first_row": 0}]), "'merged_regions' need first_row"),
        (changed(merged_regions=[region(0, "1", 0, 0)]), "'merged_regions' must hold whole numbers"),
    ],
)
def test_a_broken_table_is_named(folder: MakeFolder, table: Any, reason: str) -> None:
    with pytest.raises(UserError, match=rf"train_samples\.jsonl, line 1: .*{reason}"):
        read(folder(table=table))


def small(*regions: dict[str, Any], headers: int = 1) -> str:
    table = {"texts": [["a", "b"], ["c", "d"], ["e", "f"]], "merged_regions": list(regions)}
    return to_html(table | {"top_header_rows_num": headers, "left_header_columns_num": 0}).replace("\n", "")


def test_a_merged_cell_ends_with_its_section() -> None:
    head, body = (
        "<thead><tr><th>a</th><th>b</th></tr></thead>",
        '<tr><td rowspan="2">c</td><td>d</td></tr><tr><td>f</td></tr>',
    )
    assert small(region(0, 2, 0, 0)) == f"<table>{head}<tbody>{body}</tbody></table>"


def test_a_merged_cell_ends_with_the_table() -> None:
    assert '<td rowspan="2" colspan="2">c</td></tr><tr></tr></tbody>' in small(region(1, 9, 0, 9))


def test_of_merged_cells_that_overlap_the_first_holds() -> None:
    body = '<tr><td colspan="2">c</td></tr><tr><td>e</td><td>f</td></tr>'
    assert body in small(region(1, 1, 0, 1), region(1, 2, 1, 1))


def test_a_merged_cell_outside_the_table_is_nothing() -> None:
    assert small(region(7, 8, 0, 1), region(0, 0, 5, 6)) == small()


def test_a_table_of_headers_alone_has_no_body() -> None:
    assert "tbody" not in small(headers=3)
    assert "thead" not in small(headers=0)


def test_a_row_whose_table_is_broken_raises_row_error() -> None:
    with pytest.raises(RowError, match="'texts'"):
        to_html({})


@pytest.mark.parametrize("path", ["someone/hitab", "."])
def test_hitab_needs_a_local_folder(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"has no train_samples\.jsonl .* with tables\.zip unpacked in it"):
        read_examples(DataConfig(task="hitab", path=path), "train", "[EOS]")


def test_a_missing_file_of_samples_is_named(folder: MakeFolder) -> None:
    path = folder()
    (path / "train_samples.jsonl").unlink()
    with pytest.raises(UserError, match=r"has no train_samples\.jsonl or train_samples\.parquet"):
        read(path)


def test_columns_cannot_be_chosen(folder: MakeFolder) -> None:
    with pytest.raises(UserError, match=r"data\.format: 'messages' has no meaning for task 'hitab'"):
        read(folder(), format="messages")


def test_isad_s_delimiter_is_the_box() -> None:
    assert delimiters(DataConfig(task="hitab", path="x")) == [r"\boxed{"]


def test_prepared_rows_mark_the_table_s_tags_and_the_box(folder: MakeFolder, tmp_path: Path) -> None:
    model = ModelConfig.model_validate({"kind": "tiny", "tokenizer": {"kind": "chars"}})
    made = prepare(DataConfig(task="hitab", path=str(folder(SAMPLE, SAMPLE))), model, tmp_path / "cache")
    counts = json.loads((made / "meta.json").read_text())["counts"]["train"]
    tags = "".join(f"<{piece.partition('>')[0]}>" for piece in HTML.split("<")[1:])
    assert counts["mean_syntax_tokens"] == len(tags.replace(" ", ""))
    assert counts["mean_delimiter_tokens"] == len(r"\boxed{")


def test_another_table_is_prepared_anew(folder: MakeFolder, tmp_path: Path) -> None:
    model = ModelConfig.model_validate({"kind": "tiny", "tokenizer": {"kind": "chars"}})
    data = DataConfig(task="hitab", path=str(folder(SAMPLE, SAMPLE)))
    first = prepare(data, model, tmp_path / "cache")
    assert prepare(data, model, tmp_path / "cache") == first
    folder(SAMPLE, SAMPLE, table=TABLE | {"title": "workers"})
    assert prepare(data, model, tmp_path / "cache") != first
