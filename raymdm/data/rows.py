"""Raw rows from local files or a `datasets` name, and the conversation a row holds."""

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow
import pyarrow.parquet

from raymdm.config.schema import DataConfig
from raymdm.data.splits import Part, Source, check_splits, local_part, split_name, split_part
from raymdm.errors import UserError

Message = dict[str, str]

_SUFFIXES = (".jsonl", ".parquet")
_PAIRS = {"prompt_response": ("prompt", "response"), "question_answer": ("question", "answer")}


class RowError(ValueError):
    """A row that can't be used; the message is the reason alone, the reader adds file and line."""


class Row(NamedTuple):
    """One raw row: its place (0-based line or row of its split) and its columns, or why it could not be read."""

    example_id: int
    fields: dict[str, Any]
    problem: str | None = None


def source_file(data: DataConfig, source: Source) -> Path | None:
    """The local file of a source, or None when `datasets` has to load it.

    A relative `data.path` starts at the current directory. Raises UserError when the path is clearly a local one
    that doesn't hold this source.
    """
    assert data.path is not None, "generated tasks have no source file"
    check_splits(data)
    path = Path(data.path).expanduser()
    file: Path | None = None
    if path.is_file():
        file = _single_file(path, data, source)
    elif path.is_dir():
        file = _file_in_folder(path, data, source)
    elif path.is_absolute() or data.path.startswith((".", "~")) or path.suffix in _SUFFIXES:
        raise UserError(f"data.path: {data.path!r} does not exist (looked for {path.absolute()}). Correct the path")
    if file is not None and data.subset is not None:
        raise UserError(
            f"data.subset: {data.subset!r} has no meaning for the local file {file}; it names a configuration of a "
            "`datasets` name. Remove it"
        )
    return file


def _single_file(path: Path, data: DataConfig, source: Source) -> Path:
    if path.suffix not in _SUFFIXES:
        raise UserError(f"data.path: {path} is not a .jsonl or .parquet file. Convert it to one of the two")
    if source == "test" and local_part(data, "test").name != local_part(data, "train").name:
        raise UserError(
            f"data.path: {path} is one file, which holds the training split alone; the test split is missing. "
            "Put both, such as train.jsonl and test.jsonl, into one folder and set data.path to the folder; or take "
            "both from this file, such as data.train_split=train[:5000] data.test_split=train[5000:]"
        )
    return path


def _file_in_folder(folder: Path, data: DataConfig, source: Source) -> Path | None:
    """The file of a split; None when the folder has neither split, so that `datasets` may know its layout."""
    own, other = split_part(data, source), split_part(data, "test" if source == "train" else "train")
    found = _files(folder, own.name, data) if own else []
    others = _files(folder, other.name, data) if other else []
    if len(found) > 1:
        raise UserError(f"data.path: {folder} holds both {found[0].name} and {found[1].name}. Keep one of them")
    if found:
        if own and other and own.overlaps(other._replace(name=own.name)) and any(map(found[0].samefile, others)):
            raise UserError(
                f"data.train_split and data.test_split: {data.train_split!r} and {data.test_split!r} are rows of one "
                f"file, {found[0]}, and have rows in common. Name two files, or parts that do not overlap"
            )
        return found[0]
    if others:
        name = f"{local_part(data, source).name}{'_samples' if data.task == 'hitab' else ''}"
        raise UserError(
            f"data.path: {folder} has no {name}.jsonl or {name}.parquet. Add the file, or name another one with "
            "data.train_split and data.test_split"
        )
    return None


def _files(folder: Path, name: str, data: DataConfig) -> list[Path]:
    """The files in a folder that a split's name may stand for; HiTab's own files end in `_samples`."""
    stems = (name, f"{name}_samples") if data.task == "hitab" else (name,)
    return [file for stem in stems for suffix in _SUFFIXES if (file := folder / f"{stem}{suffix}").is_file()]


def read_rows(data: DataConfig, source: Source) -> Iterator[Row]:
    """Rows of a source, lazily and in file order; a broken one carries its problem. Blank JSON lines don't count.

    Raises UserError when the source can't be found, opened or has no row, or too few for the part that is asked for.
    """
    file = source_file(data, source)
    if file is None:
        part = split_part(data, source)
        first = part.start if part else 0  # `datasets` counts the rows of a part from 0
        rows: Iterable[Row] = (Row(first + i, dict(fields)) for i, fields in enumerate(_load_dataset(data, source)))
    else:
        whole = _json_rows(file) if file.suffix == ".jsonl" else _parquet_rows(file)
        rows = _rows_of(whole, local_part(data, source), source_label(data, source))
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:
        raise UserError(f"{source_label(data, source)}: the file is empty. At least one row is needed")


def _rows_of(rows: Iterable[Row], part: Part, label: str) -> Iterator[Row]:
    """The rows of a part; a broken row counts as one. Raises UserError when the file ends before the part does."""
    read = 0
    for row in rows:
        if read == part.stop:
            return
        if read >= part.start:
            yield row
        read += 1
    _check_within(part, read, label)


def _check_within(part: Part, rows: int, label: str) -> None:
    if not part.is_whole and rows < max(part.stop or 0, part.start + 1):
        raise UserError(
            f"{label}: rows {part.start} to {part.stop or 'the end'} are asked for, but it has {rows}. Ask for fewer"
        )


def check_part(data: DataConfig, source: Source) -> None:
    """Raise UserError when a local file ends before the part of it that is asked for; its rows are not read."""
    file = source_file(data, source)
    if file is None or (part := local_part(data, source)).is_whole:
        return
    if file.suffix == ".parquet":
        count = _parquet_count(file)
    else:
        with file.open("rb") as lines:
            count = sum(1 for _ in islice(filter(bytes.strip, lines), part.stop))
    _check_within(part, count, source_label(data, source))


def source_label(data: DataConfig, source: Source) -> str:
    """How messages name a source: its file, `datasets` name and split, or generated task."""
    if data.task in ("sorting", "reasoning_gym"):
        return f"generated {data.task} rows ({source})"
    file = source_file(data, source)
    return str(file) if file is not None else f"{data.path} (split {split_name(data, source)!r})"


def row_place(data: DataConfig, source: Source, example_id: int) -> str:
    """How messages name a row: its source and its 1-based line (.jsonl) or row."""
    label = source_label(data, source)
    return f"{label}, {'line' if label.endswith('.jsonl') else 'row'} {example_id + 1}"


def _json_rows(file: Path) -> Iterator[Row]:
    try:
        with file.open("rb") as lines:
            for index, line in enumerate(lines):
                if line.strip():
                    yield _json_row(index, line)
    except OSError as error:
        raise UserError(f"{file}: can't be read: {error}") from error


def _json_row(index: int, line: bytes) -> Row:
    try:
        fields = json.loads(line)
    except UnicodeDecodeError:
        return Row(index, {}, "not UTF-8 text")
    except (ValueError, RecursionError) as error:  # a number of thousands of digits is a ValueError of its own
        return Row(index, {}, f"not valid JSON ({error})")
    if not isinstance(fields, dict):
        return Row(index, {}, f"a row must be a JSON object, not {type(fields).__name__}")
    return Row(index, fields)


def _parquet_count(file: Path) -> int:
    try:
        return int(pyarrow.parquet.read_metadata(file).num_rows)
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{file}: can't be read as parquet: {error}") from error


def _parquet_rows(file: Path) -> Iterator[Row]:
    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            index = 0
            for batch in table.iter_batches():
                for fields in batch.to_pylist():
                    yield Row(index, fields)
                    index += 1
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{file}: can't be read as parquet: {error}") from error


def _load_dataset(data: DataConfig, source: Source) -> Iterable[Any]:
    import datasets  # here because it takes seconds, which local files need not pay

    assert data.path is not None
    path, split = Path(data.path).expanduser(), split_name(data, source)
    try:
        return datasets.load_dataset(str(path) if path.is_dir() else data.path, data.subset, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise UserError(
            f"data.path: {data.path!r} is neither a file nor a folder with {split}.jsonl or {split}.parquet "
            f"(looked for {path.absolute()}), and `datasets` could not load split {split!r} of it: {error}. "
            "Correct data.path, data.subset or the split"
        ) from error


def conversation(fields: dict[str, Any], layout: str) -> tuple[list[Message], str]:
    """The prompt's messages and the response of a row, in the layout of `data.format`.

    `auto` takes the first of messages, prompt_response and question_answer whose columns the row has.
    Raises RowError with the reason when the row doesn't fit.
    """
    if layout == "auto":
        layout = _detect(fields)
    if layout == "messages":
        messages, response = _from_messages(fields)
        return _not_empty(messages, response)
    return prompt_and_response(fields, *_PAIRS[layout])


def prompt_and_response(fields: dict[str, Any], prompt: str, response: str) -> tuple[list[Message], str]:
    """The prompt as a message, and the response, of a row that has each in a column. Raises RowError."""
    return _not_empty([{"role": "user", "content": _text(fields, prompt)}], _text(fields, response))


def _not_empty(messages: list[Message], response: str) -> tuple[list[Message], str]:
    if not any(message["content"].strip() for message in messages):
        raise RowError("the prompt is empty")
    if not response.strip():
        raise RowError("the response is empty")
    return messages, response


def _detect(fields: dict[str, Any]) -> str:
    if "messages" in fields:
        return "messages"
    for layout, columns in _PAIRS.items():
        if all(column in fields for column in columns):
            return layout
    found = ", ".join(sorted(map(str, fields))) or "none"
    raise RowError(f"expected messages, prompt and response, or question and answer; found columns: {found}")


def _text(fields: dict[str, Any], column: str) -> str:
    if column not in fields:
        raise RowError(f"column {column!r} is missing")
    if not isinstance(fields[column], str):
        raise RowError(f"column {column!r} must be text, not {type(fields[column]).__name__}")
    return fields[column]


def _from_messages(fields: dict[str, Any]) -> tuple[list[Message], str]:
    """Split at the last assistant message: it is the response, and what stands before it the prompt."""
    messages = fields.get("messages")
    if not isinstance(messages, list):
        raise RowError("column 'messages' must be a list of {role, content}")
    for number, message in enumerate(messages, start=1):
        fits = isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))
        if not fits:
            raise RowError(f"message {number} must have a role and a content, both text")
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if not answers:
        raise RowError("no message with role 'assistant', so there is no response")
    prompt = [{"role": m["role"], "content": m["content"]} for m in messages[: answers[-1]]]
    return prompt, messages[answers[-1]]["content"]
