"""A recipe: the survey's Fig. 2 as one typed, immutable value, loaded from TOML. Unknown keys are errors."""

import hashlib
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from resight.errors import RecipeError
from resight.parsing import parse_toml
from resight.recipes.adapters_stage import AdaptersStage
from resight.recipes.local_stages import LOCAL_FILES, ChannelStage, LayerStage, LocalStage
from resight.recipes.network_stages import FILES, GlobalStage
from resight.recipes.query_stage import QueryStage
from resight.recipes.rerank_stages import (
    RERANK_FILES,
    ChannelMatchStage,
    FuzzyStage,
    KernelStage,
    MatchingStage,
    ModelStage,
    PatchStage,
    RegionalDiffusionStage,
    RerankStage,
    TransformerStage,
)
from resight.recipes.stage import Stage, problems

_ON_REGIONS = (PatchStage, RegionalDiffusionStage, FuzzyStage)


class ImageStage(Stage):
    """How pixels are prepared.

    max_side: the longest side in pixels after resizing; never enlarged.
    min_crop_side: a query box is described at the scale the whole image would have had (PROTOCOLS.md), but finer, up
        to full resolution, where the crop's longest side would fall below this; 0 keeps strictly to the protocol.
    """

    max_side: int = Field(default=1024, ge=32, le=16384)
    min_crop_side: int = Field(default=0, ge=0, le=16384)


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


class BowStage(Stage):
    """Bag of visual words, the cosine of tf·idf vectors (Sivic & Zisserman 2003).

    query_assignments: nearest words a query descriptor counts for, alike; the database side uses one.
    idf: weigh words by their rarity in the collection. root: take the square root of tf, against bursts of one word.
    """

    query_assignments: int = Field(default=1, ge=1, le=32)
    idf: bool = True
    root: bool = False


class HammingStage(Stage):
    """Hamming embedding: words with a binary signature a feature (Jégou, Douze & Schmid 2008/2010).

    query_assignments: nearest words in which a query descriptor looks for matches; the database side uses one.
    bits: of a signature, at most the descriptor's dimensions. threshold: bits in which a match may differ.
    sigma: a match that differs in h bits weighs exp(−h²/sigma²); 0 weighs all alike.
    idf: weigh words by their rarity in the collection.
    path: what `resight fit` learned, relative to the recipe's folder; "" learns it from the collection itself.
    """

    query_assignments: int = Field(default=5, ge=1, le=32)
    bits: int = Field(default=64, ge=8, le=1024, multiple_of=8)
    threshold: int = Field(default=22, ge=0)
    sigma: float = Field(default=16.0, ge=0)
    idf: bool = True
    path: str = ""

    @model_validator(mode="after")
    def _threshold_fits(self) -> Self:
        if self.threshold > self.bits:
            raise ValueError(f"threshold = {self.threshold} is more than the {self.bits} bits there are")
        return self


class HashStage(Stage):
    """Binary codes of the global descriptor, by whose distance images are ranked (survey §4.2.4).

    method, bits, seed: of the hash function that is learned from the collection itself, where no path is given.
    distance: hamming, or asymmetric, in which the query keeps its real values.
    index: how the nearest of more than some ten thousand codes are found: a scan and multi-index hashing find the same,
        an inverted file misses some; a multi-index is quick for long-lived searchers and codes with near neighbours.
    path: what `resight hash fit` learned, relative to the recipe's folder. ssdh and siamese, which learn from labels,
        deepbit, from photos turned, and sah, from local features, need one; until it is there, nothing is found.
    """

    method: Literal["lsh", "pca-sign", "itq", "dsth", "rbm", "autoencoder", "ssdh", "siamese", "deepbit", "sah"] = "itq"
    bits: int = Field(default=256, ge=8, le=4096, multiple_of=8)
    distance: Literal["hamming", "asymmetric"] = "hamming"
    index: Literal["scan", "multi-index", "inverted"] = "scan"
    seed: int = Field(default=0, ge=0)
    path: str = ""

    @property
    def from_file(self) -> bool:
        """Whether the method learns from more than a collection's vectors."""
        return self.method in ("ssdh", "siamese", "deepbit", "sah")

    @model_validator(mode="after")
    def _file_is_named(self) -> Self:
        if self.distance == "asymmetric" and self.index != "scan":
            raise ValueError(f'distance = "asymmetric" is found by a scan, not by index = "{self.index}"')
        if self.from_file and not self.path:
            raise ValueError(f'method = "{self.method}" goes with path, of what `resight hash fit` learned')
        return self


class VerifyStage(Stage):
    """Spatial verification of the first `shortlist` results, by default by a homography (USAC/MAGSAC, seeded).

    query_assignments: words in which a query descriptor looks for its match.
    max_distance: between matching descriptors of unit length.
    max_error: inlier threshold, as a fraction of the result's longest side.
    model: of the map between query and result. similarity and affine are by one correspondence a hypothesis (Philbin
        et al. 2007); they ask more of a match than a homography does, and their inliers need another calibration.
    instances: how many times a result may show the thing; the score is that of the one with the most inliers.
    """

    shortlist: int = Field(default=100, ge=1)
    query_assignments: int = Field(default=5, ge=1, le=32)
    max_distance: float = Field(default=0.48, gt=0, le=2)
    max_error: float = Field(default=0.01, gt=0, lt=1)
    model: Literal["homography", "similarity", "affine"] = "homography"
    instances: int = Field(default=1, ge=1, le=100)
    seed: int = Field(default=0, ge=0)


class ExpansionStage(Stage):
    """The query is asked again with what its verified results show (Chum et al. 2007).

    joins: their local features, with which verification is repeated; or their global descriptors, whose mean with the
        query's makes the filter's ranking anew, of which the first are verified that were not before.
    results: at most so many join the query in a round; each has at least `accept` of probability and so many `inliers`.
    """

    joins: Literal["features", "vectors"] = "features"
    results: int = Field(default=5, ge=1, le=100)
    inliers: int = Field(default=15, ge=4)
    accept: float = Field(default=0.9, gt=0, lt=1)
    rounds: int = Field(default=1, ge=1, le=10)


class Calibration(Stage):
    """The probability of a true match as a logistic function, fitted by benchmarks/calibrate.py on the sets it names.

    logit p = intercept + inliers · (0.3 + 0.7 a) · ln(1 + max(0, n − 4)) + similarity · s, for n inliers, agreement a
    of colours, which is 1 where [local] keeps none, and filter similarity s.
    accept: results at or above this probability are matches.
    """

    intercept: float
    inliers: float = Field(gt=0)
    similarity: float = Field(ge=0)
    accept: float = Field(default=0.5, gt=0, lt=1)
    fitted_on: str


class Recipe(Stage):
    """Stages and their parameters.

    `filter` makes the first ranking, the tables of `rerank` re-order it, and `verify`, where given, checks its top.
    adapters: projections among which a search chooses, by which it compares what is stored.
    trained: facts about the training that `resight train` gave its networks; nothing follows from them.
    compatible_with: fingerprint of a recipe (`resight info` tells a collection's) whose vectors those of this one were
        trained to be compared with, so that its collections can be searched by this one.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    title: str
    source: str
    filter: Literal["asmk", "bow", "hamming", "global", "hash"]
    image: ImageStage = Field(default_factory=ImageStage)
    local: LocalStage | None = None
    codebook: CodebookStage | None = None
    asmk: AsmkStage | None = None
    bow: BowStage | None = None
    hamming: HammingStage | None = None
    global_: GlobalStage | None = Field(default=None, alias="global")
    hash: HashStage | None = None
    rerank: tuple[RerankStage, ...] = ()
    verify: VerifyStage | None = None
    expansion: ExpansionStage | None = None
    calibration: Calibration | None = None
    query: QueryStage | None = None
    adapters: AdaptersStage | None = None
    trained: dict[str, Any] | None = None
    compatible_with: str = Field(default="", pattern="^([0-9a-f]{64})?$")

    @model_validator(mode="after")
    def _stages_fit(self) -> Self:
        by_words = {"asmk": self.asmk, "bow": self.bow, "hamming": self.hamming}
        if {**by_words, "global": self.global_, "hash": self.hash}[self.filter] is None:
            raise ValueError(f'filter = "{self.filter}" needs the table [{self.filter}]')
        given = [name for name, stage in by_words.items() if stage is not None]
        if len(given) > 1:
            raise ValueError(f"a collection has one inverted file: choose one of the tables [{'], ['.join(given)}]")
        if self.hash is not None and (self.filter != "hash" or self.global_ is None or self.global_.late):
            raise ValueError('[hash] needs filter = "hash" and [global] with one vector an image, so no late fusion')
        needs_words = bool(given) or self.verify is not None
        if needs_words and (self.local is None or self.codebook is None):
            raise ValueError("[asmk], [bow], [hamming] and [verify] need the tables [local] and [codebook]")
        if self.hamming is not None and self.hamming.path and self.codebook is not None and not self.codebook.path:
            raise ValueError("the path of [hamming] needs that of [codebook], to whose words it belongs")
        if self.rerank and (self.filter != "global" or self.global_ is None or self.global_.late):
            raise ValueError('[[rerank]] needs filter = "global" with one vector an image, so without a late fusion')
        by_features = any(isinstance(s, MatchingStage | KernelStage | TransformerStage) for s in self.rerank)
        if by_features and self.local is None:
            raise ValueError("[[rerank]] matching, kernel and transformer need the table [local]")
        channels = isinstance(self.local, ChannelStage)
        if channels and (by_features or self.codebook is not None):
            raise ValueError('detector = "dsm" is for [[rerank]] dsm alone: leave out [codebook] and other matching')
        if any(isinstance(s, ChannelMatchStage) for s in self.rerank) and not channels:
            raise ValueError('[[rerank]] dsm needs [local] with detector = "dsm"')
        if any(isinstance(s, KernelStage) for s in self.rerank) and self.codebook is None:
            raise ValueError("[[rerank]] kernel needs the table [codebook], whose words it matches in")
        if (self.verify is None) != (self.calibration is None):
            raise ValueError("[verify] and [calibration] go together: a verified score is a calibrated probability")
        if self.expansion is not None and self.verify is None:
            raise ValueError("[expansion] needs the table [verify], which says whose features join the query")
        if self.expansion is not None and self.expansion.joins == "vectors" and self.filter != "global":
            raise ValueError('[expansion] joins = "vectors" needs filter = "global", which searches by them')
        if self.query is not None and (why := self.obstacle(self.query)):
            raise ValueError(why)
        if self.adapters is not None and (why := self._without_adapters):
            raise ValueError(f"[adapters] are of one stored vector an image by which it is ranked: leave out {why}")
        return self

    @property
    def _without_adapters(self) -> str | None:
        """What projections of the stored vector do not go with, or None."""
        if self.hash is not None:
            return "[hash], whose codes are of the vector as it is stored"
        if self.filter != "global" or self.global_ is None:
            return f'filter = "{self.filter}", which compares no vectors'
        if self.global_.late:
            return f'fusion = "{self.global_.fusion}", which keeps several vectors'
        if any(isinstance(stage, _ON_REGIONS) for stage in self.rerank):
            return "tables of [[rerank]] that compare regions, which are stored as they are"
        if any(isinstance(stage, ModelStage) for stage in self.rerank):
            return "tables of [[rerank]] with a model, which learned from the vectors as they are stored"
        return None

    def obstacle(self, query: QueryStage) -> str | None:
        """Why a query cannot be looked at so, or None where it can."""
        if query.merge == "mean":
            if self.adapters is not None:
                return '[query] merge = "mean" would join vectors before an adapter projects them: say merge = "max"'
            return None if self.by_vector else f'[query] merge = "mean" is of vectors, and filter is "{self.filter}"'
        if self.rerank or self.expansion is not None:
            return '[query] merge = "max" has no one query for [[rerank]] and [expansion]: leave them out'
        return None

    @property
    def by_words(self) -> AsmkStage | BowStage | HammingStage | None:
        """The table of the filter over visual words, or None."""
        return self.asmk or self.bow or self.hamming

    @property
    def by_vector(self) -> bool:
        """Whether the first ranking is by the global descriptor, or codes of it."""
        return self.filter in ("global", "hash")

    @property
    def local_side(self) -> int:
        """Longest side in pixels of the picture at scale 1 in which [local] finds its features."""
        side = self.image.max_side
        return min(side, self.local.max_side) if isinstance(self.local, LayerStage) else side

    @property
    def region_levels(self) -> tuple[int, ...]:
        """Of the grids whose squares the tables of `rerank` compare."""
        return tuple(sorted({s.levels for s in self.rerank if isinstance(s, _ON_REGIONS)}))

    @property
    def postings(self) -> str:
        """What the inverted file keeps of an image. It is ASMK's codes also where only [verify] needs the words."""
        if self.hamming is not None:
            return f"hamming signatures of {self.hamming.bits} bits"
        return "term counts" if self.bow is not None else "asmk"

    def keeps_as(self, other: "Recipe") -> bool:
        """Whether a collection of the other, which describes images alike, has the words, codes and regions of this."""
        stages = ("codebook", "asmk", "bow", "hamming", "hash")
        alike = all(getattr(self, stage) == getattr(other, stage) for stage in stages)
        return alike and set(self.region_levels) <= set(other.region_levels)

    @property
    def codes(self) -> str:
        """Which codes a collection keeps of the global descriptors; "" for none."""
        return "" if self.hash is None else f" {self.hash.bits} bits by {self.hash.path or self.hash.method}"

    @property
    def fingerprint(self) -> str:
        """sha256, in hex, of every stage and parameter; where weights and artefacts lie is left out, as they move.

        So is [adapters]: nothing that is stored follows from it, and each search chooses.
        """
        absent = {key for key in ("query", "compatible_with") if not getattr(self, key)}  # as before there was any
        stages = set(type(self).model_fields) - absent - {"adapters"}
        hashed = " codes of regions" if any(isinstance(s, PatchStage) and s.hash for s in self.rerank) else ""
        return hashlib.sha256(f"{self.dump(stages)}{hashed}".encode()).hexdigest()

    def dump(self, stages: set[str]) -> str:
        """Some of the stages as JSON, without the places of weights and artefacts, which move."""
        branch: dict[str, Any] = {key: True for key in (*FILES, "revision") if key != "model"}
        branch |= {"scheme": {"model"}, "attention": {"weights"}}
        moving: dict[str, Any] = {"global_": {**branch, "also": {"__all__": branch}}}
        moving |= {"codebook": {"path"}, "hamming": {"path"}, "hash": {"path"}, "local": {*LOCAL_FILES, "revision"}}
        moving |= {"rerank": {"__all__": set(RERANK_FILES)}, "trained": True}
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
        table = parse_toml(text)
    except ValueError as error:
        raise RecipeError(f"{origin}: not valid TOML: {error}") from error
    if folder is not None:
        _place(table.get("global"), FILES, folder)
        _place(table.get("local"), LOCAL_FILES, folder)
        _place(table.get("rerank"), RERANK_FILES, folder)
        _place(table.get("codebook"), ("path",), folder)
        _place(table.get("hamming"), ("path",), folder)
        _place(table.get("hash"), ("path",), folder)
        _place_adapters(table.get("adapters"), folder)
    try:
        return Recipe.model_validate(table)
    except ValidationError as error:
        raise RecipeError(f"{origin}: {problems(error, 'recipe')}") from error


def _place_adapters(table: object, folder: Path) -> None:
    files = table.get("files") if isinstance(table, dict) else None
    _place(files, tuple(files) if isinstance(files, dict) else (), folder)


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
