"""The written report: its files, its sections, its escaping, and that it needs nothing else."""

import base64
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from markdown_it import MarkdownIt

from raymdm.comparison.document import Report
from raymdm.comparison.metrics import Metric, significant
from raymdm.comparison.pages import markdown
from raymdm.comparison.report import write_report
from raymdm.comparison.runs import Runs

Sample = Callable[..., tuple[Report, Runs]]
TEXT = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>\n\n```\n# not a heading & so on"
HOSTILE = ['a"b', "</td><script>x</script>", "x|y`*_&amp;$x^{$ 50% [b]"]
VOID = {"meta", "img", "br", "link", "input", "wbr"}


class Page(HTMLParser):
    """What a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.handlers: list[str] = []
        self.misplaced: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._open += [] if tag in VOID else [tag]
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.misplaced.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def read(folder: Path, name: str = "report.html") -> Page:
    text = (folder / name).read_text(encoding="utf-8")
    if name.endswith(".md"):
        text = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    return Page(text)


@pytest.fixture(scope="module")
def full(sample: Sample) -> tuple[Report, Runs]:
    return sample()


@pytest.fixture(scope="module")
def written(full: tuple[Report, Runs], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks, six methods, everything there is."""
    return write_report(*full, tmp_path_factory.mktemp("full"), latex=True).parent


@pytest.fixture(scope="module")
def hostile(sample: Sample, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Methods, sweep, model, hardware, answers, errors and notes are markup."""
    labels = {"standard": "standard"} | dict.fromkeys(HOSTILE, "p_pots")
    report, runs = sample(labels, {}, ("gsm8k",), text=TEXT)
    return write_report(report, runs, tmp_path_factory.mktemp("hostile"), latex=False).parent


@pytest.fixture(scope="module")
def bare(sample: Sample, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One seed of one method from a table: nothing is compared, no sweep is known."""
    report, runs = sample({"standard": "standard"}, {}, ("gsm8k",), seeds=1)
    empty = {"baseline": None, "differences": [], "spreads": [], "costs": [], "profiles": [], "looks": []}
    report = report.model_copy(update=empty | {"failures": {}, "verdicts": {}})
    report = report.model_copy(update={"levels": [level for level in report.levels if level.metric == "accuracy"]})
    table = runs.table[runs.table["metric"] == "accuracy"]
    runs = replace(runs, table=table, sweeps=[], specs={}, baseline=None)
    return write_report(report, runs, tmp_path_factory.mktemp("bare"), latex=True).parent


def test_the_files(written: Path, hostile: Path) -> None:
    names = {path.name for path in written.iterdir()}
    assert names == {"results.csv", "report.json", "report.md", "report.html", "report.tex", "figures"}
    assert not (hostile / "report.tex").exists()


def test_results_csv_holds_every_number_in_full(written: Path, full: tuple[Report, Runs]) -> None:
    table = pd.read_csv(written / "results.csv")
    assert list(table.columns) == ["task", "model", "method", "seed", "metric", "value"]
    assert table["value"].tolist() == full[1].table["value"].tolist()


def test_a_diverged_run_is_in_results_csv(sample: Sample, tmp_path: Path) -> None:
    report, runs = sample({"standard": "standard"}, {}, ("gsm8k",), seeds=1)
    table = runs.table.assign(value=float("nan"))
    write_report(report, replace(runs, table=table), tmp_path, latex=False)
    assert (tmp_path / "results.csv").read_text().splitlines()[1].endswith(",accuracy,nan")


def test_report_json_reads_back(written: Path, full: tuple[Report, Runs]) -> None:
    text = (written / "report.json").read_text(encoding="utf-8")
    assert Report.model_validate_json(text) == full[0]
    assert json.loads(text)["schema_version"] == 1


def test_the_same_input_gives_the_same_bytes(written: Path, full: tuple[Report, Runs], tmp_path: Path) -> None:
    write_report(*full, tmp_path, latex=True)
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert len(files) == 5 + 32
    for path in files:
        assert path.read_bytes() == (written / path.relative_to(tmp_path)).read_bytes(), path


def test_the_order_of_the_page(written: Path) -> None:
    text = (written / "report.html").read_text(encoding="utf-8")
    heads = re.findall(r"<h2[^>]*>(.*?)</h2>", text)
    assert heads == [
        "Results", "Differences", "Spread", "Compute and cost", "Power", "Adaptive looks", "Learning curves",
        "Calibration", "Sample answers", "Runs without a result", "How far this can be trusted",
        "How each number is obtained", "Environment and recipe",
    ]  # fmt: skip
    assert text.index("Accuracy against standard: 1 better") < text.index("<h2")


def test_sections_without_data_are_left_out(bare: Path) -> None:
    text = (bare / "report.html").read_text(encoding="utf-8")
    heads = re.findall(r"<h2[^>]*>(.*?)</h2>", text)
    assert heads == ["Results", "How far this can be trusted", "How each number is obtained", "Environment"]
    assert "## Differences" not in (bare / "report.md").read_text(encoding="utf-8")


def test_a_sweep_that_logged_nothing_has_no_curves(full: tuple[Report, Runs], tmp_path: Path) -> None:
    report, runs = full
    nothing = pd.DataFrame([], columns=["method", "seed", "step", "metric", "value"])
    sweeps = [replace(sweep, curves=nothing, calibrations={}) for sweep in runs.sweeps]
    write_report(report, replace(runs, sweeps=sweeps), tmp_path, latex=False)
    heads = re.findall(r"<h2[^>]*>(.*?)</h2>", (tmp_path / "report.html").read_text(encoding="utf-8"))
    assert not {"Learning curves", "Calibration"} & set(heads)


def test_a_metric_that_raymdm_does_not_know(sample: Sample, tmp_path: Path) -> None:
    report, runs = sample({"standard": "standard"}, {}, ("gsm8k",))
    metric = Metric("../clip/score", "../clip/score", "", True, significant, "")
    rename = {"metric": metric.key}
    levels = [row.model_copy(update=rename) for row in report.levels if row.metric == "accuracy"]
    table = runs.table[runs.table["metric"] == "accuracy"].assign(**rename)
    report = report.model_copy(update=rename | {"levels": levels})
    runs = replace(runs, table=table, metric=metric, metrics={metric.key: metric}, sweeps=[])
    write_report(report, runs, tmp_path / "report", latex=True)
    assert "metric_1.png" in {path.name for path in (tmp_path / "report" / "figures").iterdir()}
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_the_page_is_well_formed(written: Path, hostile: Path, bare: Path) -> None:
    for folder in (written, hostile, bare):
        assert read(folder).misplaced == []


def test_the_page_needs_nothing_else(written: Path) -> None:
    page = read(written)
    assert page.tags.count("img") == len(list((written / "figures").iterdir())) == 32
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in page.links)
    assert not {"link", "iframe", "object", "form"} & set(page.tags)
    assert page.handlers == []


def test_only_the_pages_own_script_may_run(hostile: Path) -> None:
    text = (hostile / "report.html").read_text(encoding="utf-8")
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert f'content="{policy}"' in text
    assert len(scripts) == 1


def test_markup_from_data_is_text_on_the_page(hostile: Path) -> None:
    page = read(hostile)
    assert page.tags.count("script") == 1
    assert page.handlers == []
    assert page.tags.count("img") == len(list((hostile / "figures").iterdir()))
    for name in HOSTILE:
        assert page.text.count(name) > 10
    # name, note, failure, recipe, and an answer of each of three examples from standard and from p_pots
    assert page.text.count(TEXT) >= 6


def test_anchors_are_not_made_from_names(hostile: Path) -> None:
    page = read(hostile)
    assert all(re.fullmatch("[a-z]+", name) for name in page.ids)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)


def test_markup_from_data_is_text_in_markdown(hostile: Path) -> None:
    page = read(hostile, "report.md")
    assert "script" not in page.tags
    assert page.handlers == []
    assert page.tags.count("h1") == 1
    for name in HOSTILE:
        assert page.text.count(name) > 10


def test_figures_of_odd_names_stay_in_their_folder(hostile: Path) -> None:
    assert all(re.fullmatch(r"[a-z_0-9]+\.png", path.name) for path in (hostile / "figures").iterdir())


def test_tables_of_the_markdown_file(written: Path) -> None:
    text = (written / "report.md").read_text(encoding="utf-8")
    assert "| Method | Task | Seeds | Mean | SD | Smallest to largest |" in text
    assert "| Method | Task | Seeds | Difference | g | Largest p | p Holm | P(better) | Finding |" in text
    assert "- **p_pots, gsm8k**: p 0.10 after Holm" in text
    assert "- **p_pots**\n    - p_pots has accuracy" in text
    page = read(written, "report.md")
    assert page.tags.count("table") == read(written).tags.count("table")


def test_no_missing_number_is_printed(written: Path, bare: Path) -> None:
    for folder in (written, bare):
        for name in ("report.html", "report.md"):
            assert not re.search(r"\b(nan|NaN|inf|None)\b", read(folder, name).text)


def test_each_sweep_has_its_recipe(written: Path) -> None:
    text = read(written).text
    for part in ("gsm8k sweep", "countdown sweep", "git checkout 0123abc\nraymdm sweep recipe.yaml", "kappa = 0.33"):
        assert part in text
    assert text.count("3f9a1c") == 2


def test_where_runs_come_from_is_said_without_a_sweep(sample: Sample, tmp_path: Path) -> None:
    report, runs = sample({"standard": "standard"}, {}, ("gsm8k",))
    report = report.model_copy(
        update={"source": "table.csv", "raymdm_version": "9.8", "options": {"Margin": "1.7"}, "costs": []}
    )
    write_report(report, replace(runs, sweeps=[]), tmp_path, latex=False)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "table.csv, 1 task, 1 method, 3 seeds\n" in text
    for row in (
        "| Runs from | table.csv |",
        "| Seeds | 1, 2, 3 |",
        "| Margin | 1.7 |",
        "| raymdm of this report | 9.8 |",
    ):
        assert row in text


def test_many_sentences_about_a_method_are_folded(full: tuple[Report, Runs], tmp_path: Path) -> None:
    report, runs = full
    many = report.model_copy(update={"verdicts": {"p_pots": [f"Sentence {place}." for place in range(6)]}})
    write_report(many, runs, tmp_path, latex=False)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<li>Sentence 3.</li>\n</ul>\n<details>\n<summary>2 more about p_pots</summary>" in text


def test_the_cost_section_says_what_the_methods_have_in_common(full: tuple[Report, Runs], tmp_path: Path) -> None:
    report, runs = full
    costs = [cost.model_copy(update={"model_rows": 6400.0, "relative_rows": 1.0}) for cost in report.costs]
    write_report(report, runs, tmp_path / "steps", latex=False)
    write_report(report.model_copy(update={"costs": costs}), runs, tmp_path / "rows", latex=False)
    steps, rows = (read(tmp_path / name).text for name in ("steps", "rows"))
    assert "At equal steps: 200 each" in steps and "this is not equal compute" in steps
    assert "At equal compute: 6,400 model rows each" in rows and "this is not equal compute" not in rows
    assert "so accuracy is not drawn against cost" in rows
    assert not list((tmp_path / "rows" / "figures").glob("cost*.png"))


def test_captions_say_what_is_drawn(written: Path) -> None:
    text = " ".join(read(written).text.split())
    assert "The dashed line is the mean of standard, the baseline." in text
    assert "hollow squares: not supported by this many seeds" in text
    assert "Intervals are not widened for the number of claims" in text


def test_sweeps_of_one_name_are_told_apart(full: tuple[Report, Runs], tmp_path: Path) -> None:
    report, runs = full
    first = runs.sweeps[0]
    sweeps = [replace(first, folder=Path("one")), replace(first, folder=Path("two"))]
    write_report(report, replace(runs, sweeps=sweeps), tmp_path, latex=False)
    text = read(tmp_path).text
    assert "gsm8k sweep (one)" in text
    assert "gsm8k sweep (two)" in text


@pytest.mark.parametrize("text", ["a|b", "*x* _y_ `z`", "[a](javascript:b)", "~~c~~ $d$ \\", "&amp; <b>"])
def test_markdown_cells_read_as_they_are(text: str) -> None:
    rendered = Page(
        MarkdownIt("commonmark", {"html": True}).enable("table").render(f"| h |\n| - |\n| {markdown(text)} |")
    )
    assert rendered.text.split() == ["h", *text.split()]
    assert set(rendered.tags) == {"table", "thead", "tbody", "tr", "th", "td"}


def test_importing_the_package_does_not_load_matplotlib() -> None:
    code = "import sys, raymdm.comparison.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
