"""Learning what a recipe's stages need from photos."""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tomli_w
from numpy.typing import NDArray

from resight.describe.describer import load_global
from resight.describe.fit_local import learn_reduction, place_local, relative
from resight.describe.folder import check_empty
from resight.describe.local_features import load_local
from resight.embedding.codebook import Codebook, choose_words
from resight.errors import ImageError, RecipeError
from resight.fitted import PhotoSketch
from resight.images.apart import run_apart
from resight.images.image import Image
from resight.images.read import read_with_digest
from resight.images.sources import find_sources
from resight.local.hamming_filter import Signer
from resight.projection.moments import Moments, running_moments
from resight.projection.pca import pca, pca_whitening
from resight.projection.projection import Projection
from resight.recipes.attention import Attention, ClassToken, Saliency
from resight.recipes.local_stages import LocalStage
from resight.recipes.network_stages import GlobalStage, MapRpn
from resight.recipes.recipe import CodebookStage, HammingStage, HashStage, Recipe, load_recipe
from resight.recipes.rerank_stages import MatchingStage, ModelStage, PatchStage, RerankStage

if TYPE_CHECKING:  # it imports torch, which a recipe without a network does not need
    from resight.describe.global_descriptor import GlobalDescriber

_QUANTISED_ON = 300  # photos, all kept in memory
_DESCRIPTORS = 1_048_576  # that a codebook is learned from: 16 for each of 65,536 words


def fit_recipe(
    recipe: str | Path,
    paths: Sequence[str | Path],
    *,
    weights: Path | None,
    into: Path,
    sample: int = 5000,
    seed: int = 0,
    int8: bool = False,
    local_weights: Path | None = None,
    progress: Callable[[str, int, int | None], None] = lambda phase, done, total: None,
) -> Path:
    """Learn from photos what a recipe learns, and write a fitted recipe: a folder with recipe.toml and artefacts.

    A network recipe learns what its poolings and embeddings have not learned yet, and its PCA-whitening anew (its
    codebook, if it has one, is learned from each collection); a recipe without a network learns its codebook, and what
    [hamming] needs. At most `sample` photos, drawn with `seed`, are read; unreadable ones are passed over.
    int8: also write its networks in 8 bits, for which the rest is then learned. local_weights: a file, or for some a
        folder, of the network that finds or describes local features, in place of the recipe's own.
    progress: called with phase, done, total.
    Returns `into`. Raises RecipeError if the photos are too few, the recipe learns nothing, or `into` is not empty.
    """
    base = load_recipe(recipe)
    if weights is not None and base.global_ is None:
        raise RecipeError(f"recipe {base.name} has no network; leave out --weights")
    if int8 and base.global_ is None:
        raise RecipeError(f"recipe {base.name} has no network; leave out --int8")
    if local_weights is not None and base.local is None:
        raise RecipeError(f"recipe {base.name} has no local features; leave out --local-weights")
    if base.global_ is None and base.codebook is None:
        raise RecipeError(f"recipe {base.name} learns nothing, so there is nothing to fit")
    check_empty(into)
    photos = _drawn(paths, sample, seed)
    fitted_on = f"{len(photos):,} photos of {', '.join(str(p) for p in paths)} (seed {seed})"
    into.mkdir(parents=True, exist_ok=True)
    update: dict[
        str, GlobalStage | LocalStage | CodebookStage | HammingStage | HashStage | tuple[RerankStage, ...] | None
    ] = {"adapters": None}  # which are of the descriptors from before the fit
    if base.hash is not None and base.hash.path:
        # Not copied: it is of the descriptors from before the fit.
        update["hash"] = base.hash.model_copy(update={"path": Path(base.hash.path).name})
    if base.rerank:
        update["rerank"] = tuple(copy_model(s, into, place) for place, s in enumerate(base.rerank))
    if base.local is not None:
        local = place_local(base.local, local_weights, into, base.name)
        images = _read(photos, base.image.max_side, [], "learning from local features", progress)
        local = learn_reduction(local, images, into, fitted_on)
        base = base.model_copy(update={"local": local})
        update["local"] = relative(local, into)
    if base.global_ is not None:
        update["global_"] = _fit_global(base.global_, base, photos, weights, into, fitted_on, int8, progress)
    elif base.codebook is not None:
        update |= _fit_words(base.codebook, base, photos, into, fitted_on, progress)
    table = base.model_copy(update=update).model_dump(by_alias=True, exclude_none=True)
    (into / "recipe.toml").write_text(tomli_w.dumps(table), encoding="utf-8")
    return into


def _drawn(paths: Sequence[str | Path], sample: int, seed: int) -> list[str]:
    origins = [source.origin for source in find_sources(paths, on_problem=lambda origin, reason: None)]
    if not origins:
        raise RecipeError(f"no photos in {', '.join(str(p) for p in paths)} to learn from")
    drawn = np.random.default_rng(seed).permutation(len(origins))[:sample]
    return [origins[i] for i in np.sort(drawn)]


def _read(
    photos: Sequence[str],
    max_side: int,
    digests: list[str],
    phase: str,
    progress: Callable[[str, int, int | None], None],
) -> Iterator[Image]:
    """The readable photos. digests: gets the digest of the content of each."""
    for done, origin in enumerate(photos, 1):
        try:
            image, content = run_apart(read_with_digest, origin, max_side)
            digests.append(content)
            yield image
        except ImageError:
            continue
        finally:
            progress(phase, done, len(photos))


def _fit_global(
    stage: GlobalStage,
    recipe: Recipe,
    photos: Sequence[str],
    weights: Path | None,
    into: Path,
    fitted_on: str,
    int8: bool,
    progress: Callable[[str, int, int | None], None],
) -> GlobalStage:
    given = {"weights": str(weights.absolute()), "revision": "", "weights_sha256": ""} if weights else {}
    also = tuple({key: value for key, value in other.items() if key != "whitening"} for other in stage.also)
    unfitted = stage.model_copy(update={"whitening": "", "also": also, **given})
    if int8:
        unfitted = with_branches(unfitted, {place: {"quantised": ""} for place in range(len(unfitted.branches))})
    describer = load_global(unfitted, recipe.name)
    if int8:
        some = photos[:: -(-len(photos) // _QUANTISED_ON)]
        images = _read(some, recipe.image.max_side, [], "quantising", progress)
        prepared = [describer.prepare(image.pixels) for image in images]
        written = describer.quantise(prepared, into, f"{len(prepared)} of {fitted_on}")
        unfitted = with_branches(unfitted, {p: {"quantised": str(into / name)} for p, name in written.items()})
        describer = load_global(unfitted, recipe.name)
    if describer.unlearned:
        from resight.describe.learn import learn_heads, save_learned

        read: list[str] = []
        images = _read(photos, recipe.image.max_side, read, "learning from features", progress)
        learned = learn_heads(describer, images, len(photos), fitted_on)
        sketch = PhotoSketch.of(read)
        files = {place: save_learned(value, into, place, sketch) for place, value in learned.items()}
        placed = {place: {key: str(into / name) for key, name in each.items()} for place, each in files.items()}
        unfitted = with_branches(unfitted, placed)
        describer = load_global(unfitted, recipe.name)
    fitted: dict[int, dict[str, Any]] = {}
    copied: dict[str, str] = {}
    for place, (branch, sha256) in enumerate(zip(unfitted.branches, describer.weights_sha256, strict=True)):
        if branch.weights and branch.weights not in copied:
            copied[branch.weights] = _copy_weights(Path(branch.weights), into, len(copied))
        chosen = copied.get(branch.weights, "")
        fitted[place] = {"weights": chosen, "revision": branch.revision, "weights_sha256": sha256}
        if branch.attention is not None:
            fitted[place]["attention"] = _copy_attention(branch.attention, into, place)
        if isinstance(branch.scheme, MapRpn) and branch.scheme.model:
            copy = copy_learned(Path(branch.scheme.model), into, place)
            fitted[place]["scheme"] = branch.scheme.model_copy(update={"model": copy})
        for key in ("learned", "reduction", "quantised"):
            if file := getattr(branch, key):
                fitted[place][key] = copy_learned(Path(file), into, place)
    if stage.whiten != "none":
        digests: list[str] = []
        images = _read(photos, recipe.image.max_side, digests, "learning the whitening", progress)
        for place, whitening in enumerate(fit_whitenings(describer, images, fitted_on)):
            fitted[place]["whitening"] = "whitening.safetensors" if place == 0 else f"whitening-{place + 1}.safetensors"
            replace(whitening, photos=PhotoSketch.of(digests)).save(into / fitted[place]["whitening"])
    return with_branches(unfitted, fitted)


def with_branches(stage: GlobalStage, changes: Mapping[int, Mapping[str, Any]]) -> GlobalStage:
    """The stage with keys of its branches changed, by the branch's place."""
    also = tuple({**other, **changes.get(place, {})} for place, other in enumerate(stage.also, 1))
    return stage.model_copy(update={**changes.get(0, {}), "also": also})


def copy_learned(file: Path, into: Path, place: int) -> str:
    """Copy what a branch has learned before, unless it was learned just now; its name in ``into``."""
    if file.parent == into:
        return file.name
    name = file.name if place == 0 else f"{file.stem}-{place + 1}{file.suffix}"
    shutil.copyfile(file, into / name)
    if file.suffix == ".xml":  # a network, whose weights lie beside it
        shutil.copyfile(file.with_suffix(".bin"), (into / name).with_suffix(".bin"))
    return name


def _copy_attention(attention: Attention, into: Path, place: int) -> Attention:
    """Copy the weights of a branch's attention, if it has any; the stage that names the copy in ``into``."""
    if isinstance(attention, Saliency | ClassToken):
        return attention
    from resight.networks.weights import file_sha256  # it imports torch

    file = Path(attention.weights)
    name = f"attention{'' if place == 0 else f'-{place + 1}'}{file.suffix}"
    shutil.copyfile(file, into / name)
    return attention.model_copy(update={"weights": name, "weights_sha256": file_sha256(file)})


def copy_model(stage: RerankStage, into: Path, place: int) -> RerankStage:
    """Copy what a stage of re-ranking learned, if it is one that learns; the stage that names the copy in ``into``."""
    if isinstance(stage, PatchStage) and stage.hash:
        return stage.model_copy(update={"hash": Path(stage.hash).name})  # as that of [hash]
    if not isinstance(stage, ModelStage | MatchingStage) or not stage.model:
        return stage
    from resight.networks.weights import check_sha256, file_sha256  # it imports torch

    sha256 = file_sha256(stage.model)
    check_sha256(sha256, stage.model_sha256, stage.model)
    name = f"rerank-{place + 1}{Path(stage.model).suffix}"
    shutil.copyfile(stage.model, into / name)
    return stage.model_copy(update={"model": name, "model_sha256": sha256})


def _copy_weights(weights: Path, into: Path, taken: int) -> str:
    """Copy weights and what they come with, since a fitted recipe is to work wherever it is moved; the file's place."""
    # The first lie beside the recipe; further ones, whose names could be the same, in folders of their own.
    folder = Path() if taken == 0 else Path(f"network-{taken + 1}")
    (into / folder).mkdir(exist_ok=True)
    shutil.copyfile(weights, into / folder / weights.name)
    meta = weights.with_name("meta.json")
    if meta.is_file():
        shutil.copyfile(meta, into / folder / "meta.json")
    return (folder / weights.name).as_posix()


def _fit_words(
    stage: CodebookStage,
    recipe: Recipe,
    photos: Sequence[str],
    into: Path,
    fitted_on: str,
    progress: Callable[[str, int, int | None], None],
) -> dict[str, CodebookStage | HammingStage]:
    if recipe.local is None:
        raise RecipeError(f"recipe {recipe.name} has a codebook but no local features")
    rng = np.random.default_rng(stage.seed)
    share = max(1, _DESCRIPTORS // len(photos))
    extractor = load_local(recipe.local, recipe.name)
    parts: list[NDArray[np.uint8 | np.int8 | np.float32]] = []
    digests: list[str] = []
    for image in _read(photos, recipe.image.max_side, digests, "learning the codebook", progress):
        descriptors = extractor.extract(image).descriptors
        parts.append(descriptors[np.sort(rng.permutation(len(descriptors))[:share])])
    sample = np.concatenate(parts) if parts else np.empty((0, 1), np.uint8)
    words = stage.words or choose_words(len(sample))
    if len(sample) < words:
        raise RecipeError(f"{len(sample):,} features cannot make {words:,} visual words: give more photos")
    codebook = Codebook.fit(sample, words, seed=stage.seed, fitted_on=fitted_on)
    replace(codebook, photos=PhotoSketch.of(digests)).save(into / "codebook.safetensors")
    fitted: dict[str, CodebookStage | HammingStage] = {
        "codebook": stage.model_copy(update={"path": "codebook.safetensors"})
    }
    if (hamming := recipe.hamming) is not None:
        signer = Signer.fit(codebook, sample, hamming.bits, seed=stage.seed, fitted_on=fitted_on)
        signer.save(into / "hamming.safetensors")
        fitted["hamming"] = hamming.model_copy(update={"path": "hamming.safetensors"})
    return fitted


def fit_whitenings(describer: "GlobalDescriber", images: Iterable[Image], fitted_on: str) -> list[Projection]:
    """The PCA-whitenings that ``describer`` needs, learned from images, each read once.

    fitted_on: which photos these are, in words for reports; not those that will be searched.
    Raises RecipeError unless there are more images, or regions of them, than dimensions.
    """
    lengths, descriptors = describer.stage.lengths, describer.raw_fingerprints
    moments: list[Moments] = []
    from resight.describe.learn import prepared_batches

    for batch in prepared_batches(describer, images):
        samples = describer.samples(batch)
        if not moments:
            moments = [running_moments(x.shape[1], length) for x, length in zip(samples, lengths, strict=True)]
        for moment, x in zip(moments, samples, strict=True):
            moment.update(x)
    if not moments:
        raise RecipeError("none of the photos to learn the whitening from can be read")
    learn = pca if describer.stage.projection == "pca" else partial(pca_whitening, ridge=describer.stage.ridge)
    return [
        learn(moment, length, fitted_on=fitted_on, descriptor=descriptor)
        for moment, length, descriptor in zip(moments, lengths, descriptors, strict=True)
    ]
