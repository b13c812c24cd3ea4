"""What all tables of a recipe are: immutable, and closed to unknown keys."""

from pydantic import BaseModel, ConfigDict, ValidationError


class Stage(BaseModel):
    """A table of a recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def check_one_place(weights: str, revision: str) -> None:
    """Raises ValueError where weights are both a file and pinned to a revision of what is downloaded."""
    if weights and revision:
        raise ValueError("weights are a file, a revision is of downloaded ones: give one of them")


def problems(error: ValidationError, whole: str) -> str:
    """All that is wrong with a table, each with its key. whole: what the table is called where it is of no one key."""
    return "; ".join(
        f"{'.'.join(map(str, e['loc'])) or whole}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors()
    )
