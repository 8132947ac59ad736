"""Scoring on Ray Data: spread out, ended early, gone on with, and as the command line does it."""

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from raymdm.config.schema import Recipe
from raymdm.data import loading
from raymdm.errors import UserError
from raymdm.evaluation.nll import summary
from raymdm.models.load import load_model, save_model
from raymdm.orchestrate import stages
from raymdm.orchestrate.connection import connected
from raymdm.orchestrate.evaluate import evaluate
from raymdm.orchestrate.pool import run_blocks
from raymdm.storage import Storage, StorageError

MakeRecipe = Callable[..., Recipe]


@pytest.fixture(scope="module")
def model(make_recipe: MakeRecipe, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(load_model(make_recipe().model, loading.tokenizer(tiny_data), "mdm"), folder)
    return folder


def test_processes_share_the_blocks_and_go_on_where_others_were_ended(
    make_recipe: MakeRecipe, tiny_data: Path, model: Path, tmp_path: Path
) -> None:
    where: Any = "standard", str(model), str(tiny_data)
    alone = evaluate(make_recipe(), *where, here=True)
    two = make_recipe(evaluate__num_actors=2, evaluate__cpus_per_actor=0.5)
    parts = Storage(str(tmp_path / "parts"))
    with connected():
        pd.testing.assert_frame_equal(evaluate(two, *where, parts=parts), alone)
        first, second, third = (tmp_path / "parts" / name for name in parts.names())
        for lost in (first, second):
            lost.unlink()
        second.mkdir()  # which storage refuses to read
        with pytest.raises(StorageError, match=r"^cannot read [^\n]*part-[^\n]*$"):
            evaluate(two, *where, parts=parts)
        second.rmdir()
        kept = pd.read_parquet(third)
        kept.assign(output="not generated again").to_parquet(third, index=False)
        resumed = evaluate(two, *where, parts=parts)
    again = resumed["output"] != "not generated again"
    assert sorted(resumed["example_id"][~again]) == sorted(kept["example_id"])
    pd.testing.assert_frame_equal(resumed[again], alone[again])


def test_a_model_folder_is_scored_and_no_part_is_left(make_recipe: MakeRecipe, model: Path, tmp_path: Path) -> None:
    recipe, output = make_recipe(output=str(tmp_path / "runs")), tmp_path / "answers.parquet"
    mean = stages.evaluate_model(recipe, model, output, Console(file=io.StringIO()))
    assert pd.read_parquet(output)["score"].mean() == mean
    assert [path.name for path in (tmp_path / "runs" / "cache").iterdir()] == ["data"]


class _Refuses:
    """A model that no block can be given."""

    def __call__(self, rows: pd.DataFrame) -> pd.DataFrame:
        raise UserError("look at this row")


def test_what_a_block_raises_for_the_user_comes_without_ray_s_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    with connected(), pytest.raises(UserError, match=r"^look at this row$"):
        run_blocks([pd.DataFrame({"row": [0]})], _Refuses, {}, 1, 0.5, 0)
    assert "look at this row" not in "".join(capfd.readouterr())


def test_the_likelihood_of_the_responses(make_recipe: MakeRecipe, model: Path, tmp_path: Path) -> None:
    recipe, output = make_recipe(output=str(tmp_path / "runs"), evaluate__nll_draws=8), tmp_path / "nll.parquet"
    text = stages.evaluate_nll(recipe, model, output, Console(file=io.StringIO()))
    found = summary(pd.read_parquet(output).to_dict("list"))
    assert found.nll_per_token == pytest.approx(math.log(13), rel=0.05)  # untrained: 10 digits and 3 special tokens
    assert f"NLL at most {found.nll_per_token:.4f} ± {found.standard_error:.4f} nats a token" in text
    assert f"{found.nll_per_token / math.log(2):.4f} bits; perplexity at most {found.perplexity:.3f}" in text
