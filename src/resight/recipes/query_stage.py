"""The [query] table: how a query is looked at more than once, turned and smaller (survey §4.1.2 and §7)."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from resight.recipes.stage import Stage


class QueryStage(Stage):
    """A query's views. Images of the collection are described once, as they are.

    turns: the query as it is and turned by each further multiple of 360° / turns; 4 is exact and does for photos taken
        upright, sideways or upside down.
    scales: factors of the size at which the query is described, the first 1; all turns are taken at each.
    merge: an image is as similar as the view that it resembles most (``max``), or the views' global descriptors become
        one, their mean (``mean``). With max, verification counts the view that most of an image's points agree with.
    """

    turns: int = Field(default=1, ge=1, le=36)
    scales: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(default=(1.0,), min_length=1)
    merge: Literal["max", "mean"] = "max"

    @property
    def views(self) -> int:
        """How many there are."""
        return self.turns * len(self.scales)

    @model_validator(mode="after")
    def _first_is_whole(self) -> Self:
        if self.scales[0] != 1 or len(set(self.scales)) < len(self.scales):
            raise ValueError("scales begin with 1.0, the query as it is, and are different")
        return self
