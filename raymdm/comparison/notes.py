"""What the numbers do not say by themselves: one sentence or two a caveat, only those that apply."""

from collections.abc import Iterator

from raymdm.comparison.document import Report
from raymdm.comparison.levels import complete
from raymdm.comparison.runs import Runs
from raymdm.comparison.samples import repeat_one_run


def notes(report: Report, runs: Runs) -> list[str]:
    """The report's caveats, what concerns these very runs first."""
    return [*_incomplete(runs), *runs.notes, *_not_finite(runs), *_seeds(report, runs), *_tests(report, runs),
            *_reading(report, runs)]  # fmt: skip


def _incomplete(runs: Runs) -> Iterator[str]:
    for sweep in runs.sweeps:
        if sweep.info.status != "finished":
            yield f"{sweep.folder.name} is {sweep.info.status}: numbers may change when it is resumed."
        if sweep.strangers:
            yield f"Left out, because recipe.yaml does not name them: {', '.join(sweep.strangers)}."
    if runs.failures:
        number = "1 run has" if len(runs.failures) == 1 else f"{len(runs.failures)} runs have"
        yield (
            f"{number} no result. Every mean is over the finished runs alone, which flatters a "
            "method whose bad runs failed."
        )


def _not_finite(runs: Runs) -> Iterator[str]:
    """Leaving the diverged seed out of a mean would flatter the method, so there is no mean."""
    for task in runs.tasks:
        for label in runs.labels:
            for metric in runs.metrics.values():
                if runs.values(task, label, metric.key) and complete(runs, task, label, metric.key) is None:
                    yield (
                        f"{label} on {task}: {metric.label} is missing or not finite in a run, so the method has no "
                        "mean of it and is not compared in it."
                    )


def _seeds(report: Report, runs: Runs) -> Iterator[str]:
    levels = [level for level in report.levels if level.metric == report.metric]
    if not levels:
        return
    fewest, most = min(len(level.seeds) for level in levels), max(len(level.seeds) for level in levels)
    if most == 1:
        yield "One seed a method: there is no spread over seeds, and a difference may be chance."
    else:
        text = f"{fewest} to {most} seeds" if fewest < most else f"{fewest} seeds"
        yield (
            f"Intervals are at {100 * report.confidence:.3g}%, over {text}. Those of means and differences are t "
            "intervals; where every run has scores they cover the choice of test examples too, crossed with seeds. "
            "Those of standard deviations and ranges take runs as normal."
        )
    scored = {(task, label) for task, label in runs.scores}
    without = [level.label for level in levels if (level.task, level.label) not in scored]
    if without:
        yield (
            f"Over seeds alone, as there are no scores of single test examples: {', '.join(dict.fromkeys(without))}. "
            "These intervals do not cover which test examples were drawn."
        )
    if runs.sweeps:
        ordered = any(sweep.recipe.train.order_seed == "run" for sweep in runs.sweeps)
        order = ", and with train.order_seed: run the order of the rows" if ordered else ""
        yield (
            f"Seeds change masking rates and masks only{order}: spread and intervals do not cover another split or "
            "another initialisation."
        )


def _tests(report: Report, runs: Runs) -> Iterator[str]:
    if not report.differences:
        return
    yield (
        "A claim is a difference of a method to the baseline or to an ARM. Its p is the largest of a permutation "
        "test's and Welch's t test's, both over seeds, and, where there are scores, of a t test's over seeds and "
        "examples. It is a finding where that p, after Holm's correction for all claims of its metric, is at most "
        f"{report.alpha:g}. It is not supported by this many seeds where even the smallest p that they can reach would "
        "not have been enough. Each metric is a family of its own, and so are spreads and equivalences. Intervals are "
        "not widened for the number of claims."
    )
    if any(difference.p_examples is not None for difference in report.differences):
        yield (
            "The p over examples is about these very runs on other test examples. It says nothing about other seeds, "
            "and no finding rests on it."
        )
    if report.looks:
        alphas = ", ".join(f"{look.alpha:.2g}" for look in report.looks)
        yield (
            f"Seeds were added as needed, with {len(report.looks)} looks at the results. Each spends its share of "
            f"{report.alpha:g}, fixed beforehand ({alphas}); p is over all looks, and intervals are at the level of "
            "the last. Tests of spread are made once, at the end."
        )


def _reading(report: Report, runs: Runs) -> Iterator[str]:
    rows = [cost.relative_rows for cost in report.costs if cost.relative_rows is not None]
    if any(not 0.95 < relative < 1.05 for relative in rows):
        yield (
            "Equal steps are not equal compute: a mirrored method sends two model rows for each sequence. Accuracy is "
            "that of whole runs; where their model rows differ it is no comparison at equal compute, which "
            "train.budget=rows makes."
        )
        if "val_nll_equal_rows" in runs.metrics:
            yield (
                "The validation NLL at equal compute is read from curves: of a run with more rows it is that of a run "
                "in progress, whose learning rate had further to fall."
            )
    if any(cost.calibration_rows for cost in report.costs):
        yield (
            "Model rows are those of training. A calibration's rows come on top, once for all runs that share it; they "
            "stand beside the costs."
        )
    if runs.arms:
        yield (
            "An ARM's NLL is exact, a masked diffusion model's is an upper bound, so no difference between them is "
            "taken though they may stand in one column. Nor is one of their losses' variances: an ARM has no masks."
        )
    repeated = [label for label in runs.arms if _repeats(runs, label)]
    if repeated:
        yield (
            f"{', '.join(repeated)}: all seeds gave the same run, rounding aside. Nothing in an ARM's training depends "
            "on the seed, so its spread says nothing about how ARMs vary. With train.order_seed: run each seed has an "
            "order of the rows of its own."
        )
    if any(sweep.recipe.arm_model for sweep in runs.sweeps) and runs.arms:
        yield "arm trains another model (arm_model): its difference is one of model and method together."
    specs = runs.specs.values()
    if any(spec.mask == "bernoulli" and spec.family == "mdm" for spec in specs):
        yield (
            "With independent masks the weight 1/t gives the loss a heavy tail: a few sequences may make most of a "
            "variance measured in a run, and another run may read quite differently."
        )
    if "wall_seconds" in runs.metrics or "train_seconds" in runs.metrics:
        yield "Wall times are as measured: runs that shared a machine slowed each other."


def _repeats(runs: Runs, label: str) -> bool:
    """Whether a method has several runs on a task, and all are the same."""
    return any(repeat_one_run(runs, task, label, runs.metric.key) for task in runs.tasks)
