"""report.tex: what it holds, and that LaTeX can read it whatever methods are called."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from raymdm.comparison.document import Report
from raymdm.comparison.latex import latex, latex_table, write_latex
from raymdm.comparison.runs import Runs
from raymdm.comparison.tables import Table

Sample = Callable[..., tuple[Report, Runs]]
HOSTILE = r"[a] 50%_of #1 & {b} $x^2$ ~ \input{/etc/passwd} -- *"
DOCUMENT = r"""\documentclass{article}
\usepackage[T1]{fontenc}
\usepackage{booktabs}
\begin{document}
\input{report.tex}
\end{document}
"""


@pytest.fixture(scope="module")
def hostile(sample: Sample, tmp_path_factory: pytest.TempPathFactory) -> str:
    report, runs = sample({"standard": "standard", HOSTILE: "p_pots"}, {}, ("gsm8k",))
    return write_latex(report, runs, tmp_path_factory.mktemp("tex") / "report.tex").read_text(encoding="utf-8")


def unescaped(text: str, character: str) -> int:
    """How often a character stands there as LaTeX's own."""
    return len(re.findall(rf"(?<!\\){re.escape(character)}", text))


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a_b & 5%", r"a\_b \& 5\%"),
        (r"\x{y}^2~$#", r"\textbackslash{}x\{y\}\textasciicircum{}2\textasciitilde{}\$\#"),
        ("-4.3 to +12.3", "$-$4.3 to +12.3"),
        ("gpt2-medium", "gpt2-medium"),
        ("a--b", "a-{}-b"),
        ("–", r"\textendash{}"),
        ("(nats/token)²", r"(nats/token)\textsuperscript{2}"),
        ("[x]*", "{[}x]{*}"),
        ("two\n\nlines\x07", "two lines"),
        ("p <\u00a00.0001", r"p \textless{}~0.0001"),
    ],
)
def test_text_is_set_as_it_is(text: str, written: str) -> None:
    assert latex(text) == written


def test_a_table() -> None:
    table = Table(["Method", "SD\nof runs", "Finding"], [["a_b", "1.0\n-0.5 to 2.5", "better"]], (2,))
    assert latex_table(table, "Words, 95%", "x").splitlines() == [
        r"\begin{table}",
        r"\centering\small",
        r"\caption{Words, 95\%}",
        r"\label{tab:x}",
        r"\begin{tabular}{lrl}",
        r"\toprule",
        r"Method & \begin{tabular}[b]{@{}r@{}}SD \\ of runs\end{tabular} & Finding \tabularnewline",
        r"\midrule",
        r"a\_b & \begin{tabular}[t]{@{}r@{}}1.0 \\ \scriptsize $-$0.5 to 2.5\end{tabular} & better \tabularnewline",
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]


def test_long_words_are_broken() -> None:
    table = Table(["Method", "Finding"], [["a", "not supported by this many seeds"]], (1,))
    text = latex_table(table, "", "x")
    assert r"\begin{tabular}{lp{2.6cm}}" in text
    assert r"a & \raggedright not supported by this many seeds \tabularnewline" in text


def test_every_environment_is_closed(hostile: str) -> None:
    open_environments: list[str] = []
    for kind, name in re.findall(r"(?<!\\)\\(begin|end)\{(\w+)\}", hostile):
        if kind == "begin":
            open_environments.append(name)
        else:
            assert open_environments.pop() == name
    assert open_environments == []
    assert unescaped(hostile, "{") == unescaped(hostile, "}")
    assert unescaped(hostile, "$") % 2 == 0


def test_names_are_no_commands(hostile: str) -> None:
    body = hostile[hostile.index(r"\begin{table}") :]
    assert r"\input" not in body
    assert not {character for character in "#_^~%" if unescaped(body, character)}
    assert r"\textbackslash{}input\{/etc/passwd\}" in body


def test_every_row_has_as_many_cells_as_columns(hostile: str) -> None:
    rows = [line for line in hostile.splitlines() if line.endswith(r"\tabularnewline")]
    counts = [unescaped(row, "&") + 1 for row in rows]
    # by metric: a head and a row a method for levels, a head and one row for differences and for spreads
    levels, differences, spreads = [5] * 3, [8] * 2, [7] * 2
    assert counts == (levels + differences + spreads) * 2


def test_captions_state_test_and_seeds(hostile: str) -> None:
    captions = re.findall(r"\\caption\{(.*)\}", hostile)
    assert captions[0].startswith(r"Accuracy, \%: mean and standard deviation (SD)")
    assert "3 seeds a method" in captions[0]
    tests = "largest p: two-sided, of a permutation test of Welch's t and of Welch's t test"
    for part in (tests, "Holm's correction for 20 claims", r"95\% intervals"):
        assert part in captions[1]
    assert (
        "Larger p: of a two-sided permutation test of the runs' deviations and of Brown and Forsythe's" in captions[2]
    )
    assert "two one-sided F tests" in captions[2]


def test_labels_are_not_made_from_names(hostile: str) -> None:
    labels = re.findall(r"\\label\{(.*?)\}", hostile)
    assert len(set(labels)) == len(labels) == 6
    assert all(re.fullmatch(r"tab:[a-z]+(-\d+)+", label) for label in labels)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_it_compiles(hostile: str, tmp_path: Path) -> None:
    (tmp_path / "report.tex").write_text(hostile, encoding="utf-8")
    (tmp_path / "paper.tex").write_text(DOCUMENT)
    subprocess.run(["pdflatex", "-halt-on-error", "paper"], cwd=tmp_path, check=True, capture_output=True)
