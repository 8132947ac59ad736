"""What docs/reproduce.md says of the paper's recipes, and what `check` says of a recipe's data."""

import re
import shlex
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

from raymdm.config.load import load_recipe
from raymdm.config.schema import Recipe
from raymdm.orchestrate.check import check

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reproduce.md").read_text(encoding="utf-8")


def sweeps() -> Iterator[Recipe]:
    """The sweeps of the page's commands, and those of the recipes beside a task's own."""
    for line in re.findall(r"^raymdm sweep (.*)$", PAGE, re.MULTILINE):
        recipe, *overrides = shlex.split(line, comments=True)
        yield load_recipe(ROOT / recipe, overrides)
    for name in ("hitab-ours", "open_science-ours"):
        yield load_recipe(ROOT / "jobs" / "recipes" / "paper" / f"{name}.yaml")


def runs(recipe: Recipe) -> set[tuple[str, str, str | None, int]]:
    seeds = recipe.sweep.seeds
    assert isinstance(seeds, list)
    task, path = recipe.data.task, recipe.model.path
    return {(task, method, path, seed) for method in recipe.sweep.methods for seed in seeds}


def test_no_run_is_in_two_of_the_sweeps_that_are_to_be_compared() -> None:
    found = [runs(recipe) for recipe in sweeps()]
    assert len(found) >= 10
    assert not [one & other for one, other in combinations(found, 2) if one & other]


def test_every_row_of_other_hardware_sets_all_processes() -> None:
    (row,) = re.findall(r"^\| Four GPUs.*$", PAGE, re.MULTILINE)
    overrides = re.findall(r"[a-z]+\.num_\w+=4", row)
    recipe = load_recipe(ROOT / "jobs" / "recipes" / "paper" / "gsm8k.yaml", overrides)
    stages = recipe.calibrate, recipe.diagnose, recipe.evaluate
    assert [stage.num_actors for stage in stages] == [4, 4, 4]
    assert recipe.train.num_workers == 4


def test_check_says_how_much_of_the_data_it_read(tmp_path: Path) -> None:
    recipe = load_recipe(ROOT / "jobs" / "recipes" / "quickstart.yaml", [f"output={tmp_path}"])
    assert "data and tokenizer: task sorting, the first 8 test rows generated, chars" in check(recipe)
    (tmp_path / "rows").mkdir()
    for split in ("train", "test"):
        (tmp_path / "rows" / f"{split}.jsonl").write_text('{"prompt": "2+3=", "response": "5"}\n')
    data = recipe.data.model_copy(update={"task": "sft", "path": str(tmp_path / "rows")})
    lines = list(check(recipe.model_copy(update={"data": data})))
    assert f"data and tokenizer: task sft, the first 8 rows of each split of {data.path}, chars" in lines
