"""The hash function of a collection whose recipe has [hash], and the codes of its images (survey §4.2.4)."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resight.errors import CollectionError, RecipeError
from resight.hashing.function import HashFunction
from resight.hashing.methods import fit_method, lacks_vectors
from resight.recipes.recipe import HashStage, Recipe
from resight.store.code_log import CodeLog
from resight.store.indexing import GROWTH, Progress
from resight.store.store import Snapshot, Store
from resight.store.vector_indexing import vector_blocks, vector_sample

_SAMPLE = 100_000  # descriptors that a function is learned from, at most


def hash_function(store: Store) -> HashFunction | None:
    """What the collection hashes with, or None where it has learned none yet; CollectionError where it is damaged."""
    name = store.catalogue.get("hash")
    if name is None:
        return None
    try:
        return HashFunction.load(store.data / name)
    except RecipeError as error:
        if store.catalogue.get("hash") != name:  # a writer has replaced it in this moment
            return hash_function(store)
        store.check_current()
        raise CollectionError(f"{error}; `resight refit` learns a new one") from error


def needed_function(store: Store) -> HashFunction:
    """What the collection hashes with. Raises CollectionError, saying what to do, where it has learned none yet."""
    function, stage = hash_function(store), store.recipe.hash
    if function is not None:
        return function
    if stage is not None and stage.from_file:
        raise CollectionError(
            f"{store.folder}: {stage.path}, which its recipe hashes by, is not learned yet: run `resight hash fit "
            f"COLLECTION --method {stage.method} --bits {stage.bits} --into {stage.path}` with a collection of this "
            "recipe, and index again"
        )
    raise CollectionError(
        f"{store.folder}: its {len(store.snapshot()):,} images are too few to learn a hash function from; index "
        "more photos, or choose a recipe whose [hash] has fewer bits or a path"
    )


def refresh_codes(store: Store, report: Callable[[Progress], None], *, again: bool = False) -> None:
    """Learn the hash function if there is none yet, and encode the images that have no code.

    again: learn a new one. There is none as long as there are too few images to learn it from, or a method that learns
    from more than their vectors has not been given its file.
    """
    if store.recipe.hash is None:
        return
    function = None if again else hash_function(store)
    if function is None:
        fingerprint = str(store.catalogue.get("fingerprint"))
        function = learn_function(
            store.recipe, fingerprint, lambda count, seed: vector_sample(store, store.snapshot(), count, seed), report
        )
        if function is None:
            return
        set_function(store, function)
    log = CodeLog(store.data, function.fingerprint, function.bits)
    log.sweep()
    snapshot = store.snapshot()
    lacking = snapshot.take(np.flatnonzero(~log.find(snapshot.ids)[0] & (snapshot.vectors_at >= 0)))
    done = 0
    for ids, vectors in vector_blocks(store, lacking):
        report(Progress("hashing", done, len(lacking)))
        CodeLog(store.data, function.fingerprint, function.bits).append(ids, function.encode(vectors))
        done += len(ids)


def set_function(store: Store, function: HashFunction) -> None:
    """Make a function what the collection hashes with; images have their codes after ``refresh_codes``."""
    name = f"hash-{function.fingerprint[:12]}.safetensors"
    function.save(store.data / name)
    with store.catalogue.transaction():
        store.catalogue.set("hash", name)


def growth(store: Store) -> str | None:
    """What to do where the function was learned when there were far fewer images, in words; None where it was not."""
    stage = store.recipe.hash
    if stage is None or stage.path or (function := hash_function(store)) is None:
        return None
    images = store.catalogue.rows("SELECT count(*) FROM images WHERE vector_at IS NOT NULL")[0][0]
    if images < GROWTH * function.n or function.n >= _SAMPLE:
        return None
    return (
        f"The hash function was learned from {function.n:,} images; now there are {images:,}. "
        f"`resight refit {store.folder}` learns it from all, and their codes will agree better with their vectors."
    )


def codes_of(store: Store, snapshot: Snapshot, function: HashFunction) -> NDArray[np.uint8]:
    """The codes of a snapshot's images, N×B/8; zeros for those without a descriptor.

    Those that the log lacks, as when a writer was interrupted, are made from the descriptors.
    """
    there, known = CodeLog(store.data, function.fingerprint, function.bits).find(snapshot.ids)
    if there.all():
        return known
    codes = np.zeros((len(snapshot), function.bits // 8), np.uint8)
    codes[there] = known
    rows = np.flatnonzero(~there & (snapshot.vectors_at >= 0))
    made = [function.encode(vectors) for _, vectors in vector_blocks(store, snapshot.take(rows))]
    if made:
        codes[rows] = np.concatenate(made)
    return codes


def learn_function(
    recipe: Recipe,
    fingerprint: str,
    sample: Callable[[int, int], NDArray[np.float32]],
    report: Callable[[Progress], None],
) -> HashFunction | None:
    """As [hash] says: from a file, or from the collection's own descriptors; None where they are too few.

    fingerprint: of the collection. sample: draws at most so many of its descriptors, with a seed; S×D.
    """
    stage, globals_ = recipe.hash, recipe.global_
    if stage is None or globals_ is None:
        raise ValueError("the recipe has no [hash]")
    if stage.from_file and not Path(stage.path).is_file():
        return None
    if stage.path:
        return _given(recipe, fingerprint, stage, sum(globals_.lengths))
    report(Progress("learning the hash function", 0, None))
    vectors = sample(_SAMPLE, stage.seed)
    if len(vectors) <= stage.bits or lacks_vectors(stage.method, len(vectors), vectors.shape[1], stage.bits):
        return None
    return fit_method(
        stage.method, vectors, stage.bits, seed=stage.seed, fitted_on=f"the collection itself, {len(vectors):,} images"
    )


def _given(recipe: Recipe, fingerprint: str, stage: HashStage, dimension: int) -> HashFunction:
    """The function in a file. Raises RecipeError where it does not suit the recipe."""
    function = HashFunction.load(Path(stage.path))
    if function.dimension != dimension:
        raise RecipeError(
            f"{stage.path}: hashes {function.dimension} entries, and recipe {recipe.name} has descriptors of "
            f"{dimension}; learn one from a collection of this recipe with `resight hash fit`"
        )
    if stage.from_file and (function.kind, function.bits) != (stage.method, stage.bits):
        raise RecipeError(
            f"{stage.path}: is {function.kind} of {function.bits} bits, and recipe {recipe.name} says "
            f"{stage.method} of {stage.bits}: change [hash], or learn another with `resight hash fit`"
        )
    # SAH learns how features are aggregated too, so that its codes are of no other aggregation's vectors.
    if function.kind == "sah" and function.descriptor != fingerprint:
        raise RecipeError(
            f"{stage.path}: was learned with other features, or another ridge, than recipe {recipe.name} has: "
            "learn it again from a collection of this very recipe with `resight hash fit`"
        )
    return function
