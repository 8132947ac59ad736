"""Prepared data in memory, batches of it, and the order in which training sees it.

Shape legend: N examples of a split, B sequences of a batch, L tokens of the batch's longest sequence.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pyarrow.parquet

from raymdm.data.marks import SYNTAX
from raymdm.errors import UserError
from raymdm.keys import generator

# processes that only drive others read prepared folders too: torch and transformers, which take seconds to import, come
# with what computes
if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Split:
    """One split of a prepared folder; entry i of every field is the same example."""

    example_ids: np.ndarray
    """(N,) int64: 0-based row of the file the example came from."""
    input_ids: list[np.ndarray]
    """N read-only arrays int32 of any length: prompt, response and one end-of-sequence token, or as many as fill the
    response (`data.fill_response_to`)."""
    prompt_lengths: np.ndarray
    """(N,) int32: tokens of the prompt."""
    prompts: list[str]
    answers: list[str]
    """References of the scorer."""
    syntax: list[np.ndarray]
    """N read-only arrays int32 of any length: ascending positions (tokens) in `input_ids`, from 0, of the prompt's
    syntax (SyRM)."""
    delimiter: list[np.ndarray]
    """The same for the tokens of the response that announce the answer (ISAD)."""

    def __len__(self) -> int:
        return len(self.input_ids)

    def batch(self, rows: np.ndarray, pad_id: int) -> "Batch":
        """The chosen examples, `rows` (B,) in 0..N-1, as `collate` pads them."""
        return collate(
            [self.input_ids[i] for i in rows],
            self.prompt_lengths[rows],
            pad_id,
            syntax=[self.syntax[i] for i in rows],
            delimiter=[self.delimiter[i] for i in rows],
        )


class Batch(NamedTuple):
    """Right-padded sequences."""

    input_ids: "torch.Tensor"
    """(B, L) int64."""
    attention_mask: "torch.Tensor"
    """(B, L) bool: true where there is a token rather than padding."""
    response_mask: "torch.Tensor"
    """(B, L) bool: the response with its end-of-sequence token."""
    syntax_mask: "torch.Tensor"
    """(B, L) bool: tokens of the prompt that are its syntax."""
    delimiter_mask: "torch.Tensor"
    """(B, L) bool: tokens of the response that announce the answer."""


def eligible_tokens(batch: Batch, which: str) -> "torch.Tensor":
    """The tokens that a method may mask, (B, L) bool (method section 3).

    `response`: the response; `all`: every token that is not padding (pre-training); `syrm`: the response and the
    prompt's syntax. Raises ValueError for any other name.
    """
    if which == "response":
        return batch.response_mask
    if which == "all":
        return batch.attention_mask
    if which == "syrm":
        return batch.response_mask | batch.syntax_mask
    raise ValueError(f"eligible tokens: unknown choice {which!r}; expected response, all or syrm")


def load_split(folder: Path, split: str, max_examples: int | None = None) -> Split:
    """The first `max_examples` examples (null: all) of a split: train, validation or test.

    Raises UserError when the folder holds no such split, or one of an earlier format.
    """
    file = Path(folder) / f"{split}.parquet"
    if not file.is_file():
        raise UserError(f"{file} is not there on this node: `output` must be a folder that all nodes share")
    table = pyarrow.parquet.read_table(file).slice(0, max_examples).combine_chunks()
    if not {"syntax", "delimiter"} <= set(table.column_names):
        raise UserError(f"{file} was prepared by an earlier version of raymdm. Remove its folder and prepare again")
    return Split(
        example_ids=table["example_id"].to_numpy(),
        input_ids=_lists(table, "input_ids"),
        prompt_lengths=table["prompt_length"].to_numpy(),
        prompts=table["prompt"].to_pylist(),
        answers=table["answer"].to_pylist(),
        syntax=_lists(table, "syntax"),
        delimiter=_lists(table, "delimiter"),
    )


def _lists(table: pyarrow.Table, column: str) -> list[np.ndarray]:
    lists = table[column].combine_chunks()
    lengths = lists.value_lengths().to_numpy()
    return np.split(lists.flatten().to_numpy(), np.cumsum(lengths)[:-1])


def meta(folder: Path) -> dict[str, Any]:
    """`meta.json` of a prepared folder: task, content hash and counts. Raises UserError when there is none."""
    file = Path(folder) / "meta.json"
    if not file.is_file():
        raise UserError(f"{folder} is not a prepared data folder: it has no meta.json")
    return json.loads(file.read_text(encoding="utf-8"))


def require_tokens(folder: Path, kind: Literal["syntax", "delimiter"]) -> None:
    """Raise UserError unless a training row of a prepared folder has a token that `syrm` or `isad` is about.

    `syntax`: tokens of the prompt's syntax (SyRM); `delimiter`: tokens that announce the answer (ISAD).
    """
    found = meta(folder)
    counts = found["counts"]["train"]
    if counts[f"rows_with_{kind}"]:
        return
    if kind == "syntax":
        pattern = found["syntax_pattern"]
        sought = "an HTML tag or table markup" if pattern == SYNTAX else f"a match of {pattern!r}"
        raise UserError(
            f"data.syntax_pattern: none of the {counts['kept']} training prompts has {sought}, so `syrm` would be "
            "`standard`. Set it to a regular expression of their syntax, or choose another method"
        )
    texts = ", ".join(map(repr, found["delimiters"]))
    problem = f"none of the {counts['kept']} training responses has one of {texts}" if texts else "none is set"
    raise UserError(
        f"data.delimiters: {problem} (task {found['task']!r}), so `isad` would be `standard`. Set it to the texts that "
        'announce the answer in these responses, such as ["####"], or choose another method'
    )


def tokenizer(folder: Path) -> "PreTrainedTokenizerFast":
    """The tokenizer that a prepared folder was made with; runs no code from a model repository."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(Path(folder) / "tokenizer")


def collate(
    input_ids: Sequence[np.ndarray],
    prompt_lengths: np.ndarray | Sequence[int],
    pad_id: int,
    syntax: Sequence[np.ndarray] | None = None,
    delimiter: Sequence[np.ndarray] | None = None,
) -> Batch:
    """Pad B sequences on the right to the longest one.

    `prompt_lengths` (B,) in tokens; `syntax` and `delimiter`: B arrays of positions, as a Split has them; null marks
    none. What is padding is said by `attention_mask`, never by `pad_id`, which may be the id of a real token.
    """
    import torch

    lengths = np.array([len(ids) for ids in input_ids])
    position = np.arange(lengths.max())[None, :]
    attention = position < lengths[:, None]
    padded = np.full(attention.shape, pad_id, dtype=np.int64)
    padded[attention] = np.concatenate(input_ids)
    response = attention & (position >= np.asarray(prompt_lengths)[:, None])
    marks = [_mask_at(positions, attention.shape) for positions in (syntax, delimiter)]
    return Batch(*map(torch.from_numpy, (padded, attention, response, *marks)))


def _mask_at(positions: Sequence[np.ndarray] | None, shape: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    if positions is not None:
        rows = np.repeat(np.arange(shape[0]), [len(row) for row in positions])
        mask[rows, np.concatenate(positions)] = True
    return mask


@lru_cache(maxsize=8)
def _epoch_order(num_examples: int, data_seed: int, epoch: int) -> np.ndarray:
    order = generator(data_seed, "order", epoch).permutation(num_examples)
    order.flags.writeable = False  # every caller of this epoch shares it
    return order


def batch_indices(num_examples: int, global_batch_size: int, step: int, data_seed: int) -> np.ndarray:
    """The examples of one optimiser step, (B,) int64 in 0..N-1.

    The order is a stream of permutations, one an epoch; step s takes positions s B to (s+1) B of it, so every batch
    is full and may cross epochs. A pure function of its arguments: resuming and the number of workers change nothing.
    """
    assert min(num_examples, global_batch_size, step + 1) > 0
    epochs, offsets = np.divmod(np.arange(step * global_batch_size, (step + 1) * global_batch_size), num_examples)
    return np.concatenate(
        [_epoch_order(num_examples, data_seed, int(epoch))[offsets[epochs == epoch]] for epoch in np.unique(epochs)]
    )
