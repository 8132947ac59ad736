"""Reading recipes: what is accepted, and what a person is told who wrote a bad one."""

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raymdm.config.load import dump_recipe, find_recipes, load_recipe
from raymdm.config.schema import Recipe
from raymdm.errors import UserError

MINIMAL = """\
name: small
data:
  task: sorting
model:
  kind: tiny
  tokenizer: {kind: chars}
"""


def problems(path: Path | str, *overrides: str) -> list[str]:
    """The lines of the one error that loading raises."""
    with pytest.raises(UserError) as raised:
        load_recipe(path, overrides)
    return str(raised.value).splitlines()


# What is accepted


def test_a_minimal_recipe_takes_every_default(write):
    recipe = load_recipe(write(MINIMAL))
    assert recipe == Recipe.model_validate(
        {"name": "small", "data": {"task": "sorting"}, "model": {"kind": "tiny", "tokenizer": {"kind": "chars"}}}
    )


@pytest.mark.parametrize("text", ["1e-4", "1.e-4", "0.1e-3", ".1e-3", "1E-4", "+1e-4", "0.0001", "1_0e-5"])
def test_a_number_with_an_exponent_is_a_number_in_files_and_overrides(write, text):
    path = write(f"{MINIMAL}train: {{lr: {text}}}\n")
    assert load_recipe(path).train.lr == 1e-4
    assert load_recipe(write(MINIMAL, "plain.yaml"), [f"train.lr={text}"]).train.lr == 1e-4


def test_overrides_are_read_as_yaml(write):
    overrides = ["sweep.seeds=[1,2]", "data.path=../x", "tracking.mlflow=false", "train.patience=null", "seed=7"]
    recipe = load_recipe(write(MINIMAL), overrides)
    assert (recipe.sweep.seeds, recipe.data.path, recipe.seed) == ([1, 2], "../x", 7)
    assert recipe.tracking.mlflow is False
    assert recipe.train.patience is None


def test_an_override_may_hold_an_equals_sign(write):
    assert load_recipe(write(MINIMAL), ["data.path=a=b"]).data.path == "a=b"


def test_the_last_of_two_overrides_wins(write):
    assert load_recipe(write(MINIMAL), ["seed=1", "seed=2"]).seed == 2


def test_an_override_reaches_into_free_settings(write):
    recipe = load_recipe(write(MINIMAL), ["data.reasoning_gym.config.min_digits=3"])
    assert recipe.data.reasoning_gym.config == {"min_digits": 3}


def test_an_override_lays_a_mapping_over_the_section(write):
    recipe = load_recipe(write(f"{MINIMAL}train: {{lr: 0.5, epochs: 2}}\n"), ["train={lr: 0.25}"])
    assert (recipe.train.lr, recipe.train.epochs) == (0.25, 2.0)


# extends


def test_extends_merges_mappings_and_replaces_lists(write):
    write(f"{MINIMAL}train: {{lr: 0.5, epochs: 2}}\nsweep: {{seeds: [1, 2, 3]}}\n", "base.yaml")
    recipe = load_recipe(write("extends: base.yaml\nname: top\ntrain: {lr: 0.25}\nsweep: {seeds: [9]}\n"))
    assert (recipe.name, recipe.train.lr, recipe.train.epochs, recipe.sweep.seeds) == ("top", 0.25, 2.0, [9])


def test_extends_follows_a_chain_relative_to_each_file(write, tmp_path):
    (tmp_path / "deep").mkdir()
    write(MINIMAL, "deep/root.yaml")
    write("extends: root.yaml\nseed: 1\n", "deep/middle.yaml")
    recipe = load_recipe(write("extends: deep/middle.yaml\nmethod: mirror\n"))
    assert (recipe.name, recipe.seed, recipe.method) == ("small", 1, "mirror")


def test_extends_in_a_circle_is_refused(write):
    write("extends: b.yaml\n", "a.yaml")
    path = write("extends: a.yaml\n", "b.yaml")
    (line,) = problems(path)
    assert "circle" in line


def test_a_missing_base_is_the_only_problem_reported(write):
    (line,) = problems(write("extends: bass.yaml\nname: top\n"))
    assert "bass.yaml: no such file" in line


@pytest.mark.parametrize("value", ["[a.yaml]", "3", "{}"])
def test_extends_takes_one_file_name(write, value):
    (line,) = problems(write(f"{MINIMAL}extends: {value}\n"))
    assert "small.yaml:7: extends: got" in line


def test_extends_is_no_override(write):
    (line,) = problems(write(MINIMAL), "extends=other.yaml")
    assert line.startswith("override: extends: only a file")


def test_a_bad_value_is_blamed_on_the_file_that_holds_it(write):
    base = write(f"{MINIMAL}train:\n  lr: fast\n", "base.yaml")
    (line,) = problems(write("extends: base.yaml\ntrain: {epochs: 2}\n"))
    assert line.startswith(f"{base}:8: train.lr: got ")


# Bad values


def test_a_misspelt_field_names_the_nearest_and_the_known_ones(write):
    path = write(f"{MINIMAL}train:\n  warmup_step: 5\n")
    (line,) = problems(path)
    assert line.startswith(
        f"{path}:8: train.warmup_step: unknown field; did you mean train.warmup_steps? Known in train:"
    )
    assert "max_grad_norm" in line


def test_a_field_in_the_wrong_section_names_the_right_one(write):
    (line,) = problems(write(f"{MINIMAL}lr: 0.1\n"))
    assert "lr: unknown field; did you mean train.lr?" in line


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.lr=fast", 'override: train.lr: got "fast"; expected a number. Write a bare number'),
        ('train.lr="0.1"', 'override: train.lr: got "0.1"; expected a number. Write a bare number'),
        ("train.lr=yes", "override: train.lr: got true; expected a number. Change it, or leave it out for the default"),
        ("train.lr=.inf", "override: train.lr: got Infinity; expected a finite number"),
        ("train.lr=-1", "override: train.lr: got -1; expected a number above 0"),
        ("train.lr=", "override: train.lr: got null; expected a number"),
        ("train.num_workers=1e2", "override: train.num_workers: got 100.0; expected a whole number. Write 100"),
        ("train.num_workers=1.5", "override: train.num_workers: got 1.5; expected a whole number. Change it"),
        ("calibrate.grid=69", "override: calibrate.grid: got 69; expected a number of at least 70"),
        ("data.validation_fraction=1", "override: data.validation_fraction: got 1; expected a number below 1"),
        ("data.path=3", "override: data.path: got 3; expected text. Put the value in quotes"),
        ("data.task=gsm9k", "override: data.task: got \"gsm9k\"; expected 'gsm8k', 'hitab', 'open_science', 'sorting'"),
        ("tracking.mlflow=1", "override: tracking.mlflow: got 1; expected true or false"),
        ("sweep.seeds=1", "override: sweep.seeds: got 1; expected a list"),
        ("sweep.seeds=[]", "override: sweep.seeds: got []; expected a list of at least 1"),
        ("sweep.seeds=[1,x]", 'override: sweep.seeds.1: got "x"; expected a whole number'),
        ("sweep.seeds=[1,1]", "override: sweep.seeds: got [1, 1]: named more than once: 1"),
        ("train=3", "override: train: got 3; expected a section"),
        ("name=a b", 'override: name: got "a b"; expected letters, digits'),
        ("trian.lr=3", "override: trian: unknown field; did you mean train?"),
        ("train.lr.x=3", 'override: train.lr: got {"x": 3}; expected a number'),
        ("evaluate.block_length=48", "override: evaluate: `generation_length` must be a multiple of `block_length`"),
    ],
)
def test_a_bad_value_says_where_what_and_how_to_mend_it(write, override, expected):
    (line,) = problems(write(MINIMAL), override)
    assert line.startswith(expected)


def test_a_wrong_choice_names_the_nearest(write):
    (line,) = problems(write(MINIMAL), "data.task=gsm9k")
    assert line.endswith("Did you mean gsm8k?")


@pytest.mark.parametrize("field", ["method=mirorr", "sweep.baseline=mirorr", "sweep.methods=[standard,mirorr]"])
def test_an_unknown_method_lists_the_known_ones(write, field):
    (line,) = problems(write(MINIMAL), field)
    assert "did you mean 'mirror'? Known methods: standard, p_pots," in line


def test_a_missing_field_is_named_with_its_choices(write):
    path = write("name: small\ndata:\n  num_train: 5\nmodel: {kind: tiny, tokenizer: {kind: chars}}\n")
    (line,) = problems(path)
    expected = "data.task: missing; expected one of gsm8k, hitab, open_science, sorting, reasoning_gym, sft. Add it"
    assert line == f"{path}:2: {expected}"


def test_a_missing_section_is_named_with_its_fields(write):
    path = write("name: small\ndata: {task: sorting}\n")
    (line,) = problems(path)
    assert line.startswith(f"{path}: model: missing; expected a section with kind, path,")


def test_a_long_value_is_cut(write):
    (line,) = problems(write(MINIMAL), f"train.lr={'x' * 1000}")
    assert len(line) < 250


def test_all_problems_are_reported_at_once(write):
    path = write(f"{MINIMAL}train:\n  lr: fast\n  epoch: 3\nmethod: p_post\n")
    lines = problems(path, "seed=-1", "nonsense")
    assert len(lines) == 5
    for part in ("train.lr: got", "train.epoch: unknown", "method: got", "seed: got -1", 'override: got "nonsense"'):
        assert sum(part in line for line in lines) == 1


@pytest.mark.parametrize("text", ["nonsense", "=4", "train..lr=1", "train.=1", ""])
def test_an_override_that_is_none_is_refused(write, text):
    (line,) = problems(write(MINIMAL), text)
    assert "expected field=value, such as train.lr=1e-4" in line


def test_an_override_that_is_no_yaml_is_refused(write):
    (line,) = problems(write(MINIMAL), "sweep.seeds=[1,")
    assert line.startswith('override: sweep.seeds: got "[1,": not valid YAML')


# Bad files


def test_a_syntax_error_names_file_and_line(write):
    path = write("name: small\ndata: {task: sorting\nmodel: 3\n")
    (line,) = problems(path)
    assert line.startswith(f"{path}:3: not valid YAML")


@pytest.mark.parametrize("text", ["name: a\ndata: {}\nname: b\n", "name: a\ndata: {task: sft, path: x, task: sft}\n"])
def test_a_key_given_twice_is_refused(write, text):
    path = write(text)
    (line,) = problems(path)
    assert line.startswith(f"{path}:{text.count(chr(10))}: not valid YAML:")
    assert "is given twice, first on line" in line


def test_the_same_key_in_two_sections_is_no_duplicate(write):
    assert load_recipe(write(f"{MINIMAL}arm_model: {{kind: pretrained, path: x}}\n")).arm_model.path == "x"


def test_a_merged_mapping_may_be_refined(write):
    text = f"{MINIMAL}calibrate: &c {{num_actors: 3}}\nevaluate:\n  <<: *c\n  steps: 64\n"
    assert load_recipe(write(text)).evaluate.num_actors == 3


def test_an_alias_that_contains_itself_is_refused(write):
    (line,) = problems(write("name: small\ndata: &d\n  sorting: *d\n"))
    assert "an alias contains itself" in line


def test_a_tag_that_would_run_code_is_refused(write):
    path = write("name: !!python/object/apply:os.getcwd []\n")
    (line,) = problems(path)
    assert line.startswith(f"{path}:1: not valid YAML")


def test_an_impossible_date_is_refused(write):
    (line,) = problems(write("name: 2024-13-45\n"))
    assert "not valid YAML" in line


@pytest.mark.parametrize("text", ["", "# only a comment\n", "- a\n", "text\n"])
def test_a_file_without_fields_is_refused(write, text):
    (line,) = problems(write(text))
    assert "expected fields such as `name: my-run`" in line


def test_a_key_that_is_no_text_is_refused(write):
    (line,) = problems(write(f"{MINIMAL}train: {{1: 2}}\n"))
    assert "train.1" in line


def test_a_missing_file_suggests_the_nearest(write, tmp_path):
    path = write(MINIMAL, "quickstart.yaml")
    (line,) = problems(tmp_path / "quikstart.yaml")
    assert line.endswith(f"no such file. Did you mean {path}? `raymdm recipes` lists the recipes")


def test_a_missing_folder_is_said_to_be_missing(tmp_path):
    (line,) = problems(tmp_path / "none" / "a.yaml")
    assert f"the folder {tmp_path / 'none'} does not exist" in line


def test_a_folder_is_no_recipe(tmp_path):
    (line,) = problems(tmp_path)
    assert "cannot be read" in line


def test_a_binary_file_is_no_recipe(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    (line,) = problems(path)
    assert line == f"{path}: not UTF-8 text; expected a recipe in YAML"


# Writing


def test_a_recipe_read_from_its_dump_is_the_same(write):
    recipe = load_recipe(write(MINIMAL), ["arm_model={kind: pretrained, path: x}", "train.lr=1e-5"])
    assert load_recipe(write(dump_recipe(recipe), "dump.yaml")) == recipe


@example(text="\x85")
@example(text="a\u2028 b\r\n")
@given(text=st.text(st.characters(exclude_categories=["Cs"])) | st.from_regex(r"[0-9]e-?[0-9]", fullmatch=True))
def test_any_text_survives_a_dump(tmp_path_factory, text):
    recipe = Recipe.model_validate(
        {
            "name": "small",
            "description": text,
            "data": {"task": "sorting"},
            "model": {"kind": "tiny", "tokenizer": {"kind": "chars"}},
        }
    )
    path = tmp_path_factory.mktemp("dump") / "dump.yaml"
    path.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(path).description == text


# Listing


def test_recipes_are_listed_by_file_name(write, tmp_path):
    b = write(f"{MINIMAL}description: The second.\n", "b.yaml")
    a = write(MINIMAL.replace("small", "first"), "a.yml")
    write("not: read", "notes.txt")
    assert find_recipes(tmp_path) == [(a, "first", ""), (b, "small", "The second.")]


def test_a_part_for_others_to_extend_is_not_listed(write, tmp_path):
    write("data: {task: sorting}\n", "_base.yaml")
    path = write("extends: _base.yaml\nname: top\nmodel: {kind: tiny, tokenizer: {kind: chars}}\n")
    assert find_recipes(tmp_path) == [(path, "top", "")]


def test_a_broken_recipe_is_listed_with_its_first_problem(write, tmp_path):
    path = write(f"{MINIMAL}seed: -1\nlr: 3\n", "bad.yaml")
    ((found, name, description),) = find_recipes(tmp_path)
    assert (found, name) == (path, "bad")
    assert description.startswith(f"broken: {path}:7: seed: got -1")
    assert "\n" not in description


def test_listing_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        find_recipes(tmp_path / "none")
