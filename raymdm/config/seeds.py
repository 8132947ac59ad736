"""Seeds of a sweep: a list, or as many as it takes to answer a question."""

from collections.abc import Mapping
from itertools import count, islice
from typing import Annotated, Any

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from raymdm.config import criteria
from raymdm.config.inputs import Section, Seed, unique

PAPERS_SEEDS = (42, 731, 20231)


def _sequential(text: str) -> str:
    if criteria.negates(text):
        raise ValueError("`not` would hold at the first look, when little is known. Ask for what is to be shown")
    for atom in criteria.parse(text).atoms:
        if atom.function not in criteria.SEQUENTIAL:
            raise ValueError(
                f"{atom.function} cannot be asked again and again. Use {', '.join(criteria.SEQUENTIAL)}, and ask the "
                "finished sweep the rest: raymdm compare --assert"
            )
        if atom.function == "halfwidth" and atom.arguments[0] != "accuracy":
            raise ValueError(f"{atom}: an adaptive sweep is about accuracy. Write halfwidth(accuracy) <= X")
    return text


class AdaptiveSeeds(Section):
    """Seeds added where they decide most, until a question is answered or the seeds run out."""

    initial: int = Field(default=3, ge=2)
    """Seeds of every method before the first look."""
    max: int = Field(default=20, ge=3)
    """Most seeds a method."""
    stop_when: Annotated[str, AfterValidator(_sequential)]
    """What ends the sweep, such as `decided(stable, standard)` or `halfwidth(accuracy) <= 1.0` (points)."""
    looks: Annotated[int, Field(ge=2, le=50)] | None = None
    """Times that the results are looked at: fewer leave more of alpha to each, more may stop sooner. null: 6, or as
    many as there are seeds to add between them."""
    values: Annotated[list[Seed], AfterValidator(unique)] | None = None
    """The seeds in the order of their use, `max` of them or more; null: the paper's three, then 1, 2, 3 and so on."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> "AdaptiveSeeds":
        if self.max <= self.initial:
            raise ValueError(f"`max` ({self.max}) must be above `initial` ({self.initial}): else write a list of seeds")
        if self.values is not None and len(self.values) < self.max:
            raise ValueError(
                f"`values` holds {len(self.values)} seeds, `max` allows {self.max}. Add seeds, or lower it"
            )
        return self

    @property
    def order(self) -> list[int]:
        """The `max` seeds in the order of their use."""
        if self.values is not None:
            return self.values[: self.max]
        return [*PAPERS_SEEDS, *islice((seed for seed in count(1) if seed not in PAPERS_SEEDS), self.max)][: self.max]

    def num_looks(self, players: int) -> int:
        """Looks of a sweep in which so many methods may get more seeds; every round between two adds one or more."""
        return self.looks or min(6, players * (self.max - self.initial) + 1)

    @property
    def criterion(self) -> criteria.Criterion:
        return criteria.parse(self.stop_when)


FixedSeeds = Annotated[list[Seed], AfterValidator(unique), Field(min_length=1)]


def _kind(value: Any) -> str:
    return "adaptive" if isinstance(value, Mapping | AdaptiveSeeds) else "fixed"


Seeds = Annotated[Annotated[FixedSeeds, Tag("fixed")] | Annotated[AdaptiveSeeds, Tag("adaptive")], Discriminator(_kind)]
