"""Scoring a trained model on the test split with Ray Data, block by block, so that it can go on where it was ended."""

import hashlib
import io
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from raymdm.config.schema import Recipe
from raymdm.data import loading
from raymdm.orchestrate.pool import run_blocks
from raymdm.storage import Storage, fetched

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Kind = Literal["generate", "nll"]
"""`generate`: answers and their scores; `nll`: the negative log-likelihood of the responses."""

FORMAT_VERSION = 1
"""Raised whenever the same rows would be scored differently."""

_TYPES = dict.fromkeys(("example_id", "new_tokens", "forward_passes"), int) | {"score": float}
_TEXTS = ("prediction", "reference", "output")


class Scorer:
    """Holds the model and turns a block of test rows into scored ones."""

    def __init__(self, recipe: str, method: str, model: str, data: str, kind: str, parts: str) -> None:
        """recipe: as JSON; model, data: folders on storage; parts: one that keeps each block that is finished, and
        gives back those of this very model, data and settings; "" for none."""
        import torch

        from raymdm.models.load import load_model

        settings, folder = Recipe.model_validate_json(recipe), fetched(data)
        torch.set_num_threads(max(1, int(settings.evaluate.cpus_per_actor)))
        tokenizer, family = loading.tokenizer(folder), settings.spec(method).family
        device = torch.device("cuda" if settings.evaluate.gpus_per_actor else "cpu")
        with _at_hand(model) as weights:
            loaded = load_model(settings.model_for(method), tokenizer, family, weights, device)
            self._parts = Storage(parts) if parts else None
            self._identity = _identity(settings, method, kind, folder, weights) if parts else b""
        self._score = _scoring(settings, family, kind, loaded, folder)

    def __call__(self, rows: pd.DataFrame) -> pd.DataFrame:
        """rows: column row, of the test split."""
        chosen = rows["row"].to_numpy()
        if self._parts is None:
            return pd.DataFrame(self._score(rows=chosen))
        name = f"part-{hashlib.sha256(self._identity + chosen.astype(np.int64).tobytes()).hexdigest()[:24]}.parquet"
        if self._parts.exists(name):
            return pd.read_parquet(io.BytesIO(self._parts.read(name)))
        scored = pd.DataFrame(self._score(rows=chosen))
        self._parts.write(name, as_parquet(scored))
        return scored


def _scoring(
    recipe: Recipe, family: Literal["mdm", "arm"], kind: str, model: "PreTrainedModel", folder: Path
) -> Callable[..., dict[str, list[Any]]]:
    """What scores `rows` of the test split of a prepared folder."""
    settings, split, tokenizer = recipe.evaluate, loading.load_split(folder, "test"), loading.tokenizer(folder)
    if kind == "generate":
        from raymdm.evaluation.generate import generate_and_score, longest_answer

        limit, task = longest_answer(settings, folder), loading.meta(folder)["task"]
        return partial(
            generate_and_score, model, tokenizer, family, split, task=task, settings=settings, max_new_tokens=limit
        )
    from raymdm.evaluation.nll import nll_rows
    from raymdm.models.denoiser import Denoiser

    ids = tokenizer.mask_token_id, tokenizer.pad_token_id
    return partial(
        nll_rows,
        Denoiser(model, family).eval(),
        split,
        family=family,
        ids=ids,
        draws=settings.nll_draws,
        seed=recipe.data.seed,
        device=model.device,
        batch_size=settings.batch_size,
    )


def _identity(recipe: Recipe, method: str, kind: str, data: Path, weights: Path) -> bytes:
    """A hash of all that a row's score depends on."""
    described = {
        "format": FORMAT_VERSION,
        "kind": kind,
        "evaluate": recipe.evaluate.model_dump(exclude={"max_examples", "num_actors", "cpus_per_actor"}),
        "seed": recipe.data.seed,
        "model": recipe.model_for(method).model_dump(),
        "family": recipe.spec(method).family,
        "data": loading.meta(data)["hash"],
    }
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for file in sorted([*weights.glob("*.json"), *weights.glob("*.safetensors")]):
        with file.open("rb") as content:
            digest.update(file.name.encode() + hashlib.file_digest(content, "sha256").digest())
    return digest.digest()


@contextmanager
def _at_hand(model: str) -> Iterator[Path]:
    """A model's folder on this machine while it is loaded; every run has another, so no copy is kept."""
    storage = Storage(model)
    if storage.local:
        yield storage.path
        return
    with tempfile.TemporaryDirectory(prefix="raymdm-") as scratch:
        storage.get("", Path(scratch) / "model")
        yield Path(scratch) / "model"


def evaluate(
    recipe: Recipe,
    method: str,
    model: str,
    data: str,
    here: bool = False,
    kind: Kind = "generate",
    parts: Storage | None = None,
) -> pd.DataFrame:
    """Score the test split: one row an example, in the split's order.

    Args:
        recipe: its `evaluate` section says how.
        method: what the model was trained with.
        model: a folder on storage.
        data: a prepared folder on storage.
        here: score in this process, else in Ray Data's tasks or actors; the rows are the same, whatever their number.
        kind: what a row says.
        parts: keeps each block that is finished, so that a scoring that was ended goes on with the others; who has
            written the result down deletes it.
    """
    settings = recipe.evaluate
    blocks = _blocks(loading.load_split(fetched(data), "test", settings.max_examples), settings.batch_size, kind)
    where = {"recipe": recipe.model_dump_json(), "method": method, "model": model, "data": data, "kind": kind,
             "parts": parts.uri if parts else ""}  # fmt: skip
    if here:
        scored = pd.concat(map(Scorer(**where), blocks))
    else:
        scored = run_blocks(
            blocks, Scorer, where, settings.num_actors, settings.cpus_per_actor, settings.gpus_per_actor
        )
    scored = scored.sort_values("example_id", kind="stable", ignore_index=True)
    return scored.astype(_TYPES | dict.fromkeys(_TEXTS, object)) if kind == "generate" else scored


def _blocks(split: loading.Split, size: int, kind: Kind) -> list[pd.DataFrame]:
    """Rows of like length side by side, so that little is padding; the longest first: what memory lacks, it lacks at
    once, and no long block is left for the end."""
    lengths = split.prompt_lengths if kind == "generate" else np.array([len(ids) for ids in split.input_ids])
    rows = pd.DataFrame({"row": np.argsort(-lengths, kind="stable")})
    return [rows.iloc[start : start + size] for start in range(0, len(rows), size)]


def as_parquet(table: pd.DataFrame) -> bytes:
    """A parquet file's content."""
    content = io.BytesIO()
    table.to_parquet(content, index=False)
    return content.getvalue()
