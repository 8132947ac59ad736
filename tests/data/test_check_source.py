"""The fast check of the data before anything long starts."""

from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from raymdm.config.schema import DataConfig, ModelConfig
from raymdm.data.prepare import check_source
from raymdm.errors import UserError

Sft = Callable[..., DataConfig]
Pretrained = Callable[..., ModelConfig]
PAIRS = [{"prompt": f"{i}+1=", "response": str(i + 1)} for i in range(20)]
CHAT = "{% for m in messages %}<s>{{ m.role }} {{ m.content }} {% endfor %}"


def test_check_source_accepts_good_rows_without_writing(
    sft: Sft, chars: ModelConfig, pretrained: Pretrained, tmp_path: Path
) -> None:
    check_source(sft(PAIRS), chars)
    check_source(sft([{"prompt": "one", "response": "two"}] * 2), pretrained(CHAT))
    check_source(DataConfig(task="sorting"), chars)


def test_check_source_finds_a_bad_first_row(sft: Sft, chars: ModelConfig) -> None:
    with pytest.raises(UserError, match=r"test\.jsonl, line 1: not valid JSON"):
        check_source(sft(PAIRS, ["{"]), chars)


def test_check_source_stops_after_the_first_rows(sft: Sft, chars: ModelConfig) -> None:
    check_source(sft([*PAIRS, "{"]), chars)


def test_check_source_finds_a_missing_tokenizer(sft: Sft, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.path .*missing': no such folder"):
        check_source(sft(PAIRS), ModelConfig(kind="pretrained", path=str(tmp_path / "missing")))


def test_check_source_finds_a_small_vocabulary(sft: Sft) -> None:
    model = ModelConfig.model_validate({"kind": "tiny", "tokenizer": {"kind": "bpe", "vocab_size": 100}})
    with pytest.raises(UserError, match="too small for `bpe`"):
        check_source(sft(PAIRS), model)


@pytest.mark.parametrize("part", ["test[15:25]", "test[20:]", "test[:21]"])
def test_check_source_finds_a_part_beyond_a_file_of_lines(sft: Sft, chars: ModelConfig, part: str) -> None:
    check_source(sft([*PAIRS, ""], test_split="test[15:20]"), chars)
    with pytest.raises(UserError, match=r"test\.jsonl: rows .* are asked for, but it has 20"):
        check_source(sft([*PAIRS, ""], test_split=part), chars)


def test_check_source_finds_a_part_beyond_a_parquet_file(tmp_path: Path, chars: ModelConfig) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(PAIRS), tmp_path / "rows.parquet")
    data = DataConfig(
        task="sft", path=str(tmp_path / "rows.parquet"), train_split="rows[:10]", test_split="rows[10:20]"
    )
    check_source(data, chars)
    with pytest.raises(UserError, match=r"rows\.parquet: rows 10 to 30 are asked for, but it has 20"):
        check_source(data.model_copy(update={"test_split": "rows[10:30]"}), chars)


@pytest.mark.parametrize("rows", [8, 20])
def test_check_source_finds_that_no_row_fits(
    sft: Sft, chars: ModelConfig, pretrained: Pretrained, rows: int, caplog: pytest.LogCaptureFixture
) -> None:
    long = [{"prompt": "one one one", "response": "two"}] * rows
    for model in (chars, pretrained(CHAT)):
        with pytest.raises(UserError, match=r"data\.max_length: no train row has 4 tokens or fewer"):
            check_source(sft(long, max_length=4), model)


def test_check_source_looks_further_where_the_first_rows_do_not_fit(sft: Sft, chars: ModelConfig) -> None:
    rows = [*[{"prompt": "a long one", "response": "a"}] * 10, {"prompt": "a", "response": "a"}]
    check_source(sft(rows, max_length=4), chars)
    with pytest.raises(UserError, match="no train row"):
        check_source(sft(rows, max_length=4, max_train_examples=10), chars)


def test_check_source_finds_that_no_generated_row_fits(chars: ModelConfig) -> None:
    with pytest.raises(UserError, match=r"data\.max_length: no test prompt has 2 tokens or fewer"):
        check_source(DataConfig(task="sorting", max_length=2, num_train=20, num_test=20), chars)
