"""The page and the terminal's table of a diagnosis: their cells, their escaping, their width."""

import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from raymdm.comparison.diagnosis import Diagnosis, Variance
from raymdm.comparison.diagnosis_figures import stack
from raymdm.comparison.diagnosis_report import write_report
from raymdm.comparison.diagnosis_tables import bias_table, densities_table, overview_table, sources_table, terminal
from raymdm.errors import UserError

Make = Callable[..., dict[str, Any]]
VOID = {"meta", "img", "br"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = 'a"b<script>alert(1)</script>[/bold]$x^{$&amp;'


class Outline(HTMLParser):
    """Every element with its attributes, the text between them, and tags that are closed out of order."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.misplaced: list[str] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))
        self.close()
        self.misplaced += self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open += [] if tag in VOID else [tag]

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.misplaced.append(tag)

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def place(folder: Path, data: dict[str, Any], recipe: str = "name: synthetic\n") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "diagnose.json").write_text(json.dumps(data))
    (folder / "recipe.yaml").write_text(recipe)
    return folder


def printed(data: dict[str, Any], width: int = 100) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(terminal(Diagnosis.model_validate_json(json.dumps(data))))
    return console.export_text()


@pytest.fixture(scope="module")
def full(diagnosis_json: Make, row: Make) -> dict[str, Any]:
    """Seven methods: calibrated, of two rows, biased, of long name."""
    calibrated = {"calibration": "fixed_size_gradient", "masking": "fixed_size"}
    return diagnosis_json(
        row("p_pots", 0.79, 0.97, calibration="bernoulli"),
        row("mirror", 1.23, 0.91, rows=2),
        row("clipped", 0.11, 0.6, biased="leaves rates out"),
        row("fixed_size_g_pots", 0.51, 0.71, **calibrated),
        row("fixed_size_p_pots_mirror", 0.25, 0.88, rows=2, calibration="bernoulli"),
        row("stable", 0.2, 0.5, rows=2, warning="not advised", **calibrated),
        checkpoint="runs/my model/best",
        warnings=["the interval of standard is wide"],
    )


@pytest.fixture(scope="module")
def page(full: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(place(tmp_path_factory.mktemp("diagnosis"), full))


@pytest.fixture(scope="module")
def hostile(diagnosis_json: Make, row: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report in which everything that a user names is markup for a page, a terminal and a figure."""
    method = row(HOSTILE, 0.5, 0.5, summary=HOSTILE, biased=HOSTILE, warning=HOSTILE, calibration=HOSTILE)
    data = diagnosis_json(method, name=HOSTILE, hardware=HOSTILE, checkpoint=HOSTILE, warnings=[HOSTILE])
    data["densities"][HOSTILE] = data["densities"]["bernoulli"] | {"warnings": [HOSTILE]}
    data["curves"][HOSTILE] = data["curves"]["bernoulli"]
    return write_report(place(tmp_path_factory.mktemp("hostile"), data, recipe=f"name: {HOSTILE}\n"))


def test_the_page_lies_beside_its_figures(page: Path) -> None:
    names = {path.name for path in page.parent.rglob("*.*")}
    figures = {"gradient_sources", "loss_sources", "mean", "variance", "second_moment", "gradient_second_moment"}
    figures |= {"density_1_bernoulli", "density_2_fixed_size_gradient"}
    assert page.name == "diagnose.html"
    assert names == {"diagnose.json", "recipe.yaml", "diagnose.html", *(f"{name}.png" for name in figures)}


def test_the_page_is_well_formed(page: Path) -> None:
    outline = Outline(page)
    assert outline.misplaced == []
    assert len(outline.all("table")) == 8


def test_the_page_needs_nothing_else(page: Path) -> None:
    outline = Outline(page)
    targets = [
        value for _, attributes in outline.elements for name, value in attributes.items() if name in ("src", "href")
    ]
    assert len(outline.all("img")) == 8
    assert all(target and target.startswith(("data:image/png;base64,", "#")) for target in targets)
    assert not {"script", "link", "iframe", "object", "form"} & {tag for tag, _ in outline.elements}
    assert not re.search(r"https?://|url\(|@import", page.read_text(encoding="utf-8"))


def test_the_page_allows_itself_nothing_else(page: Path) -> None:
    policies = [meta["content"] for meta in Outline(page).all("meta") if "http-equiv" in meta]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_links_within_the_page_lead_somewhere(page: Path) -> None:
    outline = Outline(page)
    ids = {attributes.get("id") for _, attributes in outline.elements}
    links = [link["href"] for link in outline.all("a")]
    assert len(links) == 2
    assert all(link and link.removeprefix("#") in ids for link in links)


def test_every_figure_says_what_it_shows(page: Path) -> None:
    assert all(len(image["alt"] or "") > 40 for image in Outline(page).all("img"))


def test_the_same_input_gives_the_same_bytes(page: Path, full: dict[str, Any], tmp_path: Path) -> None:
    again = write_report(place(tmp_path, full))
    assert again.read_bytes() == page.read_bytes()


def test_the_page_opens_with_the_recommendation(page: Path) -> None:
    text = Outline(page).text
    verdict = "stable: at equal compute the gradient's variance is 0.50 (95% interval 0.45 to 0.55)"
    assert verdict in text
    assert text.index(verdict) < text.index("Methods")


def test_the_page_says_how_to_make_it_again(page: Path) -> None:
    text = Outline(page).text
    assert "git checkout 0123abc\nraymdm diagnose recipe.yaml --checkpoint 'runs/my model/best'" in text
    assert "name: synthetic" in text
    for part in ("48 sequences x 25 rates x 6 masks", "16 sequences x 7 rates x 2 masks", "1,300,000 parameters"):
        assert part in text


def test_warnings_of_the_fits_are_shown(page: Path) -> None:
    text = Outline(page).text
    assert "3 warnings" in text
    assert "the interval of standard is wide" in text
    assert "fixed_size_gradient: the fit is poor: KL 0.03" in text


def test_markup_from_data_is_text_on_the_page(hostile: Path) -> None:
    outline = Outline(hostile)
    assert outline.misplaced == []
    assert "script" not in {tag for tag, _ in outline.elements}
    allowed = {"src", "href", "alt", "class", "id", "lang", "name", "content", "charset", "http-equiv", "scope"}
    assert {name for _, attributes in outline.elements for name in attributes} == allowed | {"data-label"}
    assert outline.text.count(HOSTILE) > 10


def test_figures_of_odd_names_stay_in_their_folder(hostile: Path) -> None:
    assert len(list((hostile.parent / "figures").glob("density_3_a_b_script_alert_1*.png"))) == 1


def test_markup_from_data_is_text_in_the_terminal(hostile: Path) -> None:
    text = printed(json.loads((hostile.parent / "diagnose.json").read_text()), width=300)
    assert text.count(HOSTILE) >= 5


def test_the_overview(full: dict[str, Any]) -> None:
    rows = {cells[0]: cells[1:] for cells in overview_table(Diagnosis.model_validate_json(json.dumps(full))).rows}
    assert rows["standard"] == ["1", "1.00", "1.00", "no", "unbiased"]
    assert rows["mirror"] == ["2", "0.91\n0.82 to 1.00", "1.23\n1.11 to 1.35", "no", "unbiased"]
    assert rows["clipped"] == ["1", "0.60\n0.54 to 0.66", "0.11\n0.10 to 0.12", "no", "biased"]
    assert rows["stable\nrecommended"] == ["2", "0.50\n0.45 to 0.55", "0.20\n0.18 to 0.22", "yes", "unbiased"]


def test_the_sources(diagnosis_json: Make, row: Make) -> None:
    method = row("g_pots", 0.5, 0.5)
    method["gradient"]["rate"] = {"value": -0.02, "low": -0.05, "high": 0.01}
    method["gradient"]["batch"] = {"value": 1.5, "low": None, "high": None}
    table = sources_table(Diagnosis.model_validate_json(json.dumps(diagnosis_json(method))), "gradient")
    # A is 3.1 times, C 0.2 times the relative variance of 0.5; the intervals are 10% to both sides
    assert table.headers[2:] == ["A, masks", "B, rate", "C, data", "A + B + C", "Batch of 32,\ntimes B"]
    cells = ["2.50\n2.25 to 2.75", "1.55\n1.40 to 1.71", "-0.0200\n-0.0500 to 0.0100", "0.100\n0.0900 to 0.110"]
    assert table.rows[1] == ["g_pots", *cells, "2.00\n1.80 to 2.20", "1.50"]


def test_a_method_of_the_baselines_rows_agrees_by_construction(diagnosis_json: Make, row: Make) -> None:
    method = row("other", 1.0, 1.0)
    method["bias"] |= {"gradient_p": 0.0001, "by_construction": True}
    data = diagnosis_json(method)
    table = bias_table(Diagnosis.model_validate_json(json.dumps(data)))
    assert table.rows == [["other", "–", "–", "same rows: holds by construction"]]
    assert "differs" not in printed(data, width=200)


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_a_baseline_without_variance_has_a_page_without_ratios(
    without_variance: Callable[..., dict[str, Any]], row: Make, tmp_path: Path, kind: str
) -> None:
    data = without_variance(kind, row("mirror", 0.5, 0.5))
    outline = Outline(write_report(place(tmp_path, data)))
    assert f"the baseline's {kind} variance came out as -0.1" in outline.text
    assert f"Warning: the baseline's {kind} variance came out as -0.1" in printed(data, width=200)
    overview = overview_table(Diagnosis.model_validate_json(json.dumps(data)))
    assert [cells[3 if kind == "loss" else 2] for cells in overview.rows] == ["–", "–"]
    assert not list((tmp_path / "figures").glob(f"{kind}_sources.png"))


def test_a_density_without_an_optimal_variance_has_no_excess(diagnosis_json: Make) -> None:
    data = diagnosis_json()
    data["densities"]["bernoulli"]["variance_excess"] = None
    table = densities_table(Diagnosis.model_validate_json(json.dumps(data)))
    assert table.rows[-1] == ["Variance above the optimum's", "–", "+1.2%"]


def test_an_unexplained_bias_is_a_warning(diagnosis_json: Make, row: Make) -> None:
    method = row("other", 1.0, 1.0)
    method["bias"]["gradient_p"] = 0.0001
    warning = (
        "Warning: other: its mean differs from standard (p < 0.003), which an unbiased method should not: raise "
        "diagnose.rates and diagnose.gradient_rates, or measure more sequences"
    )
    assert warning in printed(diagnosis_json(method), width=300)


def test_the_terminal_fits_into_100_columns(full: dict[str, Any]) -> None:
    lines = printed(full).splitlines()
    assert max(map(len, lines)) <= 100
    text = " ".join(" ".join(lines).split())
    # neither a name nor a number is broken
    assert "fixed_size_p_pots_mirror 2 loss 0.300 0.125 0.0750 0.25 (0.23–0.28)" in text
    assert "gradient 2.73 0.616 0.176 0.88 (0.79–0.97)" in text


def test_the_terminal_recommends_and_warns(full: dict[str, Any]) -> None:
    text = printed(full, width=300)
    assert "Recommended: stable: at equal compute the gradient's variance is 0.50" in text
    assert "Biased: clipped: leaves rates out." in text
    assert "Warning: the interval of standard is wide" in text
    assert "Warning: fixed_size_gradient: the fit is poor: KL 0.03" in text


def test_without_gradients_nothing_speaks_of_them(diagnosis_json: Make, row: Make, tmp_path: Path) -> None:
    data = diagnosis_json(row("mirror", 0.5, None, bias=None), gradient=False)
    report = write_report(place(tmp_path, data))
    assert "Gradients were not measured" in Outline(report).text
    assert not list((tmp_path / "figures").glob("gradient*"))
    assert "  gradient " not in printed(data)


def test_an_arm_has_a_page_too(diagnosis_json: Make, row: Make, tmp_path: Path) -> None:
    data = diagnosis_json(family="arm", curves={}, densities={})
    data["methods"] = [row("arm", 1.0, 1.0, bias=None, masking="none")]
    outline = Outline(write_report(place(tmp_path, data)))
    assert outline.misplaced == []
    assert outline.all("img") == []
    assert "there is nothing to choose" in outline.text
    assert "Measured on 48 sequences, once each." in outline.text
    assert not any(words in outline.text for words in ("25 rates", "6 masks", "weighted loss", "g(t)", "Bias check"))


def test_a_missing_recipe_is_named(diagnosis_json: Make, tmp_path: Path) -> None:
    (place(tmp_path, diagnosis_json()) / "recipe.yaml").unlink()
    with pytest.raises(UserError, match=r"holds no recipe\.yaml"):
        write_report(tmp_path)


def test_a_part_below_zero_isstacked_to_the_left() -> None:
    def variance(masks: float, rate: float, data: float) -> Variance:
        parts = {"mean": 0.0, "masks": masks, "rate": rate, "data": data, "total": 0.0, "batch": 0.0, "relative": 0.0}
        return Variance.model_validate({name: {"value": value} for name, value in parts.items()})

    measured = {"a": (1, variance(2.0, -0.5, 1.0)), "b": (2, variance(-1.0, -0.5, 1.0))}
    found = {source: stack(measured, source, 4.0) for source in ("masks", "rate", "data")}
    # rows times the part over 4; each begins where the parts of its own sign before it end
    np.testing.assert_allclose(found["masks"], [[0.0, 0.0], [0.5, -0.5]])
    np.testing.assert_allclose(found["rate"], [[0.0, -0.5], [-0.125, -0.25]])
    np.testing.assert_allclose(found["data"], [[0.5, 0.0], [0.25, 0.5]])


# a table's head is taken out of sight on a phone, where every cell has its own label
WIDTHS = """
const root = this.contentDocument.documentElement;
const cells = [...root.querySelectorAll('body *')].filter(cell => !cell.closest('thead') && cell.clientWidth);
const wide = cells.filter(cell => cell.scrollWidth > cell.clientWidth + 1);
document.title = `${cells.length > 100} ${root.scrollWidth} ${wide.length}`;
"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium to lay the page out")
def test_nothing_is_wider_than_a_phone(page: Path, tmp_path: Path) -> None:
    frame = tmp_path / "frame.html"
    frame.write_text(f'<iframe style="width: 390px; border: 0" src="{page.as_uri()}" onload="{WIDTHS}"></iframe>')
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--allow-file-access-from-files"]
    options += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", "--dump-dom"]
    options += ["--disable-dev-shm-usage"]  # a container's shared memory is small
    command = [str(CHROMIUM), *options, frame.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    assert "<title>true 390 0</title>" in shown
