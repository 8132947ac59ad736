"""Questions to a comparison: what they mean, and what is said of those that cannot be read."""

from collections.abc import Callable

import pytest

from raymdm.config.criteria import Atom, parse

DECIDED, NARROW = Atom("decided", ("stable", "standard")), Atom("halfwidth", ("accuracy",), 1.0)


def answering(*true: Atom) -> Callable[[Atom], bool]:
    return lambda atom: atom in true


def test_the_questions_of_an_expression_come_once_each() -> None:
    text = "halfwidth(accuracy) <= 1.0 or decided(stable, standard) and not decided(stable, standard)"
    assert parse(text).atoms == (NARROW, DECIDED)


def test_or_holds_with_either() -> None:
    criterion = parse("halfwidth(accuracy) <= 1.0 or decided(stable, standard)")
    assert criterion.holds(answering(NARROW))
    assert criterion.holds(answering(DECIDED))
    assert not criterion.holds(answering())


def test_and_binds_closer_than_or_and_not_closer_still() -> None:
    criterion = parse("better(a, b) or better(c, d) and not better(e, f)")
    a, c, e = criterion.atoms
    assert criterion.holds(answering(a, e))
    assert criterion.holds(answering(c))
    assert not criterion.holds(answering(c, e))


def test_brackets_group() -> None:
    criterion = parse("(better(a, b) or better(c, d)) and better(e, f)")
    assert not criterion.holds(answering(criterion.atoms[0]))


def test_names_that_are_no_words_go_in_quotes() -> None:
    (atom,) = parse("better('arm (Qwen3-8B)', 'a\"b')").atoms
    assert atom.arguments == ("arm (Qwen3-8B)", 'a"b')


def test_half_width_may_be_of_one_method() -> None:
    (atom,) = parse("halfwidth(accuracy, stable) <= 2").atoms
    assert (atom.methods, atom.bound) == (("stable",), 2.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("decided(a, b", "cannot be read"),
        ("", "cannot be read"),
        ("decided(a)", "expected two methods"),
        ("decided(a, a)", "cannot be set against itself"),
        ("decided(a, b, c)", "expected two methods"),
        ("decided(a, b=c)", "expected two methods"),
        ("decided(a, 3)", "expected two methods"),
        ("halfwidth(accuracy)", "nothing that can be asked"),
        ("halfwidth(accuracy) < 1", "nothing that can be asked"),
        ("halfwidth(accuracy) <= 0", "a number above 0"),
        ("halfwidth(accuracy) <= True", "a number above 0"),
        ("1 <= halfwidth(accuracy) <= 2", "nothing that can be asked"),
        ("__import__('os').system('true')", "nothing that can be asked"),
        ("stable", "Known: decided"),
    ],
)
def test_what_cannot_be_asked(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=r"Known|expected|itself|number") as error:
        parse(text)
    assert said in str(error.value)
