"""What a run reports: each number with its unit, how it was obtained and how it is written."""

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from raymdm.errors import UserError


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def decimals(value: float) -> str:
    return f"{value:.3f}"


def significant(value: float) -> str:
    """Three digits, trailing zeros kept."""
    return f"{value:#.3g}".removesuffix(".")


def p_value(value: float) -> str:
    """Two digits, at most four decimals: `0.10`, `0.0041`, `< 0.0001`."""
    if value < 0.0001:
        return "< 0.0001"
    return f"{value:.2f}" if value >= 0.095 else f"{value:#.2g}"


def whole(value: float) -> str:
    return f"{value:,.0f}"


def duration(value: float) -> str:
    """Seconds as text: `42.0 s`, `3 min 07 s`, `2 h 05 min`."""
    if value < 59.95:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    return f"{minutes} min {seconds:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


@dataclass(frozen=True)
class Metric:
    """A number of a run and how to read it."""

    key: str
    """Name in result.json and results.csv."""
    label: str
    unit: str
    """The unit as written; accuracy is stored as a share and written in percent."""
    higher_is_better: bool | None
    """None where neither end is better."""
    write: Callable[[float], str]
    how: str
    """How it was obtained."""
    lowest: float = 0.0
    """No value is below it."""
    highest: float = math.inf

    def write_signed(self, value: float) -> str:
        """The number with its sign in front; one that rounds to zero has none."""
        text = self.write(value).removeprefix("-")
        if not text.strip("0.,"):
            return text
        return ("-" if value < 0 else "+") + text


METRICS: dict[str, Metric] = {
    metric.key: metric
    for metric in (
        Metric(
            "accuracy",
            "Accuracy",
            "%",
            True,
            percent,
            "Share of the test examples whose answer, read from what the best checkpoint generated, is the reference.",
            highest=1.0,
        ),
        Metric(
            "val_nll",
            "Validation NLL",
            "nats/token",
            False,
            decimals,
            "Loss on the validation split at the best step, with the same fixed draws of rate and mask for every "
            "method. An upper bound of the negative log-likelihood for a masked diffusion model, exact for arm.",
        ),
        Metric(
            "val_nll_equal_rows",
            "Validation NLL at equal compute",
            "nats/token",
            False,
            decimals,
            "The lowest validation NLL that the run logged within as many model rows as every run of the task got to; "
            "its rows at a step are its model rows in proportion to its steps. Autoregressive runs, whose NLL is "
            "exact, neither have it nor set the limit, unless they are the only ones.",
        ),
        Metric(
            "loss_variance",
            "Loss variance",
            "(nats/token)²",
            False,
            significant,
            "The paper's online proxy (its A.7.2): mean of w l² less the squared mean of w l, with w = 1/p(t), over "
            "the sequences of a logged window, averaged over the run's windows. The weights take the choice of p(t) "
            "out: it estimates the variance under uniform rates whatever density drew them.",
            lowest=-math.inf,  # the estimate of a variance of 0 may fall below
        ),
        Metric(
            "backprop_variance",
            "Back-propagated variance",
            "(nats/token)²",
            False,
            significant,
            "Sample variance over sequences of the weighted loss w l, which is what is back-propagated, averaged over "
            "the run's logged windows. This one shows the effect of p(t).",
        ),
        Metric(
            "grad_norm",
            "Gradient norm",
            "",
            None,
            significant,
            "Global norm of the gradient before clipping, averaged over the run's logged windows.",
        ),
        Metric(
            "grad_norm_std",
            "Spread of the gradient norm",
            "",
            None,
            significant,
            "Standard deviation of the gradient norm over the steps of a logged window, pooled over windows.",
        ),
        Metric(
            "measured_rows",
            "Measured rows",
            "rows",
            False,
            whole,
            "Model rows that refits of p(t) and searches spent in the run, beside the model rows of its training.",
        ),
        Metric("train_seconds", "Train time", "", False, duration, "Wall time of training."),
        Metric("evaluate_seconds", "Evaluation time", "", False, duration, "Wall time of generating and scoring."),
        Metric("wall_seconds", "Run time", "", False, duration, "Wall time of the whole run."),
        Metric("energy_wh", "Energy", "Wh", False, significant, "Watt hours of the run, where the results hold them."),
        Metric(
            "model_rows",
            "Model rows",
            "rows",
            False,
            whole,
            "Rows sent through the model in training: the compute. A mirrored method sends two for each sequence.",
        ),
        Metric("steps", "Steps", "steps", None, whole, "Optimiser steps until the run ended or stopped early."),
        Metric(
            "best_step", "Best step", "steps", None, whole, "Step of the lowest validation NLL, whose model is scored."
        ),
    )
}


def parse_metric(text: str) -> Metric:
    """The metric that `NAME[:higher|lower]` names: one of METRICS, or another that says which end is better.

    Raises UserError where the direction is missing, unknown or contradicts a known metric's.
    """
    name, colon, direction = text.strip().partition(":")
    if not name or (colon and direction not in ("higher", "lower")):
        raise UserError(f"metric {text!r}: expected NAME, NAME:higher or NAME:lower, such as clip_score:higher")
    higher = direction == "higher" if colon else None
    known = METRICS.get(name)
    if known is None:
        if higher is None:
            near = difflib.get_close_matches(name, METRICS, n=1)
            hint = f" Or did you mean {near[0]}?" if near else ""
            raise UserError(
                f"metric {name!r} is not one that raymdm knows ({', '.join(METRICS)}), so say which end is better: "
                f"{name}:higher or {name}:lower.{hint}"
            )
        how = "As the results hold it under this name."
        return Metric(name, name, "", higher, significant, how, lowest=-math.inf)
    if known.higher_is_better is None:
        if higher is None:
            raise UserError(f"metric {name}: neither end is better by itself; write {name}:higher or {name}:lower")
        return replace(known, higher_is_better=higher)
    if higher not in (None, known.higher_is_better):
        raise UserError(f"metric {text!r}: of {name}, {'higher' if known.higher_is_better else 'lower'} is better")
    return known
