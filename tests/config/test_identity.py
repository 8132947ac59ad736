"""Which changes of a recipe make it another experiment."""

import subprocess
import sys

import pytest

from raymdm.config.load import UNHASHED, config_hash, differences
from raymdm.config.problems import field_info
from raymdm.config.schema import Recipe


def recipe(**fields) -> Recipe:
    base = {"name": "small", "data": {"task": "sorting"}, "model": {"kind": "tiny", "tokenizer": {"kind": "chars"}}}
    return Recipe.model_validate(base | fields)


SCHEDULING = {
    "train": {"cpus_per_worker": 3.0, "max_failures": 9},
    "calibrate": {"num_actors": 4, "cpus_per_actor": 2.0},
    "evaluate": {"num_actors": 4, "cpus_per_actor": 2.0},
    "sweep": {"max_concurrent": 2, "max_failures": 5},
}


def test_the_hash_is_12_hexadecimal_digits():
    digits = config_hash(recipe())
    assert len(digits) == 12
    assert set(digits) <= set("0123456789abcdef")


def test_the_hash_does_not_depend_on_the_process():
    program = (
        "from raymdm.config.load import config_hash; from raymdm.config.schema import Recipe;"
        f"print(config_hash(Recipe.model_validate_json({recipe().model_dump_json()!r})))"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == config_hash(recipe())


def test_the_hash_does_not_depend_on_the_order_of_free_settings():
    one, two = ({"task": "reasoning_gym", "reasoning_gym": {"config": c}} for c in ({"a": 1, "b": 2}, {"b": 2, "a": 1}))
    assert config_hash(recipe(data=one)) == config_hash(recipe(data=two))


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other", "description": "words", "output": "elsewhere", "tracking": {"mlflow": False, "uri": "x"}},
        *({section: fields} for section, fields in SCHEDULING.items()),
    ],
)
def test_labels_and_scheduling_leave_the_hash_alone(change):
    assert config_hash(recipe(**change)) == config_hash(recipe())
    assert differences(recipe(), recipe(**change)) == []


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"train": {"lr": 0.5}}, "train.lr: 5e-05 -> 0.5"),
        ({"train": {"order_seed": "run"}}, 'train.order_seed: "data" -> "run"'),
        ({"train": {"num_workers": 2}}, "train.num_workers: 1 -> 2"),
        ({"train": {"micro_batch_size": 4}}, "train.micro_batch_size: null -> 4"),
        ({"train": {"gpus_per_worker": 1.0}}, "train.gpus_per_worker: 0.0 -> 1.0"),
        ({"method": "mirror"}, 'method: "standard" -> "mirror"'),
        ({"sweep": {"seeds": [1]}}, "sweep.seeds: [42, 731, 20231] -> [1]"),
        ({"data": {"task": "sorting", "sorting": {"digits": 3}}}, "data.sorting.digits: 6 -> 3"),
    ],
)
def test_what_can_change_a_result_changes_the_hash_and_is_named(change, line):
    assert config_hash(recipe(**change)) != config_hash(recipe())
    assert differences(recipe(), recipe(**change)) == [line]


def test_a_section_that_one_side_lacks_is_named_field_by_field():
    lines = differences(recipe(arm_model={"kind": "pretrained", "path": "x"}), recipe())
    assert 'arm_model.path: "x" -> (none)' in lines
    assert "arm_model: (none) -> null" in lines


def test_a_whole_number_and_its_fraction_are_the_same():
    assert config_hash(recipe(train={"epochs": 3})) == config_hash(recipe(train={"epochs": 3.0}))


@pytest.mark.parametrize("field", sorted(UNHASHED))
def test_every_field_left_out_of_the_hash_exists(field):
    assert field_info(field.split(".")) is not None


@pytest.mark.parametrize("use", [{"method": "mine"}, {"sweep": {"methods": ["mine"]}}, {"sweep": {"baseline": "mine"}}])
def test_a_composed_method_that_a_run_uses_is_hashed(use):
    one, two = (recipe(methods={"mine": {"views": views}}, **use) for views in (2, 3))
    assert config_hash(one) != config_hash(two)


def test_a_composed_method_that_no_run_uses_is_not_hashed():
    composed = recipe(methods={"mine": {"views": 2}}, diagnose={"methods": ["mine"]})
    assert config_hash(composed) == config_hash(recipe())
    assert differences(recipe(), composed) == []
