"""Prepared folders: exact tokens, splits, counts, reuse and what can go wrong."""

import json
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from raymdm.config.schema import DataConfig, ModelConfig
from raymdm.data import loading
from raymdm.data import prepare as prepare_module
from raymdm.data.prepare import prepare
from raymdm.errors import UserError

Sft = Callable[..., DataConfig]
Pretrained = Callable[..., ModelConfig]
PAIRS = [{"prompt": f"{i}+1=", "response": str(i + 1)} for i in range(20)]
CHAT = (
    "{% for m in messages %}<s>{{ m.role }} {{ m.content }} {% endfor %}{% if add_generation_prompt %}bot {% endif %}"
)


def rows(folder: Path, split: str) -> list[dict[str, Any]]:
    return pyarrow.parquet.read_table(folder / f"{split}.parquet").to_pylist()


def ids(folder: Path) -> dict[str, list[int]]:
    return {split: [row["example_id"] for row in rows(folder, split)] for split in ("train", "validation", "test")}


def test_row_holds_prompt_response_and_one_end_of_sequence(sft: Sft, chars: ModelConfig, tmp_path: Path) -> None:
    folder = prepare(sft(PAIRS), chars, tmp_path / "cache")
    tokenizer = loading.tokenizer(folder)
    row = rows(folder, "test")[9]
    assert tokenizer.decode(row["input_ids"]) == "9+1=10[EOS]"
    assert (row["prompt_length"], row["prompt"], row["response"], row["answer"]) == (4, "9+1=", "10", "10")
    assert row["input_ids"].count(tokenizer.eos_token_id) == 1


def test_columns_have_the_agreed_types(sft: Sft, chars: ModelConfig, tmp_path: Path) -> None:
    schema = pyarrow.parquet.read_schema(prepare(sft(PAIRS), chars, tmp_path) / "train.parquet")
    names = ["example_id", "input_ids", "prompt_length", "prompt", "response", "answer", "syntax", "delimiter"]
    assert schema.names == names
    assert [str(kind) for kind in schema.types] == [
        "int64",
        "list<element: int32>",
        "int32",
        "string",
        "string",
        "string",
        "list<element: int32>",
        "list<element: int32>",
    ]


def test_llama_like_prompt_keeps_bos_and_response_has_none(sft: Sft, pretrained: Pretrained, tmp_path: Path) -> None:
    folder = prepare(sft([{"prompt": "one", "response": "two three"}] * 2), pretrained(), tmp_path / "c")
    row = rows(folder, "test")[0]
    assert row["input_ids"] == [1, 6, 7, 8, 2]  # <s> one two three </s>
    assert row["prompt_length"] == 2


def test_chat_template_renders_the_prompt(sft: Sft, pretrained: Pretrained, tmp_path: Path) -> None:
    chat = {"messages": [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]}
    folder = prepare(sft([chat] * 2), pretrained(CHAT), tmp_path / "c")
    row = rows(folder, "test")[0]
    assert row["prompt"] == "<s>user one bot "
    assert row["input_ids"] == [1, 3, 6, 5, 7, 2]  # <s> user one bot two </s>: the template's <s> and no other
    assert row["prompt_length"] == 4


def test_template_that_refuses_a_row_names_it(sft: Sft, pretrained: Pretrained, tmp_path: Path) -> None:
    template = "{% if messages[0].content == 'two' %}{{ raise_exception('no two') }}{% endif %}"
    data = sft(
        [{"prompt": "one", "response": "two"}] * 2,
        [{"prompt": "one", "response": "1"}, {"prompt": "two", "response": "1"}],
    )
    with pytest.raises(UserError, match=r"test\.jsonl, line 2: the tokenizer's chat template does not accept.*no two"):
        prepare(data, pretrained(template), tmp_path / "c")


def test_mask_token_through_a_template_is_refused(sft: Sft, pretrained: Pretrained, tmp_path: Path) -> None:
    data = sft([{"prompt": "one", "response": "two"}, {"prompt": "one [MASK] two", "response": "two"}])
    with pytest.raises(UserError, match=r"line 2: the prompt holds the mask token \[MASK\]"):
        prepare(data, pretrained(CHAT), tmp_path / "c")


def test_end_of_sequence_written_in_the_data_stays_single(sft: Sft, pretrained: Pretrained, tmp_path: Path) -> None:
    data = sft([{"prompt": "one", "response": "two</s>"}, {"prompt": "one", "response": "two </s> three"}])
    folder = prepare(data, pretrained(), tmp_path / "c")
    assert [row["input_ids"].count(2) for row in rows(folder, "test")] == [1, 1]


def test_special_token_named_in_a_prompt_is_plain_text(sft: Sft, chars: ModelConfig, tmp_path: Path) -> None:
    folder = prepare(sft([{"prompt": "[MASK]", "response": "b"}] * 2), chars, tmp_path)
    row = rows(folder, "test")[0]
    assert row["prompt_length"] == 6
    assert 2 not in row["input_ids"]


def test_validation_is_its_fraction_and_disjoint(sft: Sft, chars: ModelConfig, tmp_path: Path) -> None:
    found = ids(prepare(sft(PAIRS, validation_fraction=0.25), chars, tmp_path))
    assert len(found["validation"]) == 5
    assert sorted(found["train"] + found["validation"]) == list(range(20))
    assert found["test"] == list(range(20))


def test_split_depends_on_the_data_seed(sft: Sft, chars: ModelConfig, tmp_path: Path) -> None:
    first, second = (ids(prepare(sft(PAIRS, seed=seed), chars, tmp_path))["validation"] for seed in (0, 1))
    assert first != second


def test_split_does_not_depend_on_the_tokenizer(sft: Sft, chars: ModelConfig, tmp_path: Path) -> None:
    bpe = ModelConfig.model_validate({"kind": "tiny", "tokenizer": {"kind": "bpe", "vocab_size": 300}})
    data = sft(PAIRS)
    assert ids(prepare(data, chars, tmp_path)) == ids(prepare(data, bpe, tmp_path))


def test_smallest_fraction_still_keeps_a_validation_row(sft: Sft, chars: ModelConfig, tmp_path: Path) -> None:
    found = ids(prepare(sft(PAIRS[:2], validation_fraction=0.01), chars, tmp_path))
    assert (len(found["train"]), len(found["validation"])) == (1, 1)


def test_one_training_row_is_too_few(sft: Sft, chars: ModelConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="1 usable row"):
        prepare(sft(PAIRS[:1]), chars, tmp_path)


def test_limits_keep_the_first_rows(sft: Sft, chars: ModelConfig, tmp_path: Path) -> None:
    found = ids(prepare(sft(PAIRS, max_train_examples=8, max_test_examples=3), chars, tmp_path))
    assert sorted(found["train"] + found["validation"]) == list(range(8))
    assert found["test"] == [0, 1, 2]


def test_length_limit_is_inclusive_and_counted(sft: Sft, chars: ModelConfig, tmp_path: Path) -> None:
    # "9+1=" + "10" + end of sequence has 7 tokens, rows 10 to 19 have 8, rows 0 to 8 have 6.
    folder = prepare(sft(PAIRS, max_length=7, validation_fraction=0.5), chars, tmp_path)
    found, counts = ids(folder), loading.meta(folder)["counts"]
    assert sorted(found["train"] + found["validation"]) == list(range(10))
    assert counts["train"]["too_long"] + counts["validation"]["too_long"] == 10
    assert counts["train"].items() >= {"rows": 10, "longest": 8}.items()


def test_length_of_a_test_row_is_its_prompt_s(sft: Sft, chars: ModelConfig, tmp_path: Path) -> None:
    test = [PAIRS[0], {"prompt": "1+1=", "response": "1" * 99}, {"prompt": "1111+1111=", "response": "1"}]
    folder = prepare(sft(PAIRS, test, max_length=8), chars, tmp_path)
    assert ids(folder)["test"] == [0, 1]
    assert loading.meta(folder)["counts"]["test"].items() >= {"rows": 3, "too_long": 1, "kept": 2}.items()


def test_tokenizers_keep_the_same_test_rows(sft: Sft, chars: ModelConfig, tmp_path: Path) -> None:
    bpe = ModelConfig.model_validate({"kind": "tiny", "tokenizer": {"kind": "bpe", "vocab_size": 300}})
    rows = [{"prompt": f"{i}+1=", "response": "think " * i + str(i + 1)} for i in range(20)]
    folders = [prepare(sft(rows, max_length=90), model, tmp_path) for model in (chars, bpe)]
    assert [ids(folder)["test"] for folder in folders] == [list(range(20))] * 2
    assert len({len(ids(folder)["train"]) for folder in folders}) == 2


def test_no_row_short_enough_is_an_error(sft: Sft, chars: ModelConfig, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"data\.max_length: no train row has 5 tokens or fewer \(the longest row has 8\)"
    ):
        prepare(sft(PAIRS, max_length=5), chars, tmp_path)
    assert list(tmp_path.glob("*/meta.json")) == []


def test_no_test_prompt_short_enough_is_an_error(sft: Sft, chars: ModelConfig, tmp_path: Path) -> None:
    test = [{"prompt": "1111+1111=", "response": "1"}]
    with pytest.raises(UserError, match=r"no test prompt has 8 tokens or fewer \(the longest row has 12\)"):
        prepare(sft(PAIRS, test, max_length=8), chars, tmp_path)


def test_skipped_rows_are_told(sft: Sft, chars: ModelConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = prepare(sft(PAIRS, [*PAIRS[:2], "{", "["], on_bad_row="skip"), chars, tmp_path)
    assert re.search(r"2 of 4 test rows can't be used .*The first: .*test\.jsonl, line 3: not valid JSON", caplog.text)
    counts = loading.meta(folder)["counts"]
    assert (counts["train"]["bad_rows"], counts["test"]["bad_rows"]) == (0, 2)


def test_repeated_prompts_are_told(
    sft: Sft, chars: ModelConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    test = [*PAIRS[:3], {"prompt": "0+11=", "response": "11"}]
    counts = loading.meta(prepare(sft(PAIRS, test), chars, tmp_path))["counts"]
    assert (counts["validation"]["repeated_prompts"], counts["test"]["repeated_prompts"]) == (0, 3)
    assert "3 of 4 test prompts are also training or validation prompts" in caplog.text


def test_prompts_that_repeat_within_the_training_split_are_counted(
    sft: Sft, chars: ModelConfig, tmp_path: Path
) -> None:
    data = sft(PAIRS[:1] * 20, PAIRS[2:3], validation_fraction=0.25)
    with pytest.raises(UserError, match="not in the alphabet"):
        prepare(data, chars, tmp_path)
    counts = loading.meta(prepare(sft(PAIRS[:1] * 20, validation_fraction=0.25), chars, tmp_path))["counts"]
    assert counts["validation"]["repeated_prompts"] == 5


def test_skipped_rows_are_counted(sft: Sft, chars: ModelConfig, tmp_path: Path) -> None:
    folder = prepare(sft([*PAIRS[:5], "{"], PAIRS[:3], on_bad_row="skip"), chars, tmp_path)
    meta = loading.meta(folder)
    assert meta["sources"] == {"train": {"rows_read": 6, "bad_rows": 1}, "test": {"rows_read": 3, "bad_rows": 0}}
    assert meta["task"] == "sft"


def test_unknown_character_in_the_test_split_is_named(sft: Sft, chars: ModelConfig, tmp_path: Path) -> None:
    data = sft(PAIRS, [PAIRS[0], {"prompt": "x", "response": "1"}])
    with pytest.raises(UserError, match=r"test\.jsonl, line 2: the character 'x' is not in the alphabet"):
        prepare(data, chars, tmp_path)


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.mark.parametrize("kind", ["chars", "bpe"])
def test_same_recipe_gives_the_same_bytes(sft: Sft, tmp_path: Path, kind: str) -> None:
    model = ModelConfig.model_validate({"kind": "tiny", "tokenizer": {"kind": kind, "vocab_size": 300}})
    first, second = (prepare(sft(PAIRS), model, tmp_path / cache) for cache in ("a", "b"))
    assert first.name == second.name
    assert content(first) == content(second)


def test_prepared_folder_is_reused(
    sft: Sft, chars: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = prepare(sft(PAIRS), chars, tmp_path)
    monkeypatch.setattr(prepare_module, "read_examples", lambda *_: pytest.fail("read the rows again"))
    assert prepare(sft(PAIRS), chars, tmp_path) == folder


def test_hash_does_not_depend_on_where_the_files_lie(
    write_rows: Callable[..., Path], chars: ModelConfig, tmp_path: Path
) -> None:
    here, there = (DataConfig(task="sft", path=str(write_rows(PAIRS, folder=name))) for name in ("here", "there"))
    assert prepare(here, chars, tmp_path / "c") == prepare(there, chars, tmp_path / "c")


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"max_length": 9},
        {"validation_fraction": 0.2},
        {"max_test_examples": 5},
        {"format": "messages"},
        {"syntax_pattern": "x"},
        {"delimiters": ["="]},
    ],
)
def test_hash_covers_the_settings(sft: Sft, chars: ModelConfig, change: dict[str, Any]) -> None:
    hashes = {prepare_module._content_hash(sft(PAIRS, **fields), chars, None) for fields in ({}, change)}
    assert len(hashes) == 2


def test_hash_covers_the_files(sft: Sft, chars: ModelConfig) -> None:
    hashes = {prepare_module._content_hash(sft(PAIRS, test), chars, None) for test in (PAIRS, PAIRS[:3])}
    assert len(hashes) == 2


def test_hash_covers_the_tokenizer_and_no_more_of_the_model(sft: Sft, chars: ModelConfig, tmp_path: Path) -> None:
    data, hidden = sft(PAIRS), chars.model_copy(update={"hidden_size": 128})
    assert prepare(data, chars, tmp_path) == prepare(data, hidden, tmp_path)
    bpe = ModelConfig.model_validate({"kind": "tiny", "tokenizer": {"kind": "bpe", "vocab_size": 300}})
    assert prepare(data, bpe, tmp_path) != prepare(data, chars, tmp_path)


def test_hash_covers_the_pretrained_tokenizers_content(sft: Sft, pretrained: Pretrained, tmp_path: Path) -> None:
    data = sft([{"prompt": "one", "response": "two"}] * 2)
    plain, copy = pretrained(folder="plain"), pretrained(folder="copy")
    chat = pretrained(CHAT, "chat")
    assert prepare(data, plain, tmp_path / "c") == prepare(data, copy, tmp_path / "c")
    assert prepare(data, plain, tmp_path / "c") != prepare(data, chat, tmp_path / "c")


def test_two_preparing_at_once_end_with_one_whole_folder(
    sft: Sft, chars: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both_ready, write = threading.Barrier(2, timeout=60), prepare_module._write

    def write_together(*arguments: Any) -> None:
        both_ready.wait()
        write(*arguments)

    monkeypatch.setattr(prepare_module, "_write", write_together)
    data = sft(PAIRS)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: prepare(data, chars, tmp_path / "c"), range(2))
    assert first == second
    assert len(loading.load_split(first, "test")) == 20
    assert [path.name for path in (tmp_path / "c").iterdir()] == [first.name]


def test_failure_while_writing_leaves_nothing(
    sft: Sft, chars: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(pyarrow.parquet, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
        prepare(sft(PAIRS), chars, tmp_path / "c")
    assert list((tmp_path / "c").iterdir()) == []


def test_generated_task_is_prepared(chars: ModelConfig, tmp_path: Path) -> None:
    folder = prepare(DataConfig(task="sorting", num_train=50, num_test=10), chars, tmp_path)
    found = {split: rows(folder, split) for split in ("train", "validation", "test")}
    assert {split: len(part) for split, part in found.items()} == {"train": 45, "validation": 5, "test": 10}
    assert len({row["prompt"] for part in found.values() for row in part}) == 60
    assert {len(row["input_ids"]) for row in found["test"]} == {14}  # 6 digits, >, 6 digits, end of sequence


def test_real_gsm8k_counts(gsm8k: Path, gsm8k_folder: Path) -> None:
    folder = gsm8k_folder
    counts = loading.meta(folder)["counts"]
    assert {split: found["kept"] for split, found in counts.items()} == {"train": 6726, "validation": 747, "test": 1319}
    split, tokenizer = loading.load_split(folder, "test", max_examples=1), loading.tokenizer(folder)
    official = json.loads((gsm8k / "test.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert split.prompts[0] == official["question"] + "\n"
    assert tokenizer.decode(split.input_ids[0][: split.prompt_lengths[0]]) == split.prompts[0]
    assert tokenizer.decode(split.input_ids[0]).endswith("#### 18[EOS]")
