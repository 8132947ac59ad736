"""A diagnosis as tables of text, for the page and the terminal."""

from collections.abc import Callable
from typing import Literal

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from raymdm.comparison.diagnosis import Diagnosis, Estimate, MethodVariance, Variance
from raymdm.comparison.metrics import duration, significant
from raymdm.comparison.recommendation import (
    LEAST_SEQUENCES,
    MEASURE_MORE,
    P_LIMIT,
    differs,
    ratio,
    recommend,
    without_ratios,
)
from raymdm.comparison.stats.intervals import LEVEL
from raymdm.comparison.tables import NONE, Table, rich_table

LEGEND = (
    "A masks, B masking rate, C data: what each adds to the variance of one sequence, (nats/token)² for the loss and "
    f"squared norm for the gradient. Last column: variance of the batch mean at equal compute, {LEVEL:.0%} interval."
)


def terminal(diagnosis: Diagnosis) -> RenderableType:
    """The diagnosis for a terminal of 100 columns: a table, the recommendation, what to know about single methods."""
    measured = f"{diagnosis.sequences} sequences of {diagnosis.task}, batch {diagnosis.batch_size}"
    table = rich_table(_terminal_table(diagnosis), f"{diagnosis.name}: {measured}", LEGEND, lines=False)
    below = [Text(f"Recommended: {recommend(diagnosis).sentence}", style="bold")]
    below.append(Text("\n".join(f"Biased: {m.name}: {m.biased}." for m in diagnosis.methods if m.biased)))
    below.append(Text("\n".join(f"Warning: {warning}" for warning in all_warnings(diagnosis)), style="yellow"))
    return Group(table, *(Padding(text, (1, 0, 0, 0)) for text in below if text))


def _terminal_table(diagnosis: Diagnosis) -> Table:
    """A row for a method's loss and one for its gradient."""
    headers = ["Method", "Rows", "Of the", "A", "B", "C", f"At equal compute,\ntimes {diagnosis.baseline.name}"]
    rows = []
    for method in diagnosis.methods:
        name, marked = [method.name, str(method.rows)], ["(biased)" if method.biased else "", ""]
        kinds = [(kind, found) for kind, found in (("loss", method.loss), ("gradient", method.gradient)) if found]
        for place, (kind, found) in enumerate(kinds):
            rows.append([*(marked if place else name), kind, *_parts(found), _short(found.relative)])
    return Table(headers, rows)


def _parts(variance: Variance) -> list[str]:
    return [significant(part.value) for part in (variance.masks, variance.rate, variance.data)]


def _short(estimate: Estimate | None) -> str:
    """`0.34 (0.29–0.40)`, narrow enough for a terminal."""
    first, *interval = _two_lines(estimate, ratio).splitlines()
    return f"{first} ({interval[0].replace(' to ', '–')})" if interval else first


def overview_table(diagnosis: Diagnosis) -> Table:
    """A row a method: what it costs and the two variances at equal compute."""
    times = f"at equal compute,\ntimes {diagnosis.baseline.name}"
    headers = ["Method", "Model rows\na sequence", f"Gradient variance\n{times}", f"Loss variance\n{times}"]
    headers += ["Needs a\ncalibration", "Expected\ngradient"]
    recommended = recommend(diagnosis).method
    rows = [
        [
            f"{method.name}\nrecommended" if method.name == recommended else method.name,
            str(method.rows),
            _two_lines(method.gradient.relative, ratio) if method.gradient else NONE,
            _two_lines(method.loss.relative, ratio),
            "yes" if method.calibration else "no",
            "biased" if method.biased else "unbiased",
        ]
        for method in diagnosis.methods
    ]
    return Table(headers, rows)


def methods_table(diagnosis: Diagnosis) -> Table:
    """A row a method in words: what it is, why it is biased, what the paper warns of."""
    rows = []
    for method in diagnosis.methods:
        biased = f"biased: {method.biased}" if method.biased else ""
        rows.append([method.name, "; ".join(filter(None, (method.summary, biased, method.warning)))])
    return Table(["Method", "What it is"], rows)


def sources_table(diagnosis: Diagnosis, kind: Literal["loss", "gradient"]) -> Table:
    """A row a method: mean, A, B, C, their sum and the batch's variance, with intervals; none where not measured."""
    mean = "Mean loss,\nnats/token" if kind == "loss" else "Squared norm\nof the mean"
    headers = [
        "Method",
        mean,
        "A, masks",
        "B, rate",
        "C, data",
        "A + B + C",
        f"Batch of {diagnosis.batch_size},\ntimes B",
    ]
    rows = []
    for method in diagnosis.methods:
        found = method.loss if kind == "loss" else method.gradient
        if found is not None:
            parts = (found.mean, found.masks, found.rate, found.data, found.total, found.batch)
            rows.append([method.name, *(_two_lines(part, significant) for part in parts)])
    return Table(headers, rows)


def _two_lines(estimate: Estimate | None, write: Callable[[float], str]) -> str:
    """The value, and on the next line its interval; the value alone where it has none, as the baseline's 1."""
    if estimate is None:
        return NONE
    if estimate.low is None or estimate.high is None or estimate.low == estimate.high:
        return write(estimate.value)
    return f"{write(estimate.value)}\n{write(estimate.low)} to {write(estimate.high)}"


def bias_table(diagnosis: Diagnosis) -> Table:
    """A row for each method but the baseline: its mean loss and gradient against the baseline's."""
    headers = [
        "Method",
        "Mean loss less baseline's,\nnats/token",
        "Mean gradient's distance\nto the baseline's",
        "Reading",
    ]
    rows = []
    for method in diagnosis.methods[1:]:
        if (bias := method.bias) is None:
            rows.append([method.name, NONE, NONE, "not measured"])
            continue
        if bias.by_construction:
            rows.append([method.name, NONE, NONE, "same rows: holds by construction"])
            continue
        loss = f"{bias.loss_difference:+.2g} ± {bias.loss_error:.1g}{_tested(bias.loss_z, bias.loss_p)}"
        distance = "" if bias.gradient_difference is None else f"{bias.gradient_difference:.1%}"
        gradient = f"{distance}{_tested(bias.gradient_z, bias.gradient_p)}".lstrip() or NONE
        rows.append([method.name, loss, gradient, _reading(diagnosis, method)])
    return Table(headers, rows)


def _tested(z: float | None, p: float | None) -> str:
    found = [] if z is None else [f"z = {z:.1f}"]
    found += [] if p is None else [f"p = {p:.1g}"]
    return "\n" + ", ".join(found) if found else ""


def _reading(diagnosis: Diagnosis, method: MethodVariance) -> str:
    """What the bias check found."""
    baseline = diagnosis.baseline.name
    undecided = _undecided(diagnosis, method)
    if differs(method):
        found, seen = f"differs from {baseline} (p < {P_LIMIT:g}), which an unbiased method should not", "it shows here"
    elif undecided:
        found = seen = f"{undecided} to tell (it takes {LEAST_SEQUENCES})"
    else:
        found, seen = f"agrees with {baseline}", "too small to show here"
    return f"biased by design, {seen}: {method.biased}" if method.biased else found


def _undecided(diagnosis: Diagnosis, method: MethodVariance) -> str | None:
    """What was measured on too few sequences for any p-value to decide."""
    assert method.bias is not None
    sizes = {
        "losses": diagnosis.sequences if method.bias.loss_p is not None else 0,
        "gradients": diagnosis.gradient_sequences if method.bias.gradient_p is not None else 0,
    }
    measured = {kind: size for kind, size in sizes.items() if size}
    few = [kind for kind, size in measured.items() if size < LEAST_SEQUENCES]
    return "too few " + " and ".join(few) if few else None


def densities_table(diagnosis: Diagnosis) -> Table:
    """A column a calibration: target, users, quality of the fit."""
    found = diagnosis.densities
    users = {name: [method.name for method in diagnosis.methods if method.calibration == name] for name in found}
    return Table(
        ["", *found],
        [
            ["Used by", *(", ".join(users[name]) or NONE for name in found)],
            ["Optimal for the", *(density.target for density in found.values())],
            ["KL(optimum ‖ fit), nats", *(f"{density.kl:.3g}" for density in found.values())],
            ["Weights 1/p(t)", *(f"{d.weight_min:.3g} to {d.weight_max:.3g}" for d in found.values())],
            ["Variance above the optimum's", *(_excess(density.variance_excess) for density in found.values())],
        ],
    )


def _excess(value: float | None) -> str:
    return NONE if value is None else f"{value:+.1%}"


def all_warnings(diagnosis: Diagnosis) -> list[str]:
    """The measurement's warnings, a baseline without variance, those of the fits, means that differ though they should
    not, the paper's advice."""
    ratios = [why for kind in ("gradient", "loss") if (why := without_ratios(diagnosis, kind))]
    fits = [f"{name}: {text}" for name, density in diagnosis.densities.items() for text in density.warnings]
    means = [
        f"{method.name}: its mean {_reading(diagnosis, method)}: {MEASURE_MORE}"
        for method in diagnosis.methods[1:]
        if differs(method) and not method.biased
    ]
    against = [f"{method.name}: {method.warning}" for method in diagnosis.methods if method.warning]
    return [*diagnosis.warnings, *ratios, *fits, *means, *against]


def numbers_table(diagnosis: Diagnosis) -> Table:
    """How each number is obtained, with the measurement's own sizes."""
    d = diagnosis
    exact = (
        "exact, over all parameters" if d.sketch is None else f"over a keyed random projection to {d.sketch} numbers"
    )
    loss, losses, gradients = "weighted loss", f"{d.sequences} sequences", f"{d.gradient_sequences} sequences"
    if d.family == "mdm":
        losses += f" x {d.rates} rates x {d.masks} masks"
        gradients += f" x {d.gradient_rates} rates x {d.gradient_masks} masks"
    else:
        loss, losses, gradients = "loss", f"{losses}, once each", f"{gradients}, once each"
    rows = [
        ["Loss", "nats/token", f"A sequence's {loss}, which is back-propagated. Measured on {losses}."],
        ["Gradient", NONE, f"Of that loss, by all parameters; products of gradients {exact}. Measured on {gradients}."],
        ["A, masks", "as variance", "Variance over masks of one sequence at one rate, averaged over the two."],
        ["B, rate", "as variance", "Variance over rates of the mean over masks, averaged over sequences."],
        ["C, data", "as variance", "Variance over sequences of the mean over rates and masks."],
        ["A + B + C", "as variance", "Variance of one sequence's contribution (paper, eq. 2); each part is unbiased "
         "and may come out negative near 0. Of a gradient: the trace of its covariance."],
        ["Batch, times B", "as variance", f"Variance of the mean over {d.batch_size} sequences, times {d.batch_size}: "
         "A + B + C, less what strata over the batch take away."],
        ["At equal compute", "times baseline", "The batch's variance times the model rows a sequence costs, over the "
         f"same of {d.baseline.name}: a method of two rows must halve the variance to be as good."],
        ["Intervals", NONE, f"{LEVEL:.0%}, bootstrap over sequences with {d.replicates:,} replicates; of a ratio, with "
         "the same sequences in both parts. They do not cover another checkpoint or other data."],
        ["g(t), v(t)", "nats/token, squared", "Mean over sequences of the unweighted loss's mean and variance over "
         "masks at a rate."],
        ["Variance above the optimum's", "%", "Expected variance with the fitted p(t) over that with the empirical "
         "optimum, less 1; on the numbers that were fitted, which flatters both."],
        ["Bias check", "p-value", f"A method's mean loss and mean gradient against {d.baseline.name}'s. p: how often "
         "flipping the signs of the sequences' differences makes one as large; below "
         f"{P_LIMIT:g}, which takes {LEAST_SEQUENCES} sequences, they count as different. z: standard errors. The "
         "error of the sums over rates, common to all sequences, counts as a difference."],
    ]  # fmt: skip
    unmeasured = {"Gradient"} if d.target == "loss" else set()
    if d.family == "arm":
        unmeasured |= {"At equal compute", "g(t), v(t)", "Variance above the optimum's", "Bias check"}
    return Table(["Number", "Unit", "How it is obtained"], [row for row in rows if row[0] not in unmeasured])


def environment_table(diagnosis: Diagnosis) -> Table:
    seconds = diagnosis.seconds
    parts = {"losses": seconds.losses, "gradients": seconds.gradients, "fits": seconds.fits}
    times = ", ".join(f"{name} {duration(value)}" for name, value in parts.items())
    rows = [
        ["Task", diagnosis.task],
        ["Model", f"{diagnosis.model} ({diagnosis.parameters:,} parameters)"],
        ["Checkpoint", diagnosis.checkpoint or "none: before training"],
        ["Seed", str(diagnosis.seed)],
        ["Hardware", diagnosis.hardware],
        ["raymdm", diagnosis.raymdm_version],
        ["Git commit", diagnosis.git_commit or "not recorded"],
        ["Made", diagnosis.created],
        ["Cost", f"{diagnosis.rows:,} model rows, {duration(seconds.total)} ({times})"],
    ]
    return Table(["", ""], rows)
