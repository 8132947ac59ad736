"""Scoring a trained model on the test split with Ray Data."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from raymdm.config.schema import Recipe
from raymdm.data import loading
from raymdm.orchestrate.pool import run_blocks
from raymdm.storage import Storage, fetched

_TEXTS = ("prediction", "reference", "output")


class Scorer:
    """Holds the model and turns a block of test rows into generated and scored ones."""

    def __init__(self, recipe: str, method: str, model: str, data: str) -> None:
        """recipe: as JSON; model, data: folders on storage."""
        import torch

        from raymdm.evaluation.generate import generate_and_score
        from raymdm.models.load import load_model

        settings = Recipe.model_validate_json(recipe)
        self._settings, self._family, self._score = settings.evaluate, settings.spec(method).family, generate_and_score
        folder = fetched(data)
        self._task = loading.meta(folder)["task"]
        torch.set_num_threads(max(1, int(self._settings.cpus_per_actor)))
        self._tokenizer = loading.tokenizer(folder)
        device = torch.device("cuda" if self._settings.gpus_per_actor else "cpu")
        with _at_hand(model) as weights:
            loaded = load_model(settings.model_for(method), self._tokenizer, self._family, weights)
        self._model = loaded.to(device).eval()
        self._split = loading.load_split(folder, "test")

    def __call__(self, rows: pd.DataFrame) -> pd.DataFrame:
        """rows: column row, of the test split."""
        chosen = rows["row"].to_numpy()
        scored = self._score(
            self._model, self._tokenizer, self._family, self._split, chosen, self._task, self._settings
        )
        return pd.DataFrame(scored)


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


def evaluate(recipe: Recipe, method: str, model: str, data: str, here: bool = False) -> pd.DataFrame:
    """Generate answers for the test split: one scored row an example, in the split's order.

    model, data: folders on storage. With `here` this process does it, else Ray Data's tasks or actors; the rows are
    the same, whatever their number.
    """
    settings = recipe.evaluate
    size = len(loading.load_split(fetched(data), "test", settings.max_examples).input_ids)
    rows = pd.DataFrame({"row": range(size)})
    blocks = [rows.iloc[start : start + settings.batch_size] for start in range(0, size, settings.batch_size)]
    where = {"recipe": recipe.model_dump_json(), "method": method, "model": model, "data": data}
    if here:
        scored = pd.concat(map(Scorer(**where), blocks))
    else:
        scored = run_blocks(
            blocks, Scorer, where, settings.num_actors, settings.cpus_per_actor, settings.gpus_per_actor
        )
    scored = scored.sort_values("example_id", kind="stable", ignore_index=True)
    return scored.astype({"example_id": int, "score": float, "new_tokens": int} | dict.fromkeys(_TEXTS, object))
