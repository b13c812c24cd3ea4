"""What all tables of a recipe are: immutable, and closed to unknown keys."""

from pydantic import BaseModel, ConfigDict


class Stage(BaseModel):
    """A table of a recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid")
