"""Scoring a trained model on the test split with Ray Data."""

from pathlib import Path

import pandas as pd
import ray
import torch

from raymdm.config.schema import METHODS, Recipe
from raymdm.data import loading
from raymdm.evaluation.generate import generate_and_score
from raymdm.models.load import load_model


class EvaluationActor:
    """Holds the model and turns a batch of test rows into generated and scored ones."""

    def __init__(self, recipe: Recipe, method: str, model: Path, data: Path) -> None:
        self._settings, self._family = recipe.evaluate, METHODS[method].family
        self._task = loading.meta(data)["task"]
        torch.set_num_threads(max(1, int(recipe.evaluate.cpus_per_actor)))
        self._tokenizer = loading.tokenizer(data)
        device = torch.device("cuda" if recipe.evaluate.gpus_per_actor else "cpu")
        self._model = load_model(recipe.model_for(method), self._tokenizer, self._family, model).to(device).eval()
        self._split = loading.load_split(data, "test")

    def __call__(self, rows: pd.DataFrame) -> pd.DataFrame:
        """rows: column row, of the test split."""
        scored = generate_and_score(
            self._model, self._tokenizer, self._family, self._split, rows["row"].to_numpy(), self._task, self._settings
        )
        return pd.DataFrame(scored)


def evaluate(recipe: Recipe, method: str, model: Path, data: Path, output: Path) -> float:
    """Generate answers for the test split, write one scored row an example to `output`, return the mean score.

    The rows come in the split's order, whatever the number of actors.
    """
    settings = recipe.evaluate
    size = len(loading.load_split(data, "test", settings.max_examples).input_ids)
    rows = pd.DataFrame({"row": range(size)})
    blocks = [rows.iloc[start : start + settings.batch_size] for start in range(0, size, settings.batch_size)]
    scored = ray.data.from_pandas(blocks).map_batches(
        EvaluationActor,
        fn_constructor_kwargs={"recipe": recipe, "method": method, "model": model, "data": data},
        batch_size=None,
        batch_format="pandas",
        num_cpus=settings.cpus_per_actor,
        num_gpus=settings.gpus_per_actor,
        compute=ray.data.ActorPoolStrategy(size=settings.num_actors),
    )
    scores = scored.to_pandas().sort_values("example_id", kind="stable", ignore_index=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_suffix(".partial")
    scores.to_parquet(partial, index=False)
    partial.rename(output)
    return float(scores["score"].mean())
