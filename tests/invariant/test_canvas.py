"""An MDM that learnt filled responses ends its texts where they end, whatever blocks generation is cut into."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console

from raymdm.config.schema import Recipe
from raymdm.data import loading
from raymdm.data.prepare import prepare
from raymdm.evaluation.generate import generate_and_score
from raymdm.models.load import load_model
from raymdm.orchestrate.sweep import prepare_data
from raymdm.storage import Storage
from raymdm.training.loop import Job, Worker, train

CANVAS = 8
ROWS = [
    {"prompt": f"{first}{second}=", "response": "wxyzwxy"[: "abcdefg".index(first) + 1]}
    for first in "abcdefg"
    for second in "abcdefg"
]
"""The prompt's first letter says how long the response is: with its end 2 to 8 tokens, as many as the canvas has."""
LENGTHS = [len(row["response"]) for row in ROWS]


def _trained(folder: Path, fill: int | None) -> Callable[[int], list[int]]:
    """Trains a model; what it returns generates on the whole canvas, in blocks of so many tokens, and gives the texts'
    lengths."""
    for name in ("train", "test"):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    recipe = Recipe.model_validate(
        {
            "name": "canvas",
            "data": {"task": "sft", "path": str(folder), "max_length": 16, "fill_response_to": fill},
            "model": {
                "kind": "tiny", "hidden_size": 32, "intermediate_size": 64, "num_layers": 2, "num_heads": 4,
                "tokenizer": {"kind": "chars"},
            },
            "train": {"lr": 5e-3, "max_steps": 200, "eval_every": 200, "global_batch_size": 32, "patience": None},
            "evaluate": {"generation_length": CANVAS, "steps": CANVAS, "block_length": CANVAS},
        }
    )  # fmt: skip
    data = prepare(recipe.data, recipe.model, folder / "cache")
    train(Job(recipe, "fixed_size", 42, data), Worker(lambda metrics: None, Storage(str(folder / "run"))))
    (weights,) = folder.glob("run/step-*/model")
    tokenizer, test = loading.tokenizer(data), loading.load_split(data, "test")
    model = load_model(recipe.model, tokenizer, "mdm", weights)

    def lengths(block: int) -> list[int]:
        settings = recipe.evaluate.model_copy(update={"block_length": block})
        rows = np.arange(len(test))
        return generate_and_score(model, tokenizer, "mdm", test, rows, "sft", settings, 0)["new_tokens"]

    return lengths


def test_filled_responses_teach_where_a_text_ends(tmp_path: Path) -> None:
    lengths = _trained(tmp_path, CANVAS)
    for block in (CANVAS, 2):
        assert np.mean(np.equal(lengths(block), LENGTHS)) > 0.9


def test_responses_with_one_end_teach_to_use_the_whole_canvas(tmp_path: Path) -> None:
    assert np.mean(np.equal(_trained(tmp_path, None)(CANVAS), CANVAS - 1)) > 0.9


def test_a_sweep_fills_the_responses_of_mdms_alone(tmp_path: Path, make_recipe: Callable[..., Recipe]) -> None:
    recipe = make_recipe(output=str(tmp_path), data__fill_response_to=9)
    folders = prepare_data(recipe, Console(quiet=True))
    splits = {family: loading.load_split(folder, "train") for family, folder in folders.items()}
    assert {len(ids) for ids in splits["mdm"].input_ids} == {4 + 9}  # three digits and >; three digits, filled to nine
    assert {len(ids) for ids in splits["arm"].input_ids} == {4 + 4}
