"""The documentation names what the program has."""

import json
import re
from pathlib import Path

import yaml

from raymdm.comparison.document import Report
from raymdm.config.methods import METHODS, MethodSpec
from raymdm.config.schema import DataConfig, ModelConfig, Recipe, TokenizerConfig

SAID_OF_EACH = ["When", "Cost", "Bias", "Measured"]


def _page(repo_root: Path, name: str) -> str:
    return (repo_root / "docs" / name).read_text()


def _section(page: str, heading: str) -> str:
    """What stands under a heading, up to the next of its level or above; a `#` at a line's start is a heading."""
    level = heading.split(maxsplit=1)[0]
    start = page.index(f"\n{heading}\n") + len(heading) + 2
    following = re.search(rf"^#{{1,{len(level)}}} ", page[start:], re.MULTILINE)
    return page[start : start + following.start()] if following else page[start:]


def _rows(text: str) -> list[list[str]]:
    """The cells of each table row whose first cell is a name in backticks."""
    rows = re.findall(r"^\| `\w+` \|.*\|$", text, re.MULTILINE)
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_overview_has_a_row_for_every_method(repo_root: Path) -> None:
    rows = _rows(_section(_page(repo_root, "methods.md"), "## Overview"))
    assert [row[0].strip("`") for row in rows] == list(METHODS)


def test_overview_states_each_method_s_model_rows(repo_root: Path) -> None:
    rows = _rows(_section(_page(repo_root, "methods.md"), "## Overview"))
    said = {row[0].strip("`"): re.findall(r"(\d+) model rows?\b", row[-1]) for row in rows}
    assert said == {name: [str(method.views)] for name, method in METHODS.items()}


def test_overview_states_which_methods_need_a_calibration(repo_root: Path) -> None:
    rows = _rows(_section(_page(repo_root, "methods.md"), "## Overview"))
    said = {row[0].strip("`") for row in rows if "a calibration" in row[-1]}
    assert said == {name for name, method in METHODS.items() if method.calibrated}


def test_overview_states_which_methods_are_biased(repo_root: Path) -> None:
    rows = _rows(_section(_page(repo_root, "methods.md"), "## Overview"))
    said = {row[0].strip("`") for row in rows if row[3].startswith("yes")}
    assert said == {name for name, method in METHODS.items() if method.biased}


def test_every_method_has_a_section(repo_root: Path) -> None:
    section = _section(_page(repo_root, "methods.md"), "## Each method")
    assert re.findall(r"^### (\w+)$", section, re.MULTILINE) == list(METHODS)


def test_every_method_s_section_has_the_same_form(repo_root: Path) -> None:
    page = _page(repo_root, "methods.md")
    said = {name: re.findall(r"^- \*\*(\w+)\*\*: ", _section(page, f"### {name}"), re.MULTILINE) for name in METHODS}
    assert said == dict.fromkeys(METHODS, SAID_OF_EACH)


def test_parts_table_names_every_part(repo_root: Path) -> None:
    rows = _rows(_section(_page(repo_root, "methods.md"), "## Composing a method"))
    assert [row[0].strip("`") for row in rows] == list(MethodSpec.model_fields)


def test_examples_of_composed_methods_are_valid(repo_root: Path) -> None:
    examples = re.findall(r"```yaml\n(.*?)```", _page(repo_root, "methods.md"), re.DOTALL)
    model = ModelConfig(kind="tiny", tokenizer=TokenizerConfig(kind="chars"))
    given = {"name": "example", "data": DataConfig(task="sorting"), "model": model}
    recipes = [Recipe.model_validate(given | yaml.safe_load(example)) for example in examples]
    composed = {name: method.biased for recipe in recipes for name, method in recipe.methods.items()}
    assert composed
    assert set(composed.values()) == {None}


def test_start_page_lists_every_command(repo_root: Path) -> None:
    source = (repo_root / "raymdm" / "cli.py").read_text()
    commands = re.findall(r"@app\.command\(\)\ndef (\w+)", source)
    listed = re.findall(r"^\| `raymdm (\w+)", _page(repo_root, "start.md"), re.MULTILINE)
    assert commands
    assert sorted(listed) == sorted(commands)


def test_every_source_of_the_reference_exists(repo_root: Path) -> None:
    modules = re.findall(r"^::: (\S+)$", _page(repo_root, "reference.md"), re.MULTILINE)
    missing = [name for name in modules if not (repo_root / f"{name.replace('.', '/')}.py").is_file()]
    assert modules
    assert missing == []


def test_navigation_names_every_page(repo_root: Path) -> None:
    navigation = _section_of_yaml((repo_root / "mkdocs.yml").read_text(), "nav")
    named = [page for entry in navigation for page in (entry.values() if isinstance(entry, dict) else [entry])]
    assert sorted(named) == sorted(path.name for path in (repo_root / "docs").glob("*.md"))


def _section_of_yaml(text: str, key: str) -> list[str | dict[str, str]]:
    return yaml.safe_load(text)[key]


def test_the_schema_of_report_json_is_that_of_its_models(repo_root: Path) -> None:
    written = (repo_root / "docs" / "report.schema.json").read_text()
    assert written == json.dumps(Report.model_json_schema(), indent=1) + "\n"
