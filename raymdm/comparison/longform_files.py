"""Long tables from CSV and Parquet files: types checked, rows named as a person counts them."""

import csv
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from raymdm.comparison.labels import first_few
from raymdm.errors import UserError

RUN = ["task", "model", "method", "seed"]
RESULTS = [*RUN, "metric", "value"]
SCORES = [*RUN, "example_id", "score"]
NUMBERS = ("value", "score")
WHOLE = re.compile(r"([+-]?)0*(\d{1,20})(\.0*)?", re.ASCII)
EXACT = 2**53
"""Whole numbers up to here are told apart once they have been through a float."""
SHOWN = 5
"""Rows that a message names; it counts the others."""


class Table(NamedTuple):
    """A long table and how to speak of it."""

    frame: pd.DataFrame
    """RESULTS or SCORES; text as categories, seeds as int64 or uint64, other numbers as float64 with NaN for an
    empty field."""
    source: str
    """For messages."""
    name_rows: Callable[[np.ndarray], str] | None
    """Names rows (ascending positions in `frame`), the first few of them: `lines 4, 7 and 12 more`."""
    ignored: list[str]
    """Columns that were not read."""

    def at(self, bad: np.ndarray) -> str:
        """Where the rows are that `bad`, a mask, marks: for the start of a message."""
        positions = np.flatnonzero(bad)
        return f"{self.source}, {self.name_rows(positions)}" if self.name_rows else f"{self.source}"


def read_table(path: Path, columns: list[str]) -> Table:
    """Read a file in long form, CSV or Parquet by its suffix.

    Raises UserError where it cannot be read, lacks a column, has no row, or holds text where a number should be, or a
    seed that is not whole or has more than 64 bits.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise UserError(f"{path}: {what}; name a CSV or Parquet file with the columns {', '.join(columns)}")
    if path.suffix not in (".csv", ".parquet"):
        raise UserError(f"{path}: expected a file that ends in .csv or .parquet")
    is_csv = path.suffix == ".csv"
    held = _csv_header(path) if is_csv else _parquet_header(path)
    if missing := [name for name in columns if name not in held]:
        raise UserError(
            f"{path}: no column {', '.join(missing)}. Expected {', '.join(columns)}, one row for each number; the file "
            f"has {', '.join(held)}"
        )
    if twice := [name for name in columns if held.count(name) > 1]:
        raise UserError(f"{path}: column {', '.join(twice)} comes twice; keep one")
    table = _read_csv(path, columns) if is_csv else _read_parquet(path, columns)
    if not len(table):
        raise UserError(f"{path}: no rows below the header; there is nothing to compare")
    ignored = [name for name in held if name not in columns]
    return _with_seeds(Table(table, str(path), partial(_lines if is_csv else _rows, path), ignored))


def as_table(frame: pd.DataFrame, columns: list[str], source: str) -> Table:
    """A frame in long form, as `read_table` would give it."""
    typed = {
        name: frame[name].astype("float64") if name in NUMBERS else frame[name].astype("category") for name in columns
    }
    return _with_seeds(Table(pd.DataFrame(typed).reset_index(drop=True), source, None, []))


def _with_seeds(table: Table) -> Table:
    """The table with its seeds, categories of text or numbers, as whole numbers; raises UserError for what is none."""
    given = table.frame["seed"].cat.remove_unused_categories().cat
    codes, texts = given.codes.to_numpy(), given.categories.tolist()
    seeds = [_seed(text) for text in texts]
    unsigned = all(seed is None or seed >= 0 for seed in seeds)
    low, high = (0, 2**64) if unsigned else (-(2**63), 2**63)
    unfit = [place for place, seed in enumerate(seeds) if seed is None or not low <= seed < high]
    bad = np.isin(codes, [-1, *unfit])
    if bad.any():
        shown = [repr(texts[code]) if code >= 0 and texts[code] != "" else "empty" for code in codes[bad]]
        raise UserError(
            f"{table.at(bad)}: seed must be a whole number, not {first_few(shown, SHOWN)}. Write all its digits, which "
            "must fit 64 bits, sign included, and no fraction"
        )
    kind = "uint64" if any(seed is not None and seed >= 2**63 for seed in seeds) else "int64"
    return table._replace(frame=table.frame.assign(seed=np.array(seeds, dtype=kind)[codes]))


def _seed(given: object) -> int | None:
    """What a field says, exactly; None where it is no whole number, or a float that may stand for several."""
    if isinstance(given, str):
        match = WHOLE.fullmatch(given.strip())
        if match is None:
            return None
        seed = int(match[1] + match[2])
        return seed if match[3] is None or abs(seed) < EXACT else None
    if isinstance(given, float):
        return int(given) if given.is_integer() and abs(given) < EXACT else None
    assert isinstance(given, int)
    return given


def _csv_header(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = next((row for row in csv.reader(file) if row), [])
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason}); save it as CSV in UTF-8") from error
    if not header:
        raise UserError(f"{path}: the file is empty; expected a header and a row for each number")
    return header


def _parquet_header(path: Path) -> list[str]:
    try:
        return list(pyarrow.parquet.read_schema(path).names)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: not a Parquet file: {error}") from error


def _read_csv(path: Path, columns: list[str]) -> pd.DataFrame:
    text = pa.dictionary(pa.int32(), pa.string())
    types = {name: pa.float64() if name in NUMBERS else text for name in columns}
    try:
        table = pyarrow.csv.read_csv(
            path, convert_options=pyarrow.csv.ConvertOptions(column_types=types, include_columns=columns)
        )
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise UserError(_why(path, columns) or f"{path}: not a CSV file: {error}") from error
    return _frame(table)


def _why(path: Path, columns: list[str]) -> str:
    try:
        return _what_is_wrong(path, columns)
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        return f"{path}: not a CSV file in UTF-8: {error}"  # with the row, which one thread alone knows


def _what_is_wrong(path: Path, columns: list[str]) -> str:
    """Why a CSV file could not be read as typed; "" where this does not show it. Slow: one thread, all text."""
    torn: list[int] = []

    def skip(row: pyarrow.csv.InvalidRow) -> str:
        torn.append(row.number - 2)  # it counts from 1, the header first
        return "skip"

    table = pyarrow.csv.read_csv(
        path,
        read_options=pyarrow.csv.ReadOptions(use_threads=False),
        parse_options=pyarrow.csv.ParseOptions(invalid_row_handler=skip),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(columns, pa.string()), include_columns=columns, strings_can_be_null=True
        ),
    )
    if torn:
        return f"{path}, {_lines(path, np.array(torn))}: another number of fields than the header has. Correct the rows"
    for name in [name for name in columns if name in NUMBERS]:
        given = table[name].to_pandas()
        bad = (pd.to_numeric(given, errors="coerce").isna() & given.notna()).to_numpy()
        if bad.any():
            shown = first_few([repr(text) for text in given[bad]], SHOWN)
            return f"{path}, {_lines(path, np.flatnonzero(bad))}: {name} must be a number, not {shown}"
    return ""


def _read_parquet(path: Path, columns: list[str]) -> pd.DataFrame:
    text = [name for name in columns if name not in NUMBERS]
    table = pyarrow.parquet.read_table(path, columns=columns, read_dictionary=text)
    arrays = {}
    for name in columns:
        kind = table.schema.field(name).type
        value = kind.value_type if pa.types.is_dictionary(kind) else kind
        if name in NUMBERS:
            fits = pa.types.is_integer(kind) or pa.types.is_floating(kind)
            expected = "numbers"
        else:
            fits = pa.types.is_string(value) or pa.types.is_large_string(value)
            expected = "text"
            if name in ("seed", "example_id"):
                fits, expected = fits or pa.types.is_integer(value), "whole numbers or text"
            if name == "seed":
                fits = fits or pa.types.is_floating(value)
        if not fits:
            raise UserError(f"{path}: column {name} must hold {expected}, not {kind}. Write the file again")
        if name in NUMBERS:
            arrays[name] = table[name].cast(pa.float64())
        elif pa.types.is_floating(kind):
            arrays[name] = pa.array(table[name].to_pandas(), from_pandas=True).dictionary_encode()  # NaN is empty
        else:
            arrays[name] = table[name] if pa.types.is_dictionary(kind) else pc.dictionary_encode(table[name])
    return _frame(pa.table(arrays))


def _frame(table: pa.Table) -> pd.DataFrame:
    frame: pd.DataFrame = table.to_pandas(self_destruct=True)
    return frame


def _rows(path: Path, positions: np.ndarray) -> str:
    return _named("row", [int(place) + 1 for place in positions[:SHOWN]], len(positions))


def _lines(path: Path, positions: np.ndarray) -> str:
    """Lines of the file: blank ones count, and a quoted field may hold several."""
    wanted = positions[:SHOWN].tolist()
    found, position, start = [], -1, 1
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        for row in reader:
            if row:
                if position in wanted:
                    found.append(start)
                position += 1
            start = reader.line_num + 1
            if len(found) == len(wanted):
                break
    return _named("line", found, len(positions))


def _named(word: str, numbers: Sequence[int], count: int) -> str:
    text = ", ".join(map(str, numbers))
    more = f" and {count - len(numbers):,} more" if count > len(numbers) else ""
    return f"{word}{'s' if count > 1 else ''} {text}{more}"
