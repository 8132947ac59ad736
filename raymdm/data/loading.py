"""Prepared data in memory, batches of it, and the order in which training sees it.

Shape legend: N examples of a split, B sequences of a batch, L tokens of the batch's longest sequence.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet
import torch
from transformers import PreTrainedTokenizerFast

from raymdm.errors import UserError
from raymdm.keys import generator


@dataclass(frozen=True)
class Split:
    """One split of a prepared folder; entry i of every field is the same example."""

    example_ids: np.ndarray
    """(N,) int64: 0-based row of the file the example came from."""
    input_ids: list[np.ndarray]
    """N read-only arrays int32 of any length: prompt, response and one end-of-sequence token."""
    prompt_lengths: np.ndarray
    """(N,) int32: tokens of the prompt."""
    prompts: list[str]
    answers: list[str]
    """References of the scorer."""

    def __len__(self) -> int:
        return len(self.input_ids)


class Batch(NamedTuple):
    """Right-padded sequences."""

    input_ids: torch.Tensor
    """(B, L) int64."""
    attention_mask: torch.Tensor
    """(B, L) bool: true where there is a token rather than padding."""
    response_mask: torch.Tensor
    """(B, L) bool: the eligible tokens, which are the response with its end-of-sequence token."""


def load_split(folder: Path, split: str, max_examples: int | None = None) -> Split:
    """The first `max_examples` examples (null: all) of a split: train, validation or test.

    Raises UserError when the folder holds no such split.
    """
    file = Path(folder) / f"{split}.parquet"
    if not file.is_file():
        raise UserError(f"{file} is not there on this node: `output` must be a folder that all nodes share")
    table = pyarrow.parquet.read_table(file).slice(0, max_examples).combine_chunks()
    lists = table["input_ids"].combine_chunks()
    lengths = lists.value_lengths().to_numpy()
    return Split(
        example_ids=table["example_id"].to_numpy(),
        input_ids=np.split(lists.flatten().to_numpy(), np.cumsum(lengths)[:-1]),
        prompt_lengths=table["prompt_length"].to_numpy(),
        prompts=table["prompt"].to_pylist(),
        answers=table["answer"].to_pylist(),
    )


def meta(folder: Path) -> dict[str, Any]:
    """`meta.json` of a prepared folder: task, content hash and counts. Raises UserError when there is none."""
    file = Path(folder) / "meta.json"
    if not file.is_file():
        raise UserError(f"{folder} is not a prepared data folder: it has no meta.json")
    return json.loads(file.read_text(encoding="utf-8"))


def tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer that a prepared folder was made with; runs no code from a model repository."""
    return PreTrainedTokenizerFast.from_pretrained(Path(folder) / "tokenizer")


def collate(input_ids: Sequence[np.ndarray], prompt_lengths: np.ndarray | Sequence[int], pad_id: int) -> Batch:
    """Pad B sequences on the right to the longest one.

    `prompt_lengths` (B,) in tokens. What is padding is said by `attention_mask`, never by `pad_id`, which may be
    the id of a real token.
    """
    lengths = np.array([len(ids) for ids in input_ids])
    position = np.arange(lengths.max())[None, :]
    attention = position < lengths[:, None]
    padded = np.full(attention.shape, pad_id, dtype=np.int64)
    padded[attention] = np.concatenate(input_ids)
    response = attention & (position >= np.asarray(prompt_lengths)[:, None])
    return Batch(torch.from_numpy(padded), torch.from_numpy(attention), torch.from_numpy(response))


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
