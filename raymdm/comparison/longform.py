"""Long tables as runs to compare: results and, if there are any, scores; a number a row.

Shape legend: N rows of scores, R runs, S seeds, E test examples.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from raymdm.comparison import labels
from raymdm.comparison.labels import Baseline
from raymdm.comparison.longform_files import RESULTS, RUN, SCORES, Table, as_table, read_table
from raymdm.comparison.metrics import Metric
from raymdm.comparison.runs import LARGEST, Runs, Scores
from raymdm.config.schema import METHODS
from raymdm.errors import UserError

SMALLEST = 1e-60
"""From here to LARGEST squared variances stay within what a float can hold, even where values agree in 15 digits."""
AGREEMENT = 1e-6
"""Most that an accuracy may be off the mean of its scores."""

Run = tuple[str, str, str, int]
"""Task, model, method and seed."""


def runs_of_table(
    results: Path, scores: Path | None, *, baseline: str | None, metric: Metric, percent: bool = False
) -> Runs:
    """Runs from files in long form: `task,model,method,seed,metric,value` and, if given, `..,seed,example_id,score`.

    The method `arm` is of the ARM family, every other of the MDM's. `baseline`: a label, or None for `standard`.
    `percent`: accuracy is written in percent. Accuracy that the results lack is the mean of the scores.
    Raises UserError, naming the first rows, for what is missing, of another type, empty, not finite, given twice or out
    of range; where results and scores hold other runs or disagree; where runs of a task were scored on other examples.
    """
    table = read_table(results, RESULTS)
    _refuse_not_finite(table)
    scored = read_table(scores, SCORES) if scores else None
    return _runs(table, scored, name=results.stem, baseline=baseline, metric=metric, percent=percent, strict=True)


def runs_of_frames(
    results: pd.DataFrame, scores: pd.DataFrame | None, *, name: str, baseline: str | None, metric: Metric
) -> Runs:
    """Runs from frames of the same columns as `runs_of_table` reads, which raymdm itself has measured.

    So a number that is not finite is that of a run that diverged, and a run may lack scores.
    """
    table = as_table(results, RESULTS, f"the results of {name}")
    scored = as_table(scores, SCORES, f"the scores of {name}") if scores is not None and len(scores) else None
    return _runs(table, scored, name=name, baseline=baseline, metric=metric, percent=False, strict=False)


def _runs(
    results: Table,
    scores: Table | None,
    *,
    name: str,
    baseline: str | None,
    metric: Metric,
    percent: bool,
    strict: bool,
) -> Runs:
    table = _checked_results(results, percent)
    found = _checked_scores(scores) if scores else {}
    if scores:
        _match_runs(table, found, results, scores, strict)
        table = _with_accuracy(table, found, results)
    labels.require_metric(table, metric, results.source)
    table, left_out = _with_metric(table, metric)
    table = labels.add_labels(table)
    methods = dict(zip(table["label"], table["method"], strict=True))
    table = _seeds_in_order(labels.in_order(table, list(methods)))
    chosen = _baseline(baseline, methods)
    return Runs(
        name=name,
        table=table,
        scores=_scores(table, found),
        labels=list(methods),
        families={label: "arm" if method == "arm" else "mdm" for label, method in methods.items()},
        baseline=chosen.label,
        metric=metric,
        metrics=labels.known_metrics(table, metric),
        specs={label: METHODS[method] for label, method in methods.items() if method in METHODS},
        not_compared=chosen.not_compared,
        notes=[
            *_columns_ignored(results),
            *(_columns_ignored(scores) if scores else []),
            *(["Accuracy was given in percent and is divided by 100."] if percent else []),
            *left_out,
            *labels.missing_seeds(table, {}),
            *labels.without_baseline(table, chosen.label),
            *labels.several_models(table),
            *labels.different_models(table),
        ],
    )


def _columns_ignored(table: Table) -> list[str]:
    return [f"{table.source}: not read: {', '.join(table.ignored)}."] if table.ignored else []


def _refuse_not_finite(table: Table) -> None:
    """A hole in a table may be a failed run or a slip, and nobody but its author knows."""
    value = table.frame["value"].to_numpy()
    if (empty := np.isnan(value)).any():
        raise UserError(
            f"{table.at(empty)}: the value is empty or not a number. Remove the row, and the run counts as missing; or "
            "write what a failed run should count as"
        )
    if (endless := np.isinf(value)).any():
        raise UserError(
            f"{table.at(endless)}: the value is infinite. Remove the row, and the run counts as missing; or write what "
            "a failed run should count as"
        )


def _refuse_bad_runs(table: Table) -> None:
    """What names a run must be there, and look as it is: `sums` and `sums ` are two tasks."""
    for column in [name for name in table.frame if name not in ("seed", "value", "score")]:
        names = table.frame[column].cat
        blank = [code for code, text in enumerate(names.categories) if not str(text).strip()]
        bad = np.isin(names.codes, [-1, *blank])
        if bad.any():
            raise UserError(f"{table.at(bad)}: the {column} is empty. Fill it in, or remove the row")
        padded = [code for code, text in enumerate(names.categories) if str(text) != str(text).strip()]
        if (bad := np.isin(names.codes, padded)).any():
            shown = labels.first_few([repr(text) for text in dict.fromkeys(table.frame[column][bad])])
            raise UserError(f"{table.at(bad)}: the {column} begins or ends with a blank: {shown}. Remove the blank")


def _refuse_extremes(table: Table) -> None:
    size = table.frame["value"].abs().to_numpy()
    if (bad := np.isfinite(size) & ((size > LARGEST) | ((size > 0) & (size < SMALLEST)))).any():
        shown = labels.first_few([f"{value:g}" for value in table.frame["value"][bad]])
        raise UserError(
            f"{table.at(bad)}: a value's size must be 0 or between {SMALLEST:g} and {LARGEST:g}, not {shown}: no "
            "statistic is exact beyond. Write the metric in another unit, or remove the row"
        )


def _checked_results(table: Table, percent: bool) -> pd.DataFrame:
    """The results with plain columns, accuracy as a share."""
    _refuse_bad_runs(table)
    _refuse_extremes(table)
    frame = table.frame.astype({name: object for name in RESULTS if name not in ("seed", "value")})
    keys = [*RUN, "metric"]
    if (twice := frame.duplicated(keys, keep=False)).any():
        raise UserError(
            f"{table.at(twice.to_numpy())}: a metric of a run comes twice (same task, model, method, seed and metric). "
            "Keep one row, or tell the runs apart"
        )
    accuracy = (frame["metric"] == "accuracy").to_numpy()
    if percent and not accuracy.any():
        raise UserError(f"{table.source}: there is no accuracy that could be in percent. Leave --percent out")
    top = 100 if percent else 1
    if (bad := accuracy & ((frame["value"] < 0) | (frame["value"] > top)).to_numpy()).any():
        remedy = "Correct it" if percent else "If it is in percent, say so with --percent"
        shown = labels.first_few([f"{value:g}" for value in frame.loc[bad, "value"]])
        raise UserError(f"{table.at(bad)}: accuracy must be between 0 and {top}, not {shown}. {remedy}")
    if percent:
        frame.loc[accuracy, "value"] /= 100
    return frame


def _checked_scores(table: Table) -> dict[Run, np.ndarray]:
    """Scores (E,) by run; within a task all are of the same examples in the same order."""
    _refuse_bad_runs(table)
    score = table.frame["score"].to_numpy()
    if (bad := ~((score >= 0) & (score <= 1))).any():
        shown = labels.first_few([f"{value:g}" for value in score[bad]])
        raise UserError(f"{table.at(bad)}: score must be between 0 and 1, not {shown}".replace("nan", "empty"))
    run, names = _run_codes(table.frame)
    example, ids = _example_codes(table.frame["example_id"])
    order = np.lexsort((example, run))
    same = (np.diff(run[order]) == 0) & (np.diff(example[order]) == 0)
    if same.any():
        twice = np.zeros(len(run), dtype=bool)
        twice[order[:-1][same]] = twice[order[1:][same]] = True
        raise UserError(f"{table.at(twice)}: an example of a run comes twice. Keep one row")
    ends = np.cumsum(np.bincount(run))[:-1]
    examples, scores = np.split(example[order], ends), np.split(score[order], ends)
    _refuse_other_examples(table, names, examples, ids)
    return dict(zip(names, scores, strict=True))


def _run_codes(frame: pd.DataFrame) -> tuple[np.ndarray, list[Run]]:
    """A number for each row's run (N,), and the runs by number."""
    seeds, seed = np.unique(frame["seed"].to_numpy(), return_inverse=True)
    parts = [frame[name].cat for name in RUN[:3]]
    sizes = [*(len(part.categories) for part in parts), len(seeds)]
    codes = np.ravel_multi_index([*(part.codes.to_numpy() for part in parts), seed], sizes)
    present, run = np.unique(codes, return_inverse=True)
    task, model, method, place = np.unravel_index(present, sizes)
    texts = [part.categories[codes].tolist() for part, codes in zip(parts, (task, model, method), strict=True)]
    return run.astype(np.int32), list(zip(*texts, seeds[place].tolist(), strict=True))


def _example_codes(column: pd.Series) -> tuple[np.ndarray, pd.Index]:
    """A number for each row's example (N,), and the ids by number: in numeric order where all are numbers."""
    ids = pd.Index(column.cat.categories)
    numeric = pd.to_numeric(ids.to_series().astype(str), errors="coerce").to_numpy()
    order = np.argsort(ids.astype(str) if np.isnan(numeric).any() else numeric, kind="stable")
    rank = np.empty(len(ids), dtype=np.int32)
    rank[order] = np.arange(len(ids))
    return rank[column.cat.codes.to_numpy()], ids[order]


def _refuse_other_examples(table: Table, names: list[Run], examples: list[np.ndarray], ids: pd.Index) -> None:
    firsts: dict[str, int] = {}
    for place, (run, found) in enumerate(zip(names, examples, strict=True)):
        first = firsts.setdefault(run[0], place)
        if not np.array_equal(found, examples[first]):
            text = labels.other_examples(_name(names[first]), examples[first].tolist(), _name(run), found.tolist())
            raise UserError(f"{table.source}, task {run[0]}: {text}. Leave one of them out")


def _match_runs(table: pd.DataFrame, found: dict[Run, np.ndarray], results: Table, scores: Table, strict: bool) -> None:
    """Every run with scores has results; where `strict`, also the reverse, on the tasks that have scores."""
    held = dict.fromkeys(table[RUN].itertuples(index=False, name=None))
    if unknown := [_name(run) for run in found if run not in held]:
        raise UserError(
            f"{scores.source}: scores of {labels.first_few(unknown)}, of which {results.source} has no result. Names "
            "must be spelt alike in both; add a result, or remove the scores"
        )
    tasks = {task for task, *_ in found}
    lacking = [_name(run) for run in held if run[0] in tasks and run not in found]
    if strict and lacking:
        raise UserError(
            f"{scores.source}: no scores of {labels.first_few(lacking)}, of which {results.source} has results on the "
            "same task. Names must be spelt alike in both; add the scores, or remove the results"
        )


def _with_accuracy(table: pd.DataFrame, found: dict[Run, np.ndarray], results: Table) -> pd.DataFrame:
    """The table with the scores' means as accuracy where it has none; what it has must agree with them."""
    means = {run: float(scores.mean()) for run, scores in found.items()}
    given = table[table["metric"] == "accuracy"]
    held = dict(zip(given[RUN].itertuples(index=False, name=None), given["value"], strict=True))
    wrong = [
        f"{_name(run)} ({held[run]:.6g}, scores {mean:.6g})"
        for run, mean in means.items()
        if run in held and not abs(held[run] - mean) <= AGREEMENT
    ]
    if wrong:
        raise UserError(
            f"{results.source}: accuracy is not the mean of the scores: {labels.first_few(wrong)}. Correct one of the "
            "files, or leave accuracy out of the results: it is made from the scores"
        )
    added = [(*run, "accuracy", mean) for run, mean in means.items() if run not in held]
    if not added:
        return table
    more = pd.DataFrame(added, columns=RESULTS).astype({"seed": table["seed"].dtype})  # of two types it would be float
    return pd.concat([table, more], ignore_index=True)


def _with_metric(table: pd.DataFrame, metric: Metric) -> tuple[pd.DataFrame, list[str]]:
    """The runs that have the metric of the claims, and a note on the others."""
    has = table["metric"].eq(metric.key).groupby([table[name] for name in RUN]).transform("any")
    if has.all():
        return table, []
    kept = set(table.loc[has, "task"])
    others = dict.fromkeys(table.loc[~has, RUN].itertuples(index=False, name=None))
    tasks = [f"task {task}" for task in dict.fromkeys(run[0] for run in others) if task not in kept]
    runs = [f"{_name(run)} on {run[0]}" for run in others if run[0] in kept]
    names = ", ".join([*tasks, *([labels.first_few(runs)] if runs else [])])
    return table[has].reset_index(drop=True), [f"Left out, because there is no {metric.key}: {names}."]


def _seeds_in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Within a label, seeds in the order in which the whole table first names them."""
    seeds = {seed: place for place, seed in enumerate(dict.fromkeys(table["seed"].tolist()))}
    group = table.groupby(["task", "label"], sort=False).ngroup().to_numpy()
    order = np.lexsort((table["seed"].map(seeds).to_numpy(), group))
    return table.iloc[order].reset_index(drop=True)


def _baseline(given: str | None, methods: dict[str, str]) -> Baseline:
    """`methods`: label -> method."""
    if given is not None:
        return labels.given_baseline(given, methods)
    if len(methods) == 1:
        return Baseline(None, f"No method is compared: only {next(iter(methods))} has a result.")
    label = labels.resolve("standard", methods)
    if label is None:
        raise UserError(
            f"no method is called standard, so say what the others are compared to: --baseline NAME, one of: "
            f"{', '.join(methods)}"
        )
    return Baseline(label, "")


def _scores(table: pd.DataFrame, found: dict[Run, np.ndarray]) -> dict[tuple[str, str], Scores]:
    scores = {}
    for (task, label), rows in table.groupby(["task", "label"], sort=False):
        runs = list(dict.fromkeys(rows[RUN].itertuples(index=False, name=None)))
        if all(run in found for run in runs):
            scores[str(task), str(label)] = Scores([run[3] for run in runs], np.stack([found[run] for run in runs]))
    return scores


def _name(run: Run) -> str:
    return f"{run[2]}-s{run[3]} ({run[1]})"
