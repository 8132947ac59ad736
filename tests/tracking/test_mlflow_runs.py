"""What is sent of a run's points, and with which times."""

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st
from mlflow.entities import Metric, RunData

from raymdm.tracking.mlflow_runs import Point, Run

VALUES = st.sampled_from([0.25, 0.5, 0.75])


@st.composite
def told(draw) -> list[Point]:
    """Points as a tracker makes them: its time goes on, but may be far behind what MLflow holds."""
    made, now = [], draw(st.integers(0, 5))
    for _ in range(draw(st.integers(1, 12))):
        now += 1
        if draw(st.booleans()):
            made.append(Point("accuracy", draw(VALUES), now, 0, replace=True))
        else:
            made.append(Point(draw(st.sampled_from("ab")), draw(VALUES), now, draw(st.integers(1, 4)), replace=False))
    return made


def taken_up(held: list[Point]) -> Run:
    """A run as it is after MLflow, which holds some points, has been asked."""
    latest: dict[str, Point] = {}
    for point in held:
        before = latest.setdefault(point.key, point)
        latest[point.key] = max(before, point, key=lambda p: (p.step, p.milliseconds, p.value))
    metrics = [Metric(p.key, p.value, p.milliseconds, p.step) for p in latest.values()]
    run = Run("sweep/mirror-s1", "mirror-s1", {}, {})
    run.learn(SimpleNamespace(info=SimpleNamespace(run_id="r"), data=RunData(metrics=metrics)))
    return run


def send(run: Run, points: list[Point], held: list[Point]) -> list[Point]:
    """What is sent of some points to an MLflow that holds others."""
    for key in {point.key for point in points if run.needs_history(point)}:
        run.learn_history(key, [Metric(p.key, p.value, p.milliseconds, p.step) for p in held if p.key == key])
    return run.fresh(points)


earlier = st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 3)), unique=True, max_size=3).map(
    lambda places: [Point(key, 0.5, 100, step, replace=False) for key, step in places]
)


@given(earlier, told(), st.integers(0, 12))
def test_points_sent_again_after_any_part_arrived_have_the_same_times(before, points, cut):
    """So that MLflow, which keeps equal points once, drops those of a call whose answer was lost."""
    run = taken_up(before)
    first = send(run, points[:cut], before)
    second = send(run, points[cut:], before + first)
    again = taken_up(before + first)
    assert send(again, points[cut:], before + first) == second


@given(earlier, told(), st.integers(0, 12))
def test_each_step_is_sent_once_and_the_last_summary_is_the_valid_one(before, points, cut):
    run = taken_up(before)
    sent = send(run, points[:cut], before)
    sent += send(run, points[cut:], before + sent)
    held = before + sent
    places = [(point.key, point.step) for point in held if point.key != "accuracy"]
    assert len(places) == len(set(places))
    assert set(places) == {(point.key, point.step) for point in before + points if point.key != "accuracy"}
    summaries = [point.value for point in points if point.replace]
    if summaries:
        valid = max((p for p in held if p.key == "accuracy"), key=lambda p: (p.step, p.milliseconds, p.value))
        assert valid.value == summaries[-1]


@given(earlier, told())
def test_time_never_runs_back(before, points):
    times = [point.milliseconds for point in [*before, *send(taken_up(before), points, before)]]
    assert times == sorted(times)
