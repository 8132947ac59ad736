"""report.json: every number of a comparison, for programs. The written report is made from it and from nothing else
that is a number.

Values are raw: accuracy is a share between 0 and 1, times are seconds, variances (nats/token)². A number that could not
be had is null, and the text beside it says why.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

SCHEMA_VERSION = 1

Finding = Literal["better", "worse", "not distinguishable", "not supported by this many seeds", "not tested"]
SpreadFinding = Literal["smaller", "larger", "not distinguishable", "not supported by this many seeds", "not tested"]
Role = Literal["baseline", "arm", "asked"]
"""`asked`: by a sweep's `stop_when` or by `--assert`."""
EquivalenceFinding = Literal["equivalent", "not shown equivalent", "not supported by this many seeds", "not tested"]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Estimate(Part):
    """A number and its interval at the report's level."""

    value: float
    low: float | None
    """Null where there is no interval."""
    high: float | None
    how: str
    """What the interval covers and how it was made, such as `t, seeds and examples`; or why there is none."""


class Level(Part):
    """One method's runs on one task, in one metric."""

    task: str
    label: str
    metric: str
    seeds: list[int]
    values: list[float]
    """One for each seed, in the order of `seeds`."""
    mean: Estimate
    over_seeds: Estimate | None = None
    """The mean with its t interval over seeds alone, for these test examples: what more seeds make shorter."""
    median: Estimate
    iqm: Estimate
    """Interquartile mean over seeds: a quarter of the runs is cut off at each end (whole runs: none below four)."""
    sd: Estimate | None
    """Sample standard deviation (n - 1); null for one seed."""
    low: float
    high: float
    range: Estimate | None
    """Largest less smallest seed; the interval is that of its expectation for as many seeds."""


class Power(Part):
    """What a comparison's design can show."""

    smallest_p: float
    """The smallest two-sided p that so many seeds can reach: 2 / C(n + m, n)."""
    sds: tuple[float, float]
    """Standard deviations over seeds, of the method and of the reference."""
    detectable: float | None
    """Difference of means found with `target` probability at these seeds and standard deviations."""
    seeds_needed: int | None
    """Seeds of each method to find the observed difference with `target` probability; null where it is 0 or too large
    to say (over 10,000)."""
    target: float
    alpha: float
    """Level of the test after Holm's first step: alpha over the number of claims."""


class Difference(Part):
    """A method less a reference in one metric on one task."""

    task: str
    label: str
    reference: str
    role: Role
    """Why it is compared to this reference."""
    metric: str
    seeds: tuple[int, int]
    """Runs of the method and of the reference that are compared."""
    common: list[int] = []
    """The seeds that both have, where either has more and only these are compared; else empty."""
    difference: Estimate
    """Of the means."""
    welch: Estimate | None
    """Over seeds alone, unequal variances; null with fewer than two seeds of either."""
    effect_size: Estimate | None
    """Hedges' g: the difference in pooled standard deviations over seeds, corrected for few seeds."""
    p: float | None
    """Two-sided: the largest of the permutation test's, of Welch's t test's and, with scores, of the crossed t test's.
    In an adaptive sweep, over all its looks."""
    p_permutation: float | None = None
    """Permutation test of Welch's t. In an adaptive sweep, over all its looks."""
    exact: bool
    """Whether the permutation test took all splits of the seeds."""
    p_welch: float | None
    """Over all seeds, once; null against a reference that repeats a single run."""
    p_crossed: float | None = None
    """Over seeds and test examples, of the difference's interval; in an adaptive sweep, at the last look. Null without
    scores."""
    p_examples: float | None
    """Paired t test over test examples, for these very runs: it says nothing about other seeds."""
    p_holm: float | None
    """`p` after Holm's correction for `claims`."""
    claims: int
    """Size of the family: all tested differences of this metric."""
    improvement: Estimate
    """Probability that a run of the method beats one of the reference, ties as half."""
    gap: float
    """Worst run of the method to the best of the reference, positive where even the worst is better."""
    gap_back: float
    """Worst run of the reference to the best of the method."""
    higher_is_better: bool
    finding: Finding
    why: str
    """What the finding rests on, or why there is none."""
    power: Power | None


class Spread(Part):
    """A method's standard deviation over seeds against a reference's."""

    task: str
    label: str
    reference: str
    role: Role
    metric: str
    seeds: tuple[int, int]
    ratio: Estimate | None
    """Standard deviation over the reference's; null where either has one seed or no spread."""
    p: float | None
    """Two-sided: the larger of the permutation test's and of Brown and Forsythe's."""
    p_permutation: float | None = None
    """Permutation test of the runs' deviations from their means."""
    exact: bool
    p_brown_forsythe: float | None
    p_holm: float | None
    claims: int
    smallest_p: float | None
    finding: SpreadFinding
    margin: float
    """Equivalent means a ratio between 1/margin and margin."""
    p_equivalence: float | None
    """The larger of two one-sided F tests, with fewer degrees of freedom where tails are heavy."""
    p_equivalence_holm: float | None
    equivalence: EquivalenceFinding
    equivalence_seeds: int | None
    """Seeds of each that could show equivalence at this margin if the observed ratio were 1."""
    why: str


class Cost(Part):
    """What one method's runs cost on one task: means over seeds."""

    task: str
    label: str
    views: int | None
    """Model rows a sequence, where it is known."""
    model_rows: float | None
    relative_rows: float | None
    """Over the baseline's."""
    measured_rows: float | None
    """Of refits and searches, in a run."""
    calibration_rows: float | None = None
    """Of its calibration, once for all its runs and for every method that shares it."""
    steps: float | None
    best_step: float | None
    train_seconds: float | None
    evaluate_seconds: float | None
    wall_seconds: float | None
    energy_wh: float | None
    """Watt hours, where the results hold them."""
    loss_variance: float | None
    """At equal compute, over the baseline's."""
    backprop_variance: float | None


class Profile(Part):
    """A performance profile: share of runs whose metric is above each threshold, with a pointwise interval."""

    task: str
    label: str
    metric: str
    thresholds: list[float]
    share: list[float]
    low: list[float]
    high: list[float]


class Look(Part):
    """A look at an adaptive sweep's results."""

    runs: dict[str, int]
    """Finished runs of each method."""
    seeds: dict[str, list[int]] = {}
    """Which those were."""
    alpha: float
    """Share of alpha spent at this look."""


class Report(Part):
    """A comparison."""

    schema_version: int = SCHEMA_VERSION
    raymdm_version: str = ""
    name: str
    source: str = ""
    """Where the runs come from."""
    options: dict[str, str] = {}
    """What was asked for beside the source."""
    baseline: str | None
    """Null where nothing is compared."""
    metric: str
    """The metric of the claims in the headline."""
    alpha: float
    confidence: float
    """Level of every interval."""
    tasks: list[str]
    labels: list[str]
    families: dict[str, Literal["mdm", "arm"]]
    headline: str
    verdicts: dict[str, list[str]]
    """By label: sentences, each made from one test."""
    notes: list[str]
    """How far the numbers can be trusted."""
    levels: list[Level]
    differences: list[Difference]
    spreads: list[Spread]
    costs: list[Cost]
    profiles: list[Profile]
    looks: list[Look]
    """Of an adaptive sweep; empty for a fixed number of seeds."""
    failures: dict[str, str]
    """Runs without a result: name and error."""
