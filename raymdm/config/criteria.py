"""What may be asked of a comparison, in a recipe's `stop_when` or of `raymdm compare --assert`.

    halfwidth(accuracy) <= 1.0 or decided(stable, standard)

- `decided(a, b)`: the difference of a and b is established, in either direction.
- `better(a, b)`: it is established, and a is the better one.
- `halfwidth(metric) <= x`: half the interval over seeds of every method's mean is at most x, in the unit that reports
  write (accuracy: points); `halfwidth(metric, a)`: of one method's.
- `dominates(a, b)`: a is better, and its worst run is better than b's best.
- `equivalent_spread(a, b)`: their spreads are equivalent.

They are joined by `and`, `or`, `not` and brackets. A name that is no plain word goes in quotes: 'arm (Qwen3-8B)'.
"""

import ast
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

PAIRS = ("decided", "better", "dominates", "equivalent_spread")
SEQUENTIAL = ("decided", "better", "halfwidth")
"""What stays valid when it is asked again and again, as more seeds come in."""


class Atom(NamedTuple):
    """One question."""

    function: str
    arguments: tuple[str, ...]
    """Two methods; or a metric and perhaps a method."""
    bound: float | None = None
    """Largest half-width."""

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that are asked of; empty for all of them."""
        return self.arguments[1:] if self.function == "halfwidth" else self.arguments

    def __str__(self) -> str:
        text = f"{self.function}({', '.join(self.arguments)})"
        return text if self.bound is None else f"{text} <= {self.bound:g}"


@dataclass(frozen=True)
class Criterion:
    """A parsed expression."""

    text: str
    atoms: tuple[Atom, ...]
    """Its questions, each once, from left to right."""

    def holds(self, answer: Callable[[Atom], bool]) -> bool:
        """Whether the whole holds, given the answer to each question."""
        return _evaluate(_tree(self.text), answer)


def parse(text: str) -> Criterion:
    """Read an expression; raises ValueError saying what is wrong and what may be asked."""
    tree = _tree(text)
    atoms: list[Atom] = []

    def note(atom: Atom) -> bool:
        atoms.append(atom)
        return True

    _evaluate(tree, note)
    return Criterion(text, tuple(dict.fromkeys(atoms)))


def negates(text: str) -> bool:
    """Whether `not` occurs in an expression that can be read."""
    return any(isinstance(node, ast.Not) for node in ast.walk(_tree(text)))


def _tree(text: str) -> ast.expr:
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{text!r} cannot be read. {_MAY_BE}") from error


def _evaluate(node: ast.expr, answer: Callable[[Atom], bool]) -> bool:
    match node:
        case ast.BoolOp(op=operator, values=parts):
            found = [_evaluate(part, answer) for part in parts]  # every question is asked
            return all(found) if isinstance(operator, ast.And) else any(found)
        case ast.UnaryOp(op=ast.Not(), operand=inner):
            return not _evaluate(inner, answer)
        case ast.Call(func=ast.Name(id=name)) if name in PAIRS:
            return answer(Atom(name, _names(node, 2, 2)))
        case ast.Compare(left=ast.Call(func=ast.Name(id="halfwidth")) as call, ops=[ast.LtE()], comparators=[bound]):
            return answer(Atom("halfwidth", _names(call, 1, 2), _number(bound)))
    raise ValueError(f"{ast.unparse(node)!r} is nothing that can be asked. {_MAY_BE}")


def _names(call: ast.Call, fewest: int, most: int) -> tuple[str, ...]:
    names = [
        part.id if isinstance(part, ast.Name) else part.value if isinstance(part, ast.Constant) else None
        for part in call.args
    ]
    texts = tuple(name for name in names if isinstance(name, str))
    if call.keywords or len(texts) != len(names) or not fewest <= len(texts) <= most:
        expected = "two methods" if fewest == 2 else "a metric, and perhaps a method"
        raise ValueError(f"{ast.unparse(call)!r}: expected {expected} in the brackets")
    if fewest == 2 and texts[0] == texts[1]:
        raise ValueError(f"{ast.unparse(call)!r}: a method cannot be set against itself. Name two")
    return texts


def _number(node: ast.expr) -> float:
    value = node.value if isinstance(node, ast.Constant) else None
    if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
        return float(value)
    raise ValueError(f"{ast.unparse(node)!r}: a half-width is compared to a number above 0")


_MAY_BE = (
    "Known: decided(A, B), better(A, B), dominates(A, B), equivalent_spread(A, B), halfwidth(METRIC) <= X, "
    "halfwidth(METRIC, A) <= X; joined by and, or, not, brackets"
)
