"""A recipe: the survey's Fig. 2 as one typed, immutable value, loaded from TOML. Unknown keys are errors."""

import hashlib
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from resight.errors import RecipeError
from resight.recipes.network_stages import FILES, GlobalStage
from resight.recipes.stage import Stage


class ImageStage(Stage):
    """How pixels are prepared.

    max_side: the longest side in pixels after resizing; never enlarged.
    min_crop_side: a query box is described at the scale the whole image would have had (PROTOCOLS.md), but finer, up
        to full resolution, where the crop's longest side would fall below this; 0 keeps strictly to the protocol.
    """

    max_side: int = Field(default=1024, ge=32, le=16384)
    min_crop_side: int = Field(default=0, ge=0, le=16384)


class LocalStage(Stage):
    """Local features (§4.2.2). sift: OpenCV's DoG detector and SIFT, square-rooted (Arandjelović & Zisserman 2012)."""

    detector: Literal["sift"] = "sift"
    max_features: int = Field(default=1000, ge=16, le=100_000)
    contrast_threshold: float = Field(default=0.01, ge=0)
    edge_threshold: float = Field(default=10.0, gt=0)


class CodebookStage(Stage):
    """Visual words for ASMK and for matching. words: their number; 0 chooses by the number of training descriptors.

    path: a codebook made by `resight fit`, relative to the recipe's folder; "" learns one from the collection itself.
    """

    words: int = Field(default=0, ge=0, le=1_048_576)
    seed: int = 0
    path: str = ""


class AsmkStage(Stage):
    """Binary aggregated selective match kernel with an inverted file (Tolias, Avrithis & Jégou 2013/2016).

    query_assignments: nearest words a query descriptor is assigned to; the database side uses one.
    """

    query_assignments: int = Field(default=5, ge=1, le=32)
    alpha: float = Field(default=3.0, gt=0)
    threshold: float = Field(default=0.0, ge=-1, lt=1)


class VerifyStage(Stage):
    """Spatial verification of the first `shortlist` results by a homography (OpenCV's USAC/MAGSAC, seeded).

    query_assignments: words in which a query descriptor looks for its match.
    max_distance: between matching descriptors of unit length.
    max_error: inlier threshold, as a fraction of the result's longest side.
    """

    shortlist: int = Field(default=100, ge=1)
    query_assignments: int = Field(default=5, ge=1, le=32)
    max_distance: float = Field(default=0.48, gt=0, le=2)
    max_error: float = Field(default=0.01, gt=0, lt=1)
    seed: int = 0


class Calibration(Stage):
    """The probability of a true match as a logistic function, fitted by benchmarks/calibrate.py on the sets it names.

    logit p = intercept + inliers · ln(1 + max(0, n − 3)) + similarity · s, for n inliers and filter similarity s.
    accept: results at or above this probability are matches.
    """

    intercept: float
    inliers: float = Field(gt=0)
    similarity: float = Field(ge=0)
    accept: float = Field(default=0.5, gt=0, lt=1)
    fitted_on: str


class Recipe(Stage):
    """Stages and their parameters. `filter` makes the first ranking; `verify`, where given, re-ranks its top."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    title: str
    source: str
    filter: Literal["asmk", "global"]
    image: ImageStage = Field(default_factory=ImageStage)
    local: LocalStage | None = None
    codebook: CodebookStage | None = None
    asmk: AsmkStage | None = None
    global_: GlobalStage | None = Field(default=None, alias="global")
    verify: VerifyStage | None = None
    calibration: Calibration | None = None

    @model_validator(mode="after")
    def _stages_fit(self) -> Self:
        if self.filter == "asmk" and self.asmk is None:
            raise ValueError('filter = "asmk" needs the table [asmk]')
        if self.filter == "global" and self.global_ is None:
            raise ValueError('filter = "global" needs the table [global]')
        needs_words = self.asmk is not None or self.verify is not None
        if needs_words and (self.local is None or self.codebook is None):
            raise ValueError("[asmk] and [verify] need the tables [local] and [codebook]")
        if (self.verify is None) != (self.calibration is None):
            raise ValueError("[verify] and [calibration] go together: a verified score is a calibrated probability")
        return self

    @property
    def fingerprint(self) -> str:
        """sha256, in hex, of every stage and parameter; where weights and artefacts lie is left out, as they move."""
        return hashlib.sha256(self.dump(set(type(self).model_fields)).encode()).hexdigest()

    def dump(self, stages: set[str]) -> str:
        """Some of the stages as JSON, without the places of weights and artefacts, which move."""
        branch: dict[str, Any] = {key: True for key in FILES if key != "model"} | {"scheme": {"model"}}
        moving: dict[str, Any] = {"global_": {**branch, "also": {"__all__": branch}}, "codebook": {"path"}}
        return self.model_dump_json(include=stages, exclude=moving)


def recipe_names() -> tuple[str, ...]:
    """Names of the recipes that come with resight."""
    folder = resources.files(__package__)
    return tuple(sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")))


def recipe_text(name: str) -> str:
    """The commented TOML of a recipe that comes with resight; RecipeError for an unknown name."""
    if name not in recipe_names():
        raise RecipeError(f"no recipe {name!r}; there are {', '.join(recipe_names())}, or give a .toml file or folder")
    return (resources.files(__package__) / f"{name}.toml").read_text(encoding="utf-8")


def load_recipe(name: str | Path) -> Recipe:
    """A recipe by name, from a TOML file, or from a folder that `resight fit` made (its recipe.toml).

    Paths in a file are taken as relative to it and come out absolute. Raises RecipeError naming the file and the key.
    """
    path = Path(name)
    if path.is_dir():
        path = path / "recipe.toml"
    if path.is_file():
        try:
            return parse_recipe(path.read_text(encoding="utf-8"), str(path), path.parent)
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"{path}: cannot be read: {error}") from error
    if path.suffix == ".toml" or len(path.parts) > 1:
        raise RecipeError(f"{path}: no such recipe file or folder")
    return parse_recipe(recipe_text(str(name)), f"recipe {name}", None)


def parse_recipe(text: str, origin: str, folder: Path | None) -> Recipe:
    """A recipe from TOML text. origin: its name in errors; folder: what its paths are relative to."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{origin}: not valid TOML: {error}") from error
    if folder is not None:
        _place(table.get("global"), FILES, folder)
        _place(table.get("codebook"), ("path",), folder)
    try:
        return Recipe.model_validate(table)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'recipe'}: {e['msg'].removeprefix('Value error, ')}"
            for e in error.errors()
        )
        raise RecipeError(f"{origin}: {problems}") from error


def _place(table: object, keys: tuple[str, ...], folder: Path) -> None:
    """Make paths in a table, and in those inside it, absolute."""
    if isinstance(table, list):
        for entry in table:
            _place(entry, keys, folder)
    if isinstance(table, dict):
        for key, value in table.items():
            if key in keys and isinstance(value, str) and value:
                table[key] = str((folder / value).absolute())
            else:
                _place(value, keys, folder)
