"""From rows to a folder of tokenised splits, made once for a recipe and reused.

Prompt and response are tokenised apart and joined, so that the prompt's length in tokens is exact and no token
spans both. The folder's name is a hash of everything that decides its content.
"""

import hashlib
import json
import logging
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
import pyarrow
import pyarrow.parquet
from transformers import PreTrainedTokenizerFast

from raymdm.config.schema import DataConfig, ModelConfig
from raymdm.data.generated import GENERATED_TASKS, generator_version
from raymdm.data.rows import Source, row_place, source_file
from raymdm.data.tasks import Example, Examples, example_texts, read_examples, source_rows
from raymdm.data.tokenizer import EOS, check_alphabet, check_learnt, load_tokenizer
from raymdm.errors import UserError
from raymdm.keys import generator

FORMAT_VERSION = 1
"""Raised whenever the same rows would be prepared differently."""

_BATCH = 1000
_ROWS_CHECKED = 8
_SOURCES: tuple[Source, ...] = ("train", "test")
_SCHEMA = pyarrow.schema(
    {
        "example_id": pyarrow.int64(),
        "input_ids": pyarrow.list_(pyarrow.int32()),
        "prompt_length": pyarrow.int32(),
        "prompt": pyarrow.string(),
        "response": pyarrow.string(),
        "answer": pyarrow.string(),
    }
)
_log = logging.getLogger(__name__)


class Prepared(NamedTuple):
    """A tokenised split with the counts that meta.json keeps."""

    table: pyarrow.Table
    counts: dict[str, int]


def prepare(data: DataConfig, model: ModelConfig, cache: Path) -> Path:
    """Make, or find, the folder `cache/<hash>` with train, validation and test parquet, tokenizer and meta.json.

    Safe when several processes prepare the same data at once: each writes a folder of its own, and the first to
    rename it wins. Raises UserError for rows, files or settings that can't be used.
    """
    tokenizer = _pretrained_tokenizer(model)
    digest = _content_hash(data, model, tokenizer)
    folder = Path(cache) / digest
    if (folder / "meta.json").is_file():
        return folder
    eos = EOS if tokenizer is None else _eos(tokenizer)
    train = read_examples(data, "train", eos, data.max_train_examples)
    test = read_examples(data, "test", eos, data.max_test_examples)
    if tokenizer is None:
        tokenizer = load_tokenizer(model, example_texts(train.examples))
    kept, held_out = _train_validation(train.examples, data)
    splits = {
        "train": _tokenise(kept, "train", data, model, tokenizer),
        "validation": _tokenise(held_out, "train", data, model, tokenizer),
        "test": _tokenise(test.examples, "test", data, model, tokenizer),
    }
    _check_not_empty(splits, data)
    meta = _meta(data, digest, {"train": train, "test": test}, splits)
    _write(folder, splits, tokenizer, meta)
    return folder


def check_source(data: DataConfig, model: ModelConfig) -> None:
    """Fast check before anything long starts: the tokenizer loads and the first rows of both splits can be used.

    Raises the UserError that `prepare` would raise for them.
    """
    check_learnt(model)
    tokenizer = _pretrained_tokenizer(model)
    eos = EOS if tokenizer is None else _eos(tokenizer)
    # Rows of both sources come from one generator, and training rows only after all test rows.
    sources: tuple[Source, ...] = ("test",) if data.task in GENERATED_TASKS else _SOURCES
    for source in sources:
        examples = read_examples(data, source, eos, limit=_ROWS_CHECKED).examples
        if tokenizer is not None:
            _tokenise(examples, source, data, model, tokenizer)


def _pretrained_tokenizer(model: ModelConfig) -> PreTrainedTokenizerFast | None:
    return load_tokenizer(model, None) if model.tokenizer.kind == "pretrained" else None


def _eos(tokenizer: PreTrainedTokenizerFast) -> str:
    assert isinstance(tokenizer.eos_token, str), "load_tokenizer asks for an end-of-sequence token"
    return tokenizer.eos_token


def _content_hash(data: DataConfig, model: ModelConfig, tokenizer: PreTrainedTokenizerFast | None) -> str:
    """Hash of the settings, the rows' bytes and the tokenizer; where the files lie doesn't count."""
    digest = hashlib.sha256()
    learnt = {"kind": model.tokenizer.kind, "vocab_size": model.tokenizer.vocab_size} if tokenizer is None else None
    settings = {
        "format": FORMAT_VERSION,
        "data": data.model_dump(mode="json", exclude={"path", "subset"}),
        "tokenizer": learnt,
        "generator": generator_version(data),
    }
    digest.update(json.dumps(settings, sort_keys=True).encode())
    if data.path is not None:
        for source in _SOURCES:
            digest.update(_source_hash(data, source))
    if tokenizer is not None:
        digest.update(_tokenizer_hash(tokenizer))
    return digest.hexdigest()[:16]


def _source_hash(data: DataConfig, source: Source) -> bytes:
    file = source_file(data, source)
    if file is not None:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").digest() + file.suffix.encode()
    digest = hashlib.sha256()
    for row in source_rows(data, source):
        digest.update(json.dumps(row.fields, sort_keys=True, default=str).encode() + b"\n")
    return digest.digest()


def _tokenizer_hash(tokenizer: PreTrainedTokenizerFast) -> bytes:
    """Hash of the saved files: the same for a name and for a folder with its copy."""
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for file in sorted(Path(folder).rglob("*")):
            if file.is_file():
                digest.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.digest()


def _train_validation(examples: list[Example], data: DataConfig) -> tuple[list[Example], list[Example]]:
    """Split by the data seed and the number of rows alone, before any tokenizer filters: alike for all models."""
    if len(examples) < 2:
        raise UserError(
            f"data: the training split has {len(examples)} usable row; training and validation need one each"
        )
    held_out = min(max(1, round(data.validation_fraction * len(examples))), len(examples) - 1)
    order = generator(data.seed, "split").permutation(len(examples))
    validation, train = np.sort(order[:held_out]), np.sort(order[held_out:])
    return [examples[i] for i in train], [examples[i] for i in validation]


def _tokenise(
    examples: Sequence[Example],
    source: Source,
    data: DataConfig,
    model: ModelConfig,
    tokenizer: PreTrainedTokenizerFast,
) -> Prepared:
    rows: list[dict[str, Any]] = []
    longest = 0
    for start in range(0, len(examples), _BATCH):
        for row in _tokenised_rows(examples[start : start + _BATCH], source, data, model, tokenizer):
            longest = max(longest, len(row["input_ids"]))
            if len(row["input_ids"]) <= data.max_length:
                rows.append(row)
    too_long = len(examples) - len(rows)
    if too_long:
        _log.warning(
            "%d of %d %s rows are longer than data.max_length (%d tokens) and are left out",
            too_long,
            len(examples),
            source,
            data.max_length,
        )
    counts = {"rows": len(examples), "too_long": too_long, "kept": len(rows), "longest": longest}
    return Prepared(pyarrow.Table.from_pylist(rows, schema=_SCHEMA), counts)


def _tokenised_rows(
    examples: Sequence[Example],
    source: Source,
    data: DataConfig,
    model: ModelConfig,
    tokenizer: PreTrainedTokenizerFast,
) -> Iterator[dict[str, Any]]:
    prompts = [_render(tokenizer, example, row_place(data, source, example.example_id)) for example in examples]
    if model.tokenizer.kind == "chars":
        for example in examples:
            check_alphabet(tokenizer, example.prompt + example.response, row_place(data, source, example.example_id))
    prompt_ids = _prompt_ids(tokenizer, prompts)
    response_ids = _ids(tokenizer, [example.response for example in examples], literal=True)
    for example, prompt, head, tail in zip(examples, prompts, prompt_ids, response_ids, strict=True):
        yield {
            "example_id": example.example_id,
            "input_ids": np.array([*head, *tail, tokenizer.eos_token_id], dtype=np.int32),
            "prompt_length": len(head),
            "prompt": prompt,
            "response": example.response,
            "answer": example.answer,
        }


def _render(tokenizer: PreTrainedTokenizerFast, example: Example, place: str) -> str:
    """The prompt's text: through the chat template, up to where the answer starts, or as it is without one."""
    if tokenizer.chat_template is None:
        return example.prompt
    try:
        text = tokenizer.apply_chat_template(example.messages, tokenize=False, add_generation_prompt=True)
    except jinja2.TemplateError as error:
        raise UserError(f"{place}: the tokenizer's chat template does not accept the prompt: {error}") from error
    assert isinstance(text, str)
    return text


def _prompt_ids(tokenizer: PreTrainedTokenizerFast, prompts: list[str]) -> list[list[int]]:
    if tokenizer.chat_template is not None:
        return _ids(tokenizer, prompts, literal=False)  # the template itself writes the special tokens
    ids = _ids(tokenizer, prompts, literal=True)
    start = _start_ids(tokenizer, prompts[0], ids[0])
    return [start + tail for tail in ids]


def _start_ids(tokenizer: PreTrainedTokenizerFast, text: str, bare: list[int]) -> list[int]:
    """What the tokenizer itself puts before a text, such as Llama's beginning-of-sequence token."""
    full = tokenizer(text, add_special_tokens=True, split_special_tokens=True, verbose=False)["input_ids"]
    start = next(i for i in range(len(full)) if full[i : i + len(bare)] == bare)
    return full[:start]


def _ids(tokenizer: PreTrainedTokenizerFast, texts: list[str], literal: bool) -> list[list[int]]:
    """Token ids without added special tokens; `literal` reads a special token's name in a text as mere characters."""
    return tokenizer(
        texts,
        add_special_tokens=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        split_special_tokens=literal,
        verbose=False,
    )["input_ids"]


def _check_not_empty(splits: dict[str, Prepared], data: DataConfig) -> None:
    for name, split in splits.items():
        if not split.counts["kept"]:
            raise UserError(
                f"data.max_length: no {name} row has {data.max_length} tokens or fewer (the longest has "
                f"{split.counts['longest']}). Raise data.max_length"
            )


def _meta(data: DataConfig, digest: str, sources: dict[str, Examples], splits: dict[str, Prepared]) -> dict[str, Any]:
    return {
        "format": FORMAT_VERSION,
        "hash": digest,
        "task": data.task,
        "sources": {
            name: {"rows_read": source.rows_read, "bad_rows": source.bad_rows} for name, source in sources.items()
        },
        "counts": {name: split.counts for name, split in splits.items()},
    }


def _write(folder: Path, splits: dict[str, Prepared], tokenizer: PreTrainedTokenizerFast, meta: dict[str, Any]) -> None:
    """Write a folder beside the target and rename it, so that a reader sees a whole folder or none."""
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    temporary.mkdir(parents=True)
    try:
        for name, split in splits.items():
            pyarrow.parquet.write_table(split.table, temporary / f"{name}.parquet")
        tokenizer.save_pretrained(temporary / "tokenizer")
        (temporary / "meta.json").write_text(json.dumps(meta, indent=2), encoding="utf-8")
        try:
            temporary.rename(folder)
        except OSError:
            if not (folder / "meta.json").is_file():
                raise
            # Another process finished the same folder first; its content is equal.
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
