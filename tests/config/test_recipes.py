"""The recipes that come with the repository."""

from pathlib import Path

import pytest

from raymdm.config.load import load_recipe
from raymdm.config.schema import Recipe
from raymdm.errors import UserError
from raymdm.orchestrate.check import check

FOLDER = Path(__file__).parents[2] / "jobs" / "recipes"
RECIPES = sorted(path for path in FOLDER.rglob("*.yaml") if not path.name.startswith("_"))
PAPER = [path for path in RECIPES if path.parent.name == "paper"]
TASKS = {
    "gsm8k": ("gsm8k", (128, 128, 32)),
    "hitab": ("hitab", (512, 256, 16)),
    "open_science": ("open_science", (256, 256, 256)),
}
ARMS = ("qwen2.5", "qwen3", "llama3.1")


def name_of(path: Path) -> str:
    return path.stem


def paper(name: str) -> Recipe:
    return load_recipe(FOLDER / "paper" / f"{name}.yaml")


def test_there_are_recipes() -> None:
    assert len(RECIPES) >= 2
    assert len(PAPER) >= 16


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_a_recipe_loads_and_describes_itself(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.description
    assert recipe.name == path.stem


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_a_recipe_can_be_checked_without_network_and_gpus(path: Path) -> None:
    recipe = load_recipe(path)
    lines = list(check(recipe, offline=True))
    # small recipes compare an ARM in passing, whose seeds repeat one run
    expected = [f"warning: {warning}" for warning in recipe.warnings if path not in PAPER]
    assert [line for line in lines if line.startswith("warning:")] == expected
    assert all(line.startswith("warning: arm: nothing in its training depends") for line in expected)
    assert len([line for line in lines if line.startswith("not looked at:")]) == 2


@pytest.mark.parametrize("name", TASKS)
def test_the_paper_s_settings(name: str) -> None:
    recipe, (task, generation) = paper(name), TASKS[name]
    train, evaluate = recipe.train, recipe.evaluate
    assert recipe.data.task == task
    assert (evaluate.generation_length, evaluate.steps, evaluate.block_length) == generation
    assert (train.schedule, train.global_batch_size, train.epochs, train.warmup_steps) == ("linear", 32, 5, 0)
    assert (train.lr, train.patience, recipe.data.max_length) == (5e-5, 3, 4096)
    assert recipe.sweep.methods == ["standard", "p_pots", "mirror", "p_pots_mirror"]
    assert recipe.sweep.seeds == [42, 731, 20231]


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("name", TASKS)
def test_an_autoregressive_baseline_differs_in_model_and_method_alone(name: str, arm: str) -> None:
    mdm, baseline = paper(name).model_dump(), paper(f"{name}-{arm}").model_dump()
    assert baseline["sweep"]["methods"] == ["arm"]
    assert mdm["model"].pop("path") != baseline["model"].pop("path")
    assert (mdm["train"].pop("order_seed"), baseline["train"].pop("order_seed")) == ("data", "run")
    assert {key for key in mdm if mdm[key] != baseline[key]} == {"name", "description", "method", "sweep"}


def test_a_run_of_the_paper_takes_eight_gpus() -> None:
    lines = list(check(paper("gsm8k"), offline=True))
    assert lines[0] == "resources: 12 runs, 1 at once; they need 65 CPUs and 8 GPUs on 1 node, or more"
    assert "8 workers of 8 CPUs and 1 GPUs each (STRICT_PACK)" in "\n".join(lines)


def test_low_rank_updates_take_one_gpu() -> None:
    lines = list(check(paper("lora-one-gpu"), offline=True))
    assert "they need 4 CPUs and 1 GPUs on 1 node" in lines[0]


@pytest.mark.parametrize(
    ("overrides", "needed"),
    [
        (["train.placement_strategy=STRICT_SPREAD"], "72 CPUs and 8 GPUs on 8 nodes"),
        (["sweep.max_concurrent=3"], "193 CPUs and 24 GPUs on 1 node"),
        (["train.num_workers={min: 2, max: 16}", "train.placement_strategy=PACK"], "129 CPUs and 16 GPUs on 1 node"),
        (["calibrate.gpus_per_actor=0.3", "calibrate.num_actors=26"], "208 CPUs and 9 GPUs on 1 node"),
        (["calibrate.gpus_per_actor=0.6", "calibrate.num_actors=9"], "72 CPUs and 9 GPUs on 1 node"),
    ],
)
def test_what_a_sweep_needs_by_itself(overrides: list[str], needed: str) -> None:
    lines = list(check(load_recipe(FOLDER / "paper" / "gsm8k.yaml", overrides), offline=True))
    assert f"they need {needed}, or more" in lines[0]


def test_offline_finds_parts_of_the_data_that_overlap() -> None:
    recipe = load_recipe(FOLDER / "paper" / "open_science.yaml", ["data.test_split=train[4000:6000]"])
    with pytest.raises(UserError, match="have rows in common"):
        list(check(recipe, offline=True))


def test_offline_says_what_it_did_not_look_at(tmp_path: Path) -> None:
    recipe = load_recipe(FOLDER / "paper" / "hitab.yaml", [f"output={tmp_path / 'runs'}"])
    lines = list(check(recipe, offline=True))
    assert lines[-2] == "not looked at: the data (hitab, data/hitab), tokenizers and models"
    assert lines[-1].startswith("not looked at: whether a machine or cluster holds that much, and the output folder")
    assert not (tmp_path / "runs").exists()
