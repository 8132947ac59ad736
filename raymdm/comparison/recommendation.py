"""Which method a diagnosis recommends, in a sentence with its numbers."""

import math
from dataclasses import dataclass

from raymdm.comparison.diagnosis import Diagnosis, Estimate, MethodVariance, Variance
from raymdm.comparison.stats.intervals import LEVEL

P_LIMIT = 0.003
"""p-value below which a mean counts as different: at 0.05, one check in twenty would cry wolf."""
LEAST_SEQUENCES = 1 + math.ceil(-math.log2(P_LIMIT))
"""With fewer, no p-value is below the limit: M signs can be flipped in 2^(M - 1) ways that differ."""
MEASURE_MORE = "raise diagnose.rates and diagnose.gradient_rates, or measure more sequences"
LOSS_ONLY = (
    "The gradients were not measured, so this is about the loss alone, whose gains often do not reach the gradient, "
    "which is what trains."
)


@dataclass(frozen=True)
class Recommendation:
    """The method to train with."""

    method: str
    sentence: str
    """What it gains and costs; two or three sentences where there is more to know."""
    alternatives: tuple[str, ...]
    """Methods that the measurement does not tell apart from it, the next best first."""


def recommend(diagnosis: Diagnosis) -> Recommendation:
    """The unbiased method of the smallest gradient variance at equal compute.

    Only methods whose interval lies below the baseline's 1 are considered. Those whose interval reaches down to the
    smallest value are tied: of them, the smallest loss variance counts (to two decimals), then fewer model rows a
    sequence, then no calibration. Without gradients, the loss stands in for them. The baseline where no method is
    better, where its own variance is not positive, or for an autoregressive model, which has nothing to choose.
    """
    baseline = diagnosis.baseline
    if diagnosis.family == "arm":
        sentence = "An autoregressive model has data noise alone, neither masks nor rates: there is nothing to choose."
        return Recommendation(baseline.name, f"{baseline.name}: {sentence}", ())
    target = diagnosis.target
    if why := without_ratios(diagnosis, target):
        return Recommendation(baseline.name, f"{baseline.name}: {why}.", ())
    measured = [m for m in diagnosis.methods[1:] if m.biased is None and relative(m, target) is not None]
    better = [method for method in measured if _below_one(relative(method, target))]
    if not better:
        return Recommendation(baseline.name, _nothing_better(diagnosis, measured), ())
    best = min(_value(method, target) for method in better)
    tied = [method for method in better if _reaches(relative(method, target), best)]
    chosen, *others = sorted(tied, key=lambda method: _rank(method, target))
    return Recommendation(chosen.name, _sentence(diagnosis, chosen, others), tuple(method.name for method in others))


def relative(method: MethodVariance, target: str) -> Estimate | None:
    """Variance at equal compute of the `loss` or the `gradient`, times the baseline's; None where there is none."""
    found = _variance(method, target)
    return None if found is None else found.relative


def without_ratios(diagnosis: Diagnosis, target: str) -> str | None:
    """Why no method's variance of the `loss` or the `gradient` can be set against the baseline's; None if it can."""
    found = _variance(diagnosis.baseline, target)
    if found is None or found.relative is not None:
        return None
    return (
        f"the baseline's {target} variance came out as {found.batch.value:.2g}, so nothing is relative to it: measure "
        "more sequences"
    )


def ratio(value: float) -> str:
    """Two decimals, or two digits of what is smaller."""
    return f"{value:.2f}" if abs(value) >= 0.095 or value == 0 else f"{value:.2g}"


def with_interval(estimate: Estimate | None) -> str:
    """`0.34 (95% interval 0.29 to 0.40)`, or the value alone."""
    if estimate is None:
        return "unknown"
    if estimate.low is None or estimate.high is None:
        return f"{ratio(estimate.value)} (no interval)"
    return f"{ratio(estimate.value)} ({LEVEL:.0%} interval {ratio(estimate.low)} to {ratio(estimate.high)})"


def differs(method: MethodVariance) -> bool:
    """Whether a mean, of loss or gradient, is so far from the baseline's that its p-value is below P_LIMIT."""
    bias = method.bias
    if bias is None or bias.by_construction:
        return False
    return any(p is not None and p < P_LIMIT for p in (bias.loss_p, bias.gradient_p))


def _variance(method: MethodVariance, target: str) -> Variance | None:
    return method.gradient if target == "gradient" else method.loss


def _value(method: MethodVariance, target: str) -> float:
    """Relative variance, to rank by; all methods are alike where there is none."""
    found = relative(method, target)
    return math.inf if found is None else found.value


def _below_one(estimate: Estimate | None) -> bool:
    return estimate is not None and estimate.high is not None and estimate.high < 1


def _reaches(estimate: Estimate | None, best: float) -> bool:
    return estimate is not None and (estimate.value == best or (estimate.low is not None and estimate.low <= best))


def _rank(method: MethodVariance, target: str) -> tuple[float, int, bool, float]:
    # a third decimal, which is not even shown, must not outweigh twice the cost
    loss = round(_value(method, "loss"), 2)
    return loss, method.rows, method.calibration is not None, _value(method, target)


def _sentence(diagnosis: Diagnosis, chosen: MethodVariance, others: list[MethodVariance]) -> str:
    base = diagnosis.baseline.name
    numbers = f"the loss's variance is {with_interval(relative(chosen, 'loss'))} of {base}'s"
    if diagnosis.target == "gradient":
        numbers = (
            f"the gradient's variance is {with_interval(relative(chosen, 'gradient'))} of {base}'s and the loss's "
            f"{with_interval(relative(chosen, 'loss'))}"
        )
    calibration = "a calibration and " if chosen.calibration else ""
    cost = f"it costs {calibration}{chosen.rows} model row{'s' if chosen.rows > 1 else ''} a sequence"
    sentences = [f"{chosen.name}: at equal compute {numbers}; {cost}."]
    if others:
        names = ", ".join(f"{other.name} ({ratio(_value(other, diagnosis.target))})" for other in others)
        sentences.append(f"The measurement does not tell it apart from {names}{_tie_break(diagnosis)}.")
    if diagnosis.target == "loss":
        sentences.append(LOSS_ONLY)
    if differs(chosen):
        sentences.append(
            f"But its mean differs from {base}'s (p < {P_LIMIT:g}), although it is unbiased: before you trust it, "
            f"{MEASURE_MORE}."
        )
    if chosen.warning:
        sentences.append(f"Note: {chosen.warning}.")
    return " ".join(sentences)


def _tie_break(diagnosis: Diagnosis) -> str:
    if diagnosis.target == "gradient":
        return "; the smaller variance of the loss decided, or the smaller cost where that is the same"
    return "; the smaller value decided, or the smaller cost where that is the same"


def _nothing_better(diagnosis: Diagnosis, measured: list[MethodVariance]) -> str:
    base, target = diagnosis.baseline.name, diagnosis.target
    if not measured:
        sentence = f"{base}: no other unbiased method was measured, so nothing is better."
    else:
        nearest = min(measured, key=lambda method: _value(method, target))
        sentence = (
            f"{base}: no unbiased method's {target} variance at equal compute is below {base}'s within its interval. "
            f"The smallest is that of {nearest.name}: {with_interval(relative(nearest, target))}."
        )
    return f"{sentence} {LOSS_ONLY}" if target == "loss" else sentence
