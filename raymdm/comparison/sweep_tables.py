"""What a report shows of a sweep's own files: calibrations, environment, answers."""

from typing import Any

from raymdm.comparison.document import Report
from raymdm.comparison.metrics import METRICS, significant
from raymdm.comparison.results import Calibration, SourceVariance, Sweep, start_of
from raymdm.comparison.runs import Runs
from raymdm.comparison.tables import NONE, Table, described
from raymdm.config.schema import Recipe

SHOWN_EXAMPLES = 3
SHOWN_CHARACTERS = 600


def calibration_table(calibrations: dict[str, Calibration], recipe: Recipe) -> Table:
    """A column a calibration: fit, weights, expected variance and cost."""
    specs = {name: recipe.spec(name) for name in recipe.sweep.methods}
    users = {
        calibration: [name for name, spec in specs.items() if spec.calibrated and spec.calibration == calibration]
        for calibration in calibrations
    }
    found = list(calibrations.values())
    rows = [["Used by", *(", ".join(users[mask]) or NONE for mask in calibrations)]]
    rows.append(["Optimal for the", *(c.target for c in found)])
    rows.append(["Fitted curve", *(c.kind for c in found)])
    rows.append(["KL(optimum ‖ fit), nats", *(f"{c.kl:.3g}" for c in found)])
    rows.append(["Weights 1/p(t)", *(f"{c.weight_min:.3g} to {c.weight_max:.3g}" for c in found)])
    rows.append(["Variance, uniform", *(significant(c.variance["uniform"]) for c in found)])
    rows.append(["Variance, fitted", *(_expected(c.variance[c.kind], c.variance["uniform"]) for c in found)])
    rows.append(
        ["Variance, empirical optimum", *(_expected(c.variance["optimum"], c.variance["uniform"]) for c in found)]
    )
    rows.append(["A + B + C, uniform", *(_split(c.decomposition.get("uniform")) for c in found)])
    rows.append(["A + B + C, EPR", *(_split(c.decomposition.get("epr")) for c in found)])
    rows.append(["Parameters", *("\n".join(f"{k} = {v:.4g}" for k, v in c.params.items()) for c in found)])
    rows.append(["Share of uniform mixed in", *(f"{c.uniform_mix:.3g}" for c in found)])
    rows.append(["Smallest rate eps", *(f"{c.eps:.3g}" for c in found)])
    rows.append(["Cost", *(f"{c.rows:,} model rows, {METRICS['train_seconds'].write(c.seconds)}" for c in found)])
    return Table(["", *calibrations], rows)


def _split(source: SourceVariance | None) -> str:
    """Of losses alone: a calibration of gradients has none."""
    return NONE if source is None else " + ".join(map(significant, (source.masks, source.rate, source.data)))


def _expected(value: float, uniform: float) -> str:
    return significant(value) + (f" ({value / uniform:.2f} of uniform)" if uniform > 0 else "")


def provenance_table(report: Report, runs: Runs) -> Table:
    """Where the runs come from, what they are, and what wrote the report."""
    metric = described(runs, report.metric).label
    rows = [
        ["Runs from", report.source],
        ["Tasks", ", ".join(report.tasks)],
        ["Models", ", ".join(dict.fromkeys(map(str, runs.table["model"])))],
        ["Seeds", ", ".join(dict.fromkeys(map(str, runs.table["seed"])))],
        ["Baseline", report.baseline or ""],
        *([name, value] for name, value in ({"Metric of the claims": metric} | report.options).items()),
        ["raymdm of this report", report.raymdm_version],
    ]
    return Table(["", ""], [row for row in rows if row[1]])


def environment_table(sweep: Sweep) -> Table:
    """What a sweep is and ran on; where its runs are of several versions, all of them."""
    info, origins = sweep.info, sweep.origins or [start_of(sweep.info)]
    seeds = ", ".join(map(str, dict.fromkeys(seed for found in sweep.seeds.values() for seed in found)))
    wall = METRICS["wall_seconds"].write(info.wall_seconds) if info.wall_seconds is not None else NONE
    rows = [
        ["Task", ", ".join(sweep.table["task"].unique())],
        ["Model", ", ".join(sweep.table["model"].unique())],
        ["Seeds that ended", seeds],
        ["Hardware", info.hardware],
        ["raymdm", _of_runs([origin.raymdm_version for origin in origins])],
        ["Git commit", _of_runs([origin.git_commit or "not recorded" for origin in origins])],
        ["Recipe's hash", info.config_hash],
        ["Started", info.created],
        ["Whole sweep", f"{wall} ({info.status})"],
        ["Packages", _packages([origin.environment for origin in origins])],
    ]
    return Table(["", ""], rows)


def checkout(sweep: Sweep) -> str | None:
    """What a shell gives to `git checkout`: the commit of the sweep's start, the others of its runs as a comment."""
    start = sweep.info.git_commit
    others = [origin.git_commit for origin in sweep.origins if origin.git_commit not in (start, None)]
    return f"{start}  # other runs: {', '.join(dict.fromkeys(map(str, others)))}" if start and others else start


def _of_runs(values: list[str]) -> str:
    """A value, or several with a word on it."""
    found = list(dict.fromkeys(values))
    return f"{' and '.join(found)} (the runs are of several)" if len(found) > 1 else found[0]


def _packages(environments: list[dict[str, str]]) -> str:
    """Packages with their versions, in alphabetical order."""
    names = sorted({name for found in environments for name in found})
    return ", ".join(f"{name} {_of_runs([found.get(name, NONE) for found in environments])}" for name in names)


def examples(sweep: Sweep) -> list[dict[str, Any]]:
    """The first test examples with every method's answer from its first seed; the first, so that none is picked."""
    first = {method: seeds[0] for method, seeds in sweep.seeds.items()}
    answers = sweep.answers[sweep.answers["seed"] == sweep.answers["method"].map(first)]
    found = []
    for example_id in sorted(answers["example_id"].unique())[:SHOWN_EXAMPLES]:
        rows = answers[answers["example_id"] == example_id].to_dict("records")
        shown = [
            {
                "method": f"{row['method']}, seed {row['seed']}",
                "verdict": f"score {METRICS['accuracy'].write(row['score'])}%",
                "output": _shortened(str(row["output"])),
            }
            for row in rows
        ]
        found.append({"id": example_id, "reference": str(rows[0]["reference"]), "answers": shown})
    return found


def _shortened(text: str) -> str:
    if len(text) <= SHOWN_CHARACTERS:
        return text
    return f"{text[:SHOWN_CHARACTERS]} … ({len(text) - SHOWN_CHARACTERS} more characters)"
