"""Names of splits, and parts of them: `train`, `train[:5000]`, `train[5000:6000]`."""

import re
from typing import Literal, NamedTuple

from raymdm.config.schema import DataConfig
from raymdm.errors import UserError

Source = Literal["train", "test"]

_PART = re.compile(r"(?P<name>[^\[\]]*)(?:\[(?P<start>[0-9]{0,18}):(?P<stop>[0-9]{0,18})\])?")


class Part(NamedTuple):
    """Rows start to stop - 1 of a split, from 0; without a stop to its end."""

    name: str
    start: int = 0
    stop: int | None = None

    @property
    def is_whole(self) -> bool:
        """Whether it is all of the split."""
        return self.start == 0 and self.stop is None

    def overlaps(self, other: "Part") -> bool:
        """Whether the two can have a row in common."""
        starts_before_end = self.stop is None or other.start < self.stop
        return self.name == other.name and starts_before_end and (other.stop is None or self.start < other.stop)


def split_name(data: DataConfig, source: Source) -> str:
    """What the recipe calls a source, as `datasets` takes it: `train[:5000]`."""
    return data.train_split if source == "train" else data.test_split


def split_part(data: DataConfig, source: Source) -> Part | None:
    """The rows that a source stands for; None when only the `datasets` library may know the notation.

    Raises UserError for a part that holds no row.
    """
    text = split_name(data, source)
    match = _PART.fullmatch(text)
    if match is None:
        return None
    start, stop = int(match["start"] or 0), int(match["stop"]) if match["stop"] else None
    if not match["name"] or (stop is not None and start >= stop):
        raise UserError(
            f"data.{source}_split: {text!r} holds no row. Write NAME, NAME[:STOP], NAME[START:] or NAME[START:STOP], "
            "rows counted from 0 and STOP not included"
        )
    return Part(match["name"], start, stop)


def local_part(data: DataConfig, source: Source) -> Part:
    """The same for a local file, where no other notation is known. Raises UserError."""
    part = split_part(data, source)
    if part is None:
        raise UserError(
            f"data.{source}_split: {split_name(data, source)!r} cannot be read. Local files take NAME, NAME[:STOP], "
            "NAME[START:] or NAME[START:STOP] with whole numbers of rows; percentages and sums are for names that "
            "`datasets` loads"
        )
    return part


def check_splits(data: DataConfig) -> None:
    """Raise UserError when training and test rows are of one split and have rows in common.

    Of what only `datasets` can read, such as percentages and sums, no two parts may be of one split.
    """
    train, test = split_part(data, "train"), split_part(data, "test")
    names = _whole_names(data.train_split), _whole_names(data.test_split)
    shared = names[0] & names[1] or "all" in names[0] | names[1]  # `all` is the sum of all splits
    plain = train is not None and test is not None and "all" not in names[0] | names[1]
    if shared and not (plain and len(names[0]) == len(names[1]) == 1):
        raise UserError(
            f"data.train_split and data.test_split: {data.train_split!r} and {data.test_split!r} are of one split and "
            "may have rows in common, so the test could be of rows that were trained on. Choose different splits, or "
            "parts that do not overlap, in whole numbers of rows: NAME[:STOP], NAME[START:] or NAME[START:STOP]"
        )
    if train is not None and test is not None and train.overlaps(test):
        raise UserError(
            f"data.train_split and data.test_split: {data.train_split!r} and {data.test_split!r} have rows in common, "
            "so the test would be of rows that were trained on. Choose parts that do not overlap"
        )


def _whole_names(text: str) -> set[str]:
    """The splits that a notation takes rows of: `train[:10%]+test` takes them of train and test."""
    return {piece.partition("[")[0].strip() for piece in text.split("+")}
