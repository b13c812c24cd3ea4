"""The settings of a training, from TOML and from a command line; unknown keys are errors."""

from collections.abc import Mapping, Sequence
from importlib import resources
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from resight.errors import RecipeError
from resight.learning.adversarial import AdversarialStage
from resight.learning.datasets.augment import Augmentation, Fit
from resight.learning.datasets.photos import Singletons
from resight.learning.losses.stages import LossStage, SiameseStage
from resight.learning.mining.stages import AllStage, MemoryStage, MinerStage, PoolStage, Sampling
from resight.learning.model_settings import Learns
from resight.learning.old import OldStage
from resight.learning.optimisation import Optimisation
from resight.parsing import parse_toml
from resight.recipes.stage import problems


class Training(Optimisation):
    """How a recipe is trained.

    scheme: what of the recipe is trained, and in which phases, by a name in ``resight.learning.schemes``; "auto" takes
        what the recipe has: delf or how of [local], a [[rerank]] table without its model, or else its [global] vector.
    loss, miner, sampling, learns, augment: tables of their own. memory: of descriptors of earlier batches, for losses
        of pairs and triplets. In a file ``batch = B`` is short for sampling.classes = B / sampling.each.
    chunk: pictures through the network at once, which bounds memory; gradients are those of the whole batch.
    side, fit: of the pictures learned from, in pixels: square, or the longest with each photo's own aspect.
    validation_side: longest side of the pictures validated on while it trains; 0 takes ``side``.
    adversarial: a table, where anchors are altered within ε a value so that they are hard to describe; each step of it
        costs as much again as learning from them.
    old: a table, of a network before this one, whose collections its vectors are to search, or that is not to be
        forgotten.
    views: where the network's beginning does not learn, what it gives for so many augmented views of each photo is kept
        on disk, and epochs take them in turn; 0 computes it anew each time. views_dtype: float16 takes half the room.
    whitening: learned afterwards, of the training photos: "learned" from pairs that match, "pca", or "none"; "auto" is
        pca where the recipe whitens, but none where a projection is learned with the network. dimensions: after it; 0
        for the recipe's.
    readers: threads that read pictures. budget: MiB of photos kept in memory: reduced ones, so that not each epoch
        decodes, and a batch's pictures for the second pass.
    singletons: what is done about an object with one photo. whole: leave aside the boxes that queries have.
    unreadable: what is done about a photo that cannot be read.
    """

    scheme: str = "auto"
    loss: LossStage = SiameseStage(kind="siamese")
    miner: MinerStage = AllStage()
    sampling: Sampling = Sampling()
    memory: MemoryStage | None = None
    learns: Learns = Learns()
    augment: Augmentation = Augmentation()
    adversarial: AdversarialStage | None = None
    old: OldStage | None = None
    chunk: int = Field(default=16, ge=1)
    side: int = Field(default=352, ge=32)
    fit: Fit = "square"
    validation_side: int = Field(default=0, ge=0)
    views: int = Field(default=0, ge=0)
    views_dtype: Literal["float16", "float32"] = "float16"
    whitening: Literal["auto", "learned", "pca", "none"] = "auto"
    dimensions: int = Field(default=0, ge=0)
    readers: int = Field(default=2, ge=1)
    budget: int = Field(default=1024, ge=0)
    singletons: Singletons = "error"
    whole: bool = False
    unreadable: Literal["error", "skip"] = "error"

    @model_validator(mode="before")
    @classmethod
    def _batch_is_classes(cls, table: Any) -> Any:
        if not isinstance(table, dict) or "batch" not in table:
            return table
        table = dict(table)
        batch, sampling = table.pop("batch"), table.get("sampling", {})
        if not isinstance(batch, int) or not isinstance(sampling, dict):
            raise ValueError(f"batch must be a number of photos, not {batch!r}")
        each = sampling.get("each", Sampling().each)
        if batch % each or batch // each < 2:
            raise ValueError(f"batch = {batch} must be a multiple of sampling.each = {each}, of two objects at least")
        if sampling.get("classes", batch // each) != batch // each:
            raise ValueError(f"batch = {batch} and sampling.classes × each contradict one another: give one of them")
        return {**table, "sampling": {**sampling, "classes": batch // each}}

    @model_validator(mode="after")
    def _parts_fit(self) -> "Training":
        if self.memory is not None and isinstance(self.miner, PoolStage):
            raise ValueError("memory goes with tuples chosen in the batch; those of miner = pool are of the epoch")
        if self.views and self.adversarial is not None:
            raise ValueError("adversarial pictures are other ones at each step, which no view keeps: say views = 0")
        if self.views and self.fit != "square":
            raise ValueError('views are kept of pictures of one size: say fit = "square", or views = 0')
        if (
            self.old is not None
            and self.old.replay
            and (isinstance(self.miner, PoolStage) or self.sampling.kind != "balanced")
        ):
            raise ValueError('old.replay is of balanced batches: say sampling.kind = "balanced", and no miner = pool')
        return self

    @property
    def batch(self) -> int:
        """Photos of a batch of classes × each."""
        return self.sampling.classes * self.sampling.each

    @property
    def identity(self) -> dict[str, Any]:
        """What of the settings decides a run, by dotted key; another number of devices or readers does not."""
        outside = {"devices", "accelerator", "readers", "budget", "checkpoint_every"}
        if self.adversarial is None:
            outside.add("adversarial")  # runs that began before there was any can go on
        if self.old is None:
            outside.add("old")
        table = self.model_dump(mode="json", exclude=outside)
        del table["sampling"]["sets"]  # of several sets, which ``identity_of`` adds
        return dict(flat(table))


def load_settings(name: str | Path | None = None, changes: Sequence[str] = (), **given: Any) -> Training:
    """Settings from a TOML file, or a ready one by its name; without one, the defaults.

    changes: "key=value" with dotted keys, such as "loss.margin=0.7", values as in TOML; text needs no quotes.
    given: whole keys, which come first; those that are None are left out.
    Raises RecipeError naming the file and the key.
    """
    origin = "settings" if name is None else str(name)
    table = table_of(name, changes, **given)
    if "unlabelled" in table:
        raise RecipeError(f"{origin}: has a table unlabelled, of photos without labels: give these by --unlabelled")
    for key, kind in (("loss", "siamese"), ("miner", "all")):
        if isinstance(table.get(key), dict):
            table[key].setdefault("kind", kind)
    try:
        return Training.model_validate(table)
    except ValidationError as error:
        raise RecipeError(f"{origin}: {problems(error, 'settings')}") from error


def table_of(name: str | Path | None, changes: Sequence[str], **given: Any) -> dict[str, Any]:
    """The table of settings as ``load_settings`` takes them, unchecked. Raises RecipeError naming the file."""
    table = {} if name is None else read_settings(name)
    for key, value in given.items():
        if value is not None:
            if key == "batch":
                table.get("sampling", {}).pop("classes", None)
            table[key] = value
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals or not key:
            raise RecipeError(f"{change!r} is no setting: write KEY=VALUE, as in loss.margin=0.7")
        _put(table, key.strip(), read_value(text.strip()))
    return table


def settings_names() -> tuple[str, ...]:
    """Names of the settings that come with resight, each of a published training."""
    folder = resources.files(__package__) / "settings_files"
    return tuple(sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")))


def settings_text(name: str) -> str:
    """The commented TOML of ready settings; RecipeError for an unknown name."""
    if name not in settings_names():
        raise RecipeError(f"no settings {name!r}; there are {', '.join(settings_names())}, or give a .toml file")
    return (resources.files(__package__) / "settings_files" / f"{name}.toml").read_text(encoding="utf-8")


def settings_title(name: str) -> str:
    """What ready settings are of, as their comment begins; RecipeError for an unknown name."""
    head = takewhile(lambda line: "resight train" not in line, settings_text(name).splitlines())
    return " ".join(line.removeprefix("#").strip() for line in head)


def read_settings(name: str | Path) -> dict[str, Any]:
    """The table of a TOML file, or of ready settings by their name; RecipeError where it cannot be read."""
    path = Path(name)
    try:
        if path.suffix == ".toml" or path.is_file():
            return parse_toml(path.read_text(encoding="utf-8"))
        return parse_toml(settings_text(str(name)))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read: {error}") from error
    except ValueError as error:
        raise RecipeError(f"{path}: not valid TOML: {error}") from error


def read_value(text: str) -> Any:
    """A value as in TOML; text that is none is itself."""
    try:
        return parse_toml(f"value = {text}")["value"]
    except ValueError:
        return text


def _put(table: dict[str, Any], key: str, value: Any) -> None:
    *way, last = key.split(".")
    for step in way:
        inner = table.setdefault(step, {})
        if not isinstance(inner, dict):
            raise RecipeError(f"{key}: {step} is no table of settings")
        table = inner
    table[last] = value


def flat(table: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    """Dotted keys and values of nested tables."""
    found: list[tuple[str, Any]] = []
    for key, value in table.items():
        found += flat(value, f"{before}{key}.") if isinstance(value, Mapping) else [(before + key, value)]
    return found
