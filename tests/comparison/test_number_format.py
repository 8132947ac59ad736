import pytest

from raymdm.comparison.metrics import METRICS, duration, significant


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (187, "3 min 07 s"),
        (3599.7, "1 h 00 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_durations_carry_over(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("value", "text"), [(8.1, "8.10"), (0.85, "0.850"), (100.2, "100"), (12345.0, "1.23e+04")])
def test_three_digits_with_their_zeros(value: float, text: str) -> None:
    assert significant(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.031, "+3.1"), (-0.04, "-4.0"), (0.0, "0.0"), (-0.0004, "0.0"), (0.0004, "0.0")]
)
def test_accuracy_differences_are_signed_points(value: float, text: str) -> None:
    assert METRICS["accuracy"].write_signed(value) == text
