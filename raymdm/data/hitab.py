r"""HiTab: questions about tables with several levels of headers, the table written as HTML in the prompt.

The folder `data.path`, as `microsoft/HiTab` has it in `data/` after `unzip -d data/ data/tables.zip`:

- `train_samples.jsonl`, `dev_samples.jsonl`, `test_samples.jsonl`: a JSON object a line. Read here: `table_id` (text),
  `question` (text), `answer` (a list of numbers and texts). Left alone: `id`, `table_source`, `sub_sentence`,
  `aggregation`, `linked_cells`, `answer_formulas`, `reference_cells_map` and the rest. Ours, and optional: `response`,
  a text with reasoning that ends in the answer in \boxed{}; of test samples it is not read.
- `tables/raw/TABLE_ID.json`: an object with `title` (text), `texts` (rows of cells; a merged cell's text stands in its
  top left cell, its others are empty), `merged_regions` (`first_row`, `last_row`, `first_column`, `last_column`, from
  0, all included), `top_header_rows_num`, `left_header_columns_num`, and the trees of headers `top_root` and
  `left_root`, which are not read: rows under a heading of the left header are told by their order alone.

Samples and the fields of tables are as the README and files of `microsoft/HiTab` show them. Its zip file of tables was
not at hand, so that `title` and the folder `raw` rest on programs of others that read them. `tables/hmt/` holds the
same tables without `texts`, and cannot be used.
"""

import html
import json
from collections.abc import Iterable, Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from raymdm.config.schema import DataConfig
from raymdm.data.answers import SEPARATOR, boxed_answer, equivalent, in_box
from raymdm.data.rows import Message, Row, RowError, source_file
from raymdm.data.splits import Source
from raymdm.errors import UserError

INSTRUCTION = (
    r"Answer the question with the table above. Put the answer, and nothing else, in \boxed{}. Numbers need no unit. "
    "If there are several answers, separate them by semicolons."
)

TOLERANCE = Fraction(1, 100)
"""Numbers that differ by less are the same: answers that are computed from cells are not rounded in the samples."""

Cell = str | int | float | None


class _Region(NamedTuple):
    """Rows and columns of a merged cell, the last ones included."""

    first_row: int
    last_row: int
    first_column: int
    last_column: int


def with_tables(data: DataConfig, source: Source, rows: Iterable[Row]) -> Iterator[Row]:
    """The samples with their tables in the column `table`; one whose table is missing or broken carries the problem.

    Raises UserError when the samples are no local file, or `data.format` asks for other columns.
    """
    if data.format != "auto":
        raise UserError(
            f"data.format: {data.format!r} has no meaning for task 'hitab', whose columns are given. Remove it"
        )
    file = source_file(data, source)
    if file is None:
        raise UserError(
            f"data.path: {data.path!r} has no train_samples.jsonl and test_samples.jsonl. Task 'hitab' reads a local "
            "folder: `data/` of microsoft/HiTab with tables.zip unpacked in it"
        )
    for row in rows:
        try:
            fields = dict(row.fields)
            if source == "test":
                fields.pop("response", None)  # a wrong one would leave the sample out of the test
            yield row if row.problem else row._replace(fields=fields | {"table": _table(file.parent, fields)})
        except RowError as error:
            yield row._replace(problem=str(error))


def _table(folder: Path, fields: dict[str, Any]) -> dict[str, Any]:
    name = fields.get("table_id")
    if not isinstance(name, str) or not name or Path(name).name != name or name.startswith("."):
        raise RowError(f"column 'table_id' must be the name of a table's file, not {name!r}")
    file = folder / "tables" / "raw" / f"{name}.json"
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RowError(f"its table {file} does not exist. Unpack tables.zip in {folder}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise RowError(f"its table {file} can't be read: {error}") from error
    if not isinstance(table, dict):
        raise RowError(f"its table {file} must be a JSON object")
    return table


def read_sample(fields: dict[str, Any]) -> tuple[list[Message], str, str]:
    r"""The prompt, the response and the reference answer of a sample with its table.

    The response is the column `response`, or \boxed{ANSWER} where there is none. Raises RowError, also for a response
    whose answer is not the sample's: with `data.on_bad_row: skip` generated ones are so rejected.
    """
    question = fields.get("question")
    if not isinstance(question, str) or not question.strip():
        raise RowError("column 'question' must be a text")
    answer = _answer(fields.get("answer"))
    response = _checked(fields["response"], answer) if "response" in fields else in_box(answer)
    prompt = f"{to_html(fields['table'])}\n\nQuestion: {question.strip()}\n\n{INSTRUCTION}"
    return [{"role": "user", "content": prompt}], response, answer


def _checked(response: Any, answer: str) -> str:
    if not isinstance(response, str):
        raise RowError(f"column 'response' must be text, not {type(response).__name__}. Fill it, or remove the column")
    said = boxed_answer(response)
    if said is None:
        raise RowError(r"the response has no answer in \boxed{}")
    if not equivalent(said, answer, TOLERANCE):
        raise RowError(f"the response answers {said!r}, the sample {answer!r}")
    return response


def _answer(values: Any) -> str:
    """Several answers are joined by the separator, in the sample's order."""
    if not isinstance(values, list) or not values:
        raise RowError("column 'answer' must be a list of numbers and texts, with one at least")
    if any(isinstance(value, bool) or not isinstance(value, str | int | float) for value in values):
        raise RowError(f"column 'answer' must be a list of numbers and texts, not {values!r}")
    answer = f"{SEPARATOR} ".join(map(_text, values))
    if not answer.strip(f" {SEPARATOR}"):
        raise RowError("column 'answer' holds nothing but empty texts")
    return answer


def _text(cell: Cell) -> str:
    """A cell or an answer in one line; 154983.0 is written 154983."""
    if isinstance(cell, float):
        digits = format(Decimal(repr(cell)), "f")
        return digits.rstrip("0").rstrip(".") if "." in digits else digits
    return "" if cell is None else " ".join(str(cell).split())


def to_html(table: dict[str, Any]) -> str:
    """A table in HTML, a row a line: the title as caption, header cells as <th>, merged cells with their spans.

    Raises RowError for a table that is not of HiTab's form.
    """
    texts, regions = _texts(table), _regions(table)
    top, left = (_count(table, name) for name in ("top_header_rows_num", "left_header_columns_num"))
    title = _text(table.get("title"))
    lines = ["<table>", *([f"<caption>{html.escape(title, quote=False)}</caption>"] if title else [])]
    head, width = range(min(top, len(texts))), max(map(len, texts))
    for tag, rows, headers in (("thead", head, width), ("tbody", range(top, len(texts)), left)):
        if rows:
            lines += [f"<{tag}>", *_section(texts, regions, rows, headers), f"</{tag}>"]
    return "\n".join([*lines, "</table>"])


def _section(texts: list[list[Cell]], regions: list[_Region], rows: range, headers: int) -> Iterator[str]:
    """The rows of one section; a merged cell that reaches beyond it is cut, as HTML would do."""
    # in reverse: of regions with one corner the first holds
    corners = {
        (max(region.first_row, rows.start), region.first_column): region
        for region in reversed(regions)
        if region.last_row >= rows.start
    }
    hidden: set[tuple[int, int]] = set()
    for row in rows:
        cells = []
        for column in range(len(texts[row])):
            if (row, column) in hidden:
                continue
            bottom, right = row, column
            if region := corners.get((row, column)):
                last_row = min(region.last_row, rows.stop - 1)
                last_column = min(region.last_column, len(texts[row]) - 1)
                covered = {(r, c) for r in range(row, last_row + 1) for c in range(column, last_column + 1)}
                if not covered & hidden:  # of regions that overlap the first holds
                    bottom, right = last_row, last_column
                    hidden |= covered
            tag = "th" if column < headers else "td"
            cells.append(_cell(tag, _text(texts[row][column]), bottom - row + 1, right - column + 1))
        yield f"<tr>{''.join(cells)}</tr>"


def _cell(tag: str, text: str, rows: int, columns: int) -> str:
    spans = (f' rowspan="{rows}"' if rows > 1 else "") + (f' colspan="{columns}"' if columns > 1 else "")
    return f"<{tag}{spans}>{html.escape(text, quote=False)}</{tag}>"


def _texts(table: dict[str, Any]) -> list[list[Cell]]:
    texts = table.get("texts")
    if not isinstance(texts, list) or not texts or not all(isinstance(row, list) and row for row in texts):
        raise RowError("its table has no 'texts', rows of cells. Use the tables of tables/raw, not of tables/hmt")
    if any(cell is not None and not isinstance(cell, str | int | float) for row in texts for cell in row):
        raise RowError("a cell in its table's 'texts' is neither text nor number")
    return texts


def _regions(table: dict[str, Any]) -> list[_Region]:
    regions = table.get("merged_regions")
    try:
        found = [_Region(*(region[name] for name in _Region._fields)) for region in regions or []]
    except (TypeError, KeyError) as error:
        raise RowError(f"its table's 'merged_regions' need {', '.join(_Region._fields)} each") from error
    if any(not isinstance(edge, int) for region in found for edge in region):
        raise RowError("its table's 'merged_regions' must hold whole numbers")
    return found


def _count(table: dict[str, Any], name: str) -> int:
    count = table.get(name)
    if not isinstance(count, int) or count < 0:
        raise RowError(f"its table's {name!r} must be a whole number, not {count!r}")
    return count
