"""From rows to a folder of tokenised splits, made once for a recipe and reused.

The folder's name is a hash of everything that decides its content.
"""

import hashlib
import json
import logging
import shutil
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow
import pyarrow.parquet
from transformers import PreTrainedTokenizerFast

from raymdm.config.schema import DataConfig, ModelConfig
from raymdm.data.encode import tokenised_rows
from raymdm.data.generated import GENERATED_TASKS, generator_version
from raymdm.data.rows import check_part, source_file
from raymdm.data.splits import Source
from raymdm.data.tasks import Example, Examples, delimiters, example_texts, read_examples, source_rows, syntax_pattern
from raymdm.data.tokenizer import EOS, check_learnt, load_tokenizer
from raymdm.errors import UserError
from raymdm.keys import generator

FORMAT_VERSION = 4
"""Raised whenever the same rows would be prepared differently."""

_BATCH = 1000
ROWS_CHECKED = 8
"""Rows of each split that `check_source` reads."""

_SOURCES: tuple[Source, ...] = ("train", "test")
_SCHEMA = pyarrow.schema(
    {
        "example_id": pyarrow.int64(),
        "input_ids": pyarrow.list_(pyarrow.int32()),
        "prompt_length": pyarrow.int32(),
        "prompt": pyarrow.string(),
        "response": pyarrow.string(),
        "answer": pyarrow.string(),
        "syntax": pyarrow.list_(pyarrow.int32()),
        "delimiter": pyarrow.list_(pyarrow.int32()),
    }
)
_log = logging.getLogger(__name__)


class Prepared(NamedTuple):
    """A tokenised split with the counts that meta.json keeps."""

    table: pyarrow.Table
    counts: dict[str, float]


def prepare(data: DataConfig, model: ModelConfig, cache: Path, family: str = "mdm") -> Path:
    """Make, or find, the folder `cache/<hash>` with train, validation and test parquet, tokenizer and meta.json.

    family: what the model is trained as, `mdm` or `arm`, whose responses `data.fill_response_to` leaves alone.
    Safe when several processes prepare the same data at once: each writes a folder of its own, and the first to
    rename it wins. Raises UserError for rows, files or settings that can't be used.
    """
    data = _for_family(data, family)
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
    _count_bad_rows({"train": train, "test": test}, splits)
    _count_repeated_prompts(splits)
    meta = _meta(data, digest, {"train": train, "test": test}, splits)
    _write(folder, splits, tokenizer, meta)
    return folder


def check_source(data: DataConfig, model: ModelConfig, family: str = "mdm") -> None:
    """Fast check before anything long starts: the tokenizer loads, the first rows of both splits can be used, and local
    files have the rows that are asked for.

    Raises the UserError that `prepare` would raise for them.
    """
    data = _for_family(data, family)
    check_learnt(model)
    tokenizer = _pretrained_tokenizer(model)
    eos = EOS if tokenizer is None else _eos(tokenizer)
    # Rows of both sources come from one generator, and training rows only after all test rows.
    sources: tuple[Source, ...] = ("test",) if data.task in GENERATED_TASKS else _SOURCES
    for source in sources:
        if data.path is not None:
            check_part(data, source)
        examples = read_examples(data, source, eos, limit=ROWS_CHECKED).examples
        own = model.tokenizer.kind == "chars"  # whose lengths do not depend on the rows that it is learnt from
        reader = load_tokenizer(model, example_texts(examples)) if own else tokenizer
        if reader is not None and not _tokenise(examples, source, data, model, reader).counts["kept"]:
            _check_all(source, data, model, None if own else reader)


def _check_all(source: Source, data: DataConfig, model: ModelConfig, tokenizer: PreTrainedTokenizerFast | None) -> None:
    """Raise UserError where no row of a split is short enough; not often needed, so it may take what `prepare` does."""
    most = data.max_train_examples if source == "train" else data.max_test_examples
    eos = EOS if tokenizer is None else _eos(tokenizer)
    examples = read_examples(data, source, eos, most).examples
    reader = tokenizer or load_tokenizer(model, example_texts(examples))
    _check_not_empty({source: _tokenise(examples, source, data, model, reader)}, data)


def _for_family(data: DataConfig, family: str) -> DataConfig:
    assert family in ("mdm", "arm")
    return data if family == "mdm" else data.model_copy(update={"fill_response_to": None})


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
    if file is not None and data.task != "hitab":  # whose rows come with tables from other files
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
    """The rows that are short enough: of the test split those whose prompt is, so that the length of the reference
    response, which no model sees, decides nothing."""
    rows: list[dict[str, Any]] = []
    longest = lost = 0
    for start in range(0, len(examples), _BATCH):
        for row in tokenised_rows(examples[start : start + _BATCH], source, data, model, tokenizer):
            longest = max(longest, len(row["input_ids"]))
            lost += row.pop("syntax_lost")
            if (row["prompt_length"] if source == "test" else len(row["input_ids"])) <= data.max_length:
                rows.append(row)
    too_long = len(examples) - len(rows)
    if too_long:
        _log.warning(
            "%d of %d %s are longer than data.max_length (%d tokens) and are left out",
            too_long,
            len(examples),
            "test prompts" if source == "test" else f"{source} rows",
            data.max_length,
        )
    if lost:
        _log.warning(
            "the chat template rewrites the prompts of %d of %d %s rows: their syntax (data.syntax_pattern) can't be "
            "found in the text it makes and is left unmarked, which only `syrm` minds",
            lost,
            len(examples),
            source,
        )
    counts: dict[str, float] = {"rows": len(examples), "too_long": too_long, "kept": len(rows), "longest": longest}
    counts |= _fill_counts(rows, source, data.fill_response_to)
    counts |= _mark_counts(rows, "syntax") | _mark_counts(rows, "delimiter")
    return Prepared(pyarrow.Table.from_pylist(rows, schema=_SCHEMA), counts)


def _fill_counts(rows: list[dict[str, Any]], source: Source, fill: int | None) -> dict[str, float]:
    """How many of the kept rows have a response, its end included, longer than the fill; nothing without one."""
    if fill is None:
        return {}
    longer = sum(len(row["input_ids"]) - row["prompt_length"] > fill for row in rows)
    if longer:
        _log.warning(
            "%d of %d %s responses have more than data.fill_response_to (%d) tokens, their end included, and stay as "
            "they are",
            longer,
            len(rows),
            source,
            fill,
        )
    return {"longer_than_fill": longer}


def _mark_counts(rows: list[dict[str, Any]], kind: str) -> dict[str, float]:
    """How many of the kept rows have a token of this kind, and the mean number of them in a kept row."""
    numbers = [len(row[kind]) for row in rows]
    return {
        f"rows_with_{kind}": sum(number > 0 for number in numbers),
        f"mean_{kind}_tokens": round(sum(numbers) / max(len(rows), 1), 2),
    }


def _check_not_empty(splits: dict[str, Prepared], data: DataConfig) -> None:
    for name, split in splits.items():
        if not split.counts["kept"]:
            raise UserError(
                f"data.max_length: no {name} {'prompt' if name == 'test' else 'row'} has {data.max_length} tokens or "
                f"fewer (the longest row has {split.counts['longest']}). Raise data.max_length"
            )


def _count_bad_rows(sources: dict[str, Examples], splits: dict[str, Prepared]) -> None:
    for name, source in sources.items():
        splits[name].counts["bad_rows"] = source.bad_rows
        if source.bad_rows:
            _log.warning(
                "%d of %d %s rows can't be used and are left out (data.on_bad_row: skip). The first: %s",
                source.bad_rows,
                source.rows_read,
                name,
                source.first_bad,
            )


def _count_repeated_prompts(splits: dict[str, Prepared]) -> None:
    """How many test prompts are also training or validation prompts, and how many validation ones training ones."""
    prompts = {name: split.table["prompt"].to_pylist() for name, split in splits.items()}
    for name, earlier in (("validation", ("train",)), ("test", ("train", "validation"))):
        seen = {prompt for other in earlier for prompt in prompts[other]}
        repeated = splits[name].counts["repeated_prompts"] = sum(prompt in seen for prompt in prompts[name])
        if repeated:
            _log.warning(
                "%d of %d %s prompts are also %s prompts: what is measured on them is not only generalisation",
                repeated,
                len(prompts[name]),
                name,
                " or ".join(earlier).replace("train", "training"),
            )


def _meta(data: DataConfig, digest: str, sources: dict[str, Examples], splits: dict[str, Prepared]) -> dict[str, Any]:
    return {
        "format": FORMAT_VERSION,
        "hash": digest,
        "task": data.task,
        "syntax_pattern": syntax_pattern(data),
        "delimiters": delimiters(data),
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
