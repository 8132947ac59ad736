"""Scoring a model on the test split: what a row says, and how a scoring goes on that was ended early."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import boto3
import numpy as np
import pandas as pd
import pytest
from moto.server import ThreadedMotoServer

from raymdm.config.schema import Recipe
from raymdm.data import loading
from raymdm.evaluation import generate, nll
from raymdm.models.load import load_model, save_model
from raymdm.orchestrate.evaluate import evaluate
from raymdm.storage import Storage

MakeRecipe = Callable[..., Recipe]
BLOCKS = [5, 5, 2]
"""Rows of the blocks of the recipe's 12 test rows."""


@pytest.fixture(scope="module")
def model(make_recipe: MakeRecipe, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Makes a model folder, untrained."""

    def make(family: str = "mdm", seed: int = 0) -> str:
        folder = tmp_path_factory.mktemp("model")
        config = make_recipe(model__init_seed=seed).model
        save_model(load_model(config, loading.tokenizer(tiny_data), family), folder)
        return str(folder)

    return make


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The address of a folder in a bucket on this machine."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
        client.create_bucket(Bucket="scores")
        yield f"s3://scores/all?region=us-east-1&scheme=http&endpoint_override={quote(f'{host}:{port}')}"
    server.stop()


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """An empty place for a model, data and parts."""
    monkeypatch.setenv("RAYMDM_CACHE", str(tmp_path / "cache"))
    if request.param == "folder":
        return Storage(str(tmp_path / "storage"))
    return Storage(request.getfixturevalue("bucket")).child(tmp_path.name)


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Counts the rows of each block that is scored, in `blocks`, and is interrupted before block number `end`."""
    seen = SimpleNamespace(blocks=[], end=None)

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def score(*args: Any, **kwargs: Any) -> Any:
            if len(seen.blocks) == seen.end:
                raise KeyboardInterrupt
            seen.blocks.append(len(kwargs["rows"]))
            return function(*args, **kwargs)

        return score

    monkeypatch.setattr(generate, "generate_and_score", counted(generate.generate_and_score))
    monkeypatch.setattr(nll, "nll_rows", counted(nll.nll_rows))
    return seen


@pytest.mark.parametrize("method", ["standard", "arm"])
def test_a_row_an_example_in_the_split_s_order(
    make_recipe: MakeRecipe, tiny_data: Path, model: Callable[..., str], method: str
) -> None:
    recipe = make_recipe()
    split = loading.load_split(tiny_data, "test")
    found = evaluate(recipe, method, model(recipe.spec(method).family), str(tiny_data), here=True)
    assert found["example_id"].tolist() == split.example_ids.tolist()
    assert found["reference"].tolist() == split.answers
    assert found["new_tokens"].between(0, 4).all()
    assert found["forward_passes"].between(1, 4).all()
    assert set(found["score"]) <= {0.0, 1.0}


def test_an_arm_s_forward_passes_are_its_tokens_and_the_end(
    make_recipe: MakeRecipe, tiny_data: Path, model: Callable[..., str]
) -> None:
    recipe = make_recipe(evaluate__max_new_tokens=9)
    found = evaluate(recipe, "arm", model("arm", 3), str(tiny_data), here=True)
    assert (found["forward_passes"] == np.minimum(found["new_tokens"] + 1, 9)).all()


@pytest.mark.parametrize("kind", ["generate", "nll"])
def test_an_interrupted_scoring_goes_on_with_the_blocks_that_are_left(
    make_recipe: MakeRecipe, tiny_data: Path, model: Callable[..., str], storage: Storage, scored: SimpleNamespace,
    kind: Any,
) -> None:  # fmt: skip
    storage.put(Path(model()), "model")
    storage.put(tiny_data, "data")
    where = make_recipe(evaluate__nll_draws=4), "standard", storage.child("model").uri, storage.child("data").uri
    undisturbed = evaluate(*where, here=True, kind=kind)
    parts = storage.child("parts")
    scored.blocks, scored.end = [], 2
    with pytest.raises(KeyboardInterrupt):
        evaluate(*where, here=True, kind=kind, parts=parts)
    assert len(parts.names()) == 2
    scored.end = None
    resumed = evaluate(*where, here=True, kind=kind, parts=parts)
    assert scored.blocks == BLOCKS
    pd.testing.assert_frame_equal(resumed, undisturbed)
    pd.testing.assert_frame_equal(evaluate(*where, here=True, kind=kind, parts=parts), undisturbed)
    assert scored.blocks == BLOCKS


@pytest.mark.parametrize(
    ("changes", "again"),
    [
        ({}, []),
        ({"evaluate__num_actors": 2, "evaluate__cpus_per_actor": 0.5, "train__lr": 1.0}, []),
        ({"evaluate__max_examples": 10}, []),
        ({"evaluate__steps": 2}, BLOCKS),
        ({"evaluate__confidence_threshold": 0.5}, BLOCKS),
        ({"model__dtype": "bfloat16"}, BLOCKS),
    ],
)
def test_parts_are_taken_for_the_settings_that_they_were_made_with(
    make_recipe: MakeRecipe, tiny_data: Path, model: Callable[..., str], tmp_path: Path, scored: SimpleNamespace,
    changes: dict[str, Any], again: list[int],
) -> None:  # fmt: skip
    weights, parts = model(), Storage(str(tmp_path))
    evaluate(make_recipe(), "standard", weights, str(tiny_data), here=True, parts=parts)
    scored.blocks.clear()
    evaluate(make_recipe(**changes), "standard", weights, str(tiny_data), here=True, parts=parts)
    assert scored.blocks == again


def test_parts_of_another_model_or_data_or_kind_are_not_taken(
    make_recipe: MakeRecipe, tiny_data: Path, model: Callable[..., str], tmp_path: Path, scored: SimpleNamespace
) -> None:
    parts, first = Storage(str(tmp_path / "parts")), model()
    other = tmp_path / "other"
    Storage(str(other)).put(tiny_data, "data")
    meta = json.loads((other / "data" / "meta.json").read_text())
    (other / "data" / "meta.json").write_text(json.dumps(meta | {"hash": "another"}))
    for weights, data, kind in [
        (first, str(tiny_data), "generate"),
        (model(seed=1), str(tiny_data), "generate"),
        (first, str(other / "data"), "generate"),
        (first, str(tiny_data), "nll"),
    ]:
        scored.blocks.clear()
        evaluate(make_recipe(), "standard", weights, data, here=True, kind=kind, parts=parts)
        assert scored.blocks == BLOCKS


def test_a_model_that_is_written_again_at_its_place_is_scored_again(
    make_recipe: MakeRecipe, tiny_data: Path, model: Callable[..., str], tmp_path: Path, scored: SimpleNamespace
) -> None:
    weights, parts = model(), Storage(str(tmp_path))
    before = evaluate(make_recipe(), "standard", weights, str(tiny_data), here=True, parts=parts)
    Storage(weights).put(Path(model(seed=5)), "")
    scored.blocks.clear()
    after = evaluate(make_recipe(), "standard", weights, str(tiny_data), here=True, parts=parts)
    assert scored.blocks == BLOCKS
    assert not after["output"].equals(before["output"])


def test_a_copy_of_a_model_keeps_its_parts(
    make_recipe: MakeRecipe, tiny_data: Path, model: Callable[..., str], tmp_path: Path, scored: SimpleNamespace
) -> None:
    weights, parts = model(), Storage(str(tmp_path / "parts"))
    evaluate(make_recipe(), "standard", weights, str(tiny_data), here=True, parts=parts)
    Storage(str(tmp_path)).put(Path(weights), "copy")
    scored.blocks.clear()
    evaluate(make_recipe(), "standard", str(tmp_path / "copy"), str(tiny_data), here=True, parts=parts)
    assert scored.blocks == []
