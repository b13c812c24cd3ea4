"""The [adapters] table: projections of the stored vector among which each search chooses (survey §7)."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from resight.recipes.stage import Stage

NONE = "none"
"""Of the vectors as they are stored; it is there with every recipe."""
JOINT = "joint"
"""Of what is learned of all sets together."""
NAME = r"^[a-z0-9][a-z0-9._-]*$"


class AdaptersStage(Stage):
    """What `resight train` learns of each of several sets, and of all of them together.

    files: of projections by name, such as that of the set each was learned of, relative to the recipe's folder.
    default: the one that a search takes which names none; "none" for the vectors as they are stored.
    """

    files: dict[Annotated[str, Field(pattern=NAME)], str] = Field(min_length=1)
    default: str = JOINT

    @property
    def names(self) -> tuple[str, ...]:
        """All that a search may name."""
        return *self.files, NONE

    @model_validator(mode="after")
    def _names_are_there(self) -> Self:
        if NONE in self.files:
            raise ValueError('"none" is of the vectors as they are stored: call the adapter otherwise')
        if self.default not in self.names:
            raise ValueError(f'default = "{self.default}" is none of {", ".join(self.names)}')
        return self
