"""What pooling, length or layer does to mAP, on labelled sets, with any network (the survey's Fig. 11).

Ranked by cosine; trapezoidal AP.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from resight.describe.describer import load_global
from resight.errors import GroundTruthError, ImageError, RecipeError, ResightError
from resight.evaluation.labelled import LabelledSet
from resight.evaluation.measure import versions
from resight.evaluation.plot import Kind, Result, Study
from resight.evaluation.variants import Described, Report, Variants, cosines, measure, reading, silent
from resight.fitted import PhotoSketch
from resight.images.image import Image
from resight.images.read import digest, load
from resight.images.sources import find_sources
from resight.projection.moments import gather
from resight.projection.pca import pca, pca_whitening
from resight.projection.projection import Projection
from resight.recipes.network_stages import WEIGHTS, GlobalStage
from resight.recipes.recipe import Recipe

RANKED = "ties in the database's order; a query that is in the database is left out of its own ranking; junk removed"
_LEAST, _MOST = 32, 8192  # dimensions, as in the survey's Fig. 11 (c)

# Of a map, without learning. Average and sum differ in length only, so the unit vectors that are compared are equal.
POOLINGS: Mapping[str, Mapping[str, Any]] = {
    "average": {"pooling": "average"},
    "sum": {"pooling": "sum"},
    "mac": {"pooling": "mac"},
    "gem": {"pooling": {"kind": "gem", "p": 3.0}},
    "spoc": {"pooling": "spoc"},
    "crow": {"pooling": "crow"},
    "gram": {"pooling": "gram"},
    "r-mac": {"pooling": "mac", "scheme": {"kind": "grid"}},
}


@dataclass(frozen=True)
class Photos:
    """What projections are learned from. fitted_on: which these are, in words."""

    origins: tuple[str, ...]
    fitted_on: str


def draw_photos(paths: Sequence[str | Path], sample: int = 5000, seed: int = 0) -> Photos:
    """At most ``sample`` of the photos that the paths name, drawn as `resight fit` draws them.

    Raises ResightError where a path does not exist or there is no photo.
    """
    origins = [source.origin for source in find_sources(paths, on_problem=lambda origin, reason: None)]
    named = ", ".join(map(str, paths))
    if not origins:
        raise ResightError(f"no photos in {named} to learn from: name a folder that has some")
    drawn = np.sort(np.random.default_rng(seed).permutation(len(origins))[:sample])
    return Photos(tuple(origins[place] for place in drawn), f"{len(drawn):,} photos of {named} (seed {seed})")


def study_pooling(
    sets: Sequence[LabelledSet],
    recipe: Recipe,
    *,
    fit: Photos | None = None,
    dimensions: int | None = None,
    report: Report = silent,
) -> Study:
    """mAP by pooling of the recipe's first layer, at its sides and scales; its scheme and fusion are left out.

    fit: photos from which SBA and the mean feature of heat diffusion are learned, and a PCA-whitening of each pooling
        to ``dimensions``; by default 512, or as many as channels and photos allow. Without it heat diffusion has no
        mean, and nothing is whitened.
    Raises RecipeError where the recipe has no network, its layer no positions, or the photos are too few.
    """
    stage = network_stage(sets, recipe)
    if dimensions is not None and fit is None:
        raise RecipeError("there are no photos to learn a whitening to these dimensions from: give --fit PHOTOS")
    base = plain_table(stage)
    channels = _channels(base["network"], base["layer"])
    if dimensions is not None and dimensions > channels:
        raise RecipeError(f"layer {base['layer']} of {base['network']} has {channels} channels: lower --dimensions")
    if fit is not None:
        _check_enough(len(fit.origins), dimensions or 2, fit)
    with tempfile.TemporaryDirectory(prefix="resight-study-") as folder:
        tables = {name: {**base, **table} for name, table in POOLINGS.items()}
        tables |= _learned_poolings(base, channels, fit, Path(folder), recipe, report)
        variants = Variants.of(tables, reading(recipe), recipe.name)
    projections: dict[str, list[Projection]] = {}
    if fit is not None:
        fit, described = _described(fit, dimensions or 2, variants, report)
        for (name, x), made_by in zip(described.vectors.items(), variants.describer.raw_fingerprints, strict=True):
            most = min(512, x.shape[1], len(x) - 1) if dimensions is None else dimensions
            moments = gather([x], most)
            projections[name] = [pca_whitening(moments, most, fitted_on=fit.fitted_on, descriptor=made_by)]
    return run_study("pooling", sets, recipe, variants, projections, fit, report)


def study_dimensions(sets: Sequence[LabelledSet], recipe: Recipe, *, fit: Photos, report: Report = silent) -> Study:
    """mAP by the length to which PCA and PCA-whitening bring the recipe's descriptor: 32, 64, …, all, or 8192.

    fit: photos that both are learned from; there are fewer dimensions than photos. The whole descriptor is whitened,
    also where the recipe whitens regions.
    Raises RecipeError where the recipe has no network or fuses late, or the photos are too few.
    """
    stage = network_stage(sets, recipe)
    if stage.late:
        raise RecipeError(f"recipe {recipe.name} keeps its branches' vectors apart: study a recipe of one vector")
    _check_enough(len(fit.origins), _LEAST, fit)
    describer = load_global(stage.model_copy(update={"whitening": "", "whiten": "image"}), recipe.name)
    variants = Variants((recipe.name,), describer, reading(recipe))
    fit, described = _described(fit, _LEAST, variants, report)
    x = described.vectors[recipe.name]
    lengths = halvings(x.shape[1], len(x) - 1)
    moments = gather([x], lengths[-1])
    made_by = describer.raw_fingerprints[0]
    longest = [
        learn(moments, lengths[-1], fitted_on=fit.fitted_on, descriptor=made_by) for learn in (pca, pca_whitening)
    ]
    # The first axes of a longer projection are the shorter one.
    projections = [replace(each, matrix=each.matrix[:length]) for each in longest for length in lengths]
    return run_study("dimensions", sets, recipe, variants, {recipe.name: projections}, fit, report)


def study_layers(sets: Sequence[LabelledSet], recipe: Recipe, *, report: Report = silent) -> Study:
    """mAP by layer of the recipe's first network, from low to high, under GeM (p = 3); maps with plain names only.

    Raises RecipeError where the recipe has no network.
    """
    from resight.networks.sketch import Sketch

    base = {**plain_table(network_stage(sets, recipe)), **POOLINGS["gem"]}
    maps = [layer for layer in Sketch(base["network"]).layers() if layer.kind == "map"]
    by_module = {layer.module: layer.name for layer in maps}  # VGG's conv1_2 is conv1: one row
    tables = {name: {**base, "layer": name} for name in by_module.values()}
    variants = Variants.of(tables, reading(recipe), recipe.name)
    return run_study("layers", sets, recipe, variants, {}, None, report)


def halvings(length: int, most: int) -> list[int]:
    """32, 64, … up to the least of a vector's length, ``most`` and 8192; and the length itself where it is no more."""
    most = min(most, _MOST)
    powers = [d for d in (_LEAST << bits for bits in range(20)) if d < length and d <= most]
    return [*powers, length] if length <= most else powers


def run_study(
    kind: Kind,
    sets: Sequence[LabelledSet],
    recipe: Recipe,
    variants: Variants,
    projections: Mapping[str, Sequence[Projection]],
    fit: Photos | None,
    report: Report,
) -> Study:
    """Every variant on every set, as it is and under each of its projections.

    projections: by variant, learned from the photos ``fit``.
    """
    sketches = [] if fit is None else [PhotoSketch.of(digest(load(origin)) for origin in fit.origins)]
    sketches += [part.photos for part in variants.describer.fitted.values() if part.photos is not None]
    results, facts = [], {}
    for labelled in sets:
        pictures = [(labelled.locate(path), None) for path in labelled.database]
        database = variants.describe(pictures, f"describing {labelled.name}", report)
        if not database.places:
            raise GroundTruthError(f"{labelled.file}: none of the database's images can be read: {database.unread[0]}")
        queries, rows = variants.queries(labelled, database, report), database.rows(labelled.database)
        for name, x in database.vectors.items():
            asked = queries[name]
            score = measure(labelled, cosines(asked, x), rows)
            results.append(Result(labelled.name, name, "none", x.shape[1], score))
            for each in projections.get(name, ()):
                score = measure(labelled, cosines(each.transform(asked), each.transform(x)), rows)
                results.append(Result(labelled.name, name, each.kind, each.dimension, score))
        own = [path for path in labelled.own if path in rows]
        digests = [digest(load(str(labelled.locate(path)))) for path in own] if sketches else []
        shares = [sketch.share_in(digests) for sketch in sketches]
        share = max((share for share in shares if share is not None), default=None)
        facts[labelled.name] = set_facts(labelled, database.unread, share)
    branch = variants.describer.stage.branches[0]
    protocol = {
        "recipe": recipe.name,
        "network": branch.network,
        **({} if kind == "layers" else {"layer": branch.layer}),
        "weights": variants.describer.weights_sha256[0],
        "pictures": f"of at most {branch.max_side} px, at scales {', '.join(f'{scale:g}' for scale in branch.scales)}",
        **({"fitted on": fit.fitted_on} if fit else {}),
        "figures": f"mAP, trapezoidal; by cosine; {RANKED}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "sets": facts,
    }
    return Study(kind, protocol, tuple(results))


def set_facts(labelled: LabelledSet, unread: Mapping[int, str], fitted_share: float | None) -> dict[str, Any]:
    """What a study tells of a set. unread: place in its database → reason. fitted_share: of it, learned from."""
    return {
        "revision": labelled.revision,
        "selection": labelled.selection,
        "database": len(labelled.database),
        "queries": len(labelled.queries),
        "unread": {labelled.database[place]: reason for place, reason in unread.items()},
        "fitted_share": fitted_share,
    }


def check_names(sets: Sequence[LabelledSet]) -> None:
    """GroundTruthError where two sets have one name."""
    names = [labelled.name for labelled in sets]
    for labelled in sets:
        if names.count(labelled.name) > 1:
            raise GroundTruthError(f"{labelled.file}: another set is called {labelled.name} too: study them apart")


def network_stage(sets: Sequence[LabelledSet], recipe: Recipe) -> GlobalStage:
    """The recipe's network, where the sets can be told apart."""
    check_names(sets)
    if recipe.global_ is None:
        raise RecipeError(
            f"recipe {recipe.name} has no [global] table, so no network to study: give --recipe one that has, such as "
            "gem-densenet169"
        )
    return recipe.global_


def _channels(network: str, layer: str) -> int:
    from resight.networks.sketch import Sketch

    (tap,) = Sketch(network).taps([layer])
    if tap.layer.kind != "map":
        raise RecipeError(f"layer {layer} of {network} is one vector, with nothing to pool: choose a map")
    return tap.layer.channels


def plain_table(stage: GlobalStage) -> dict[str, Any]:
    """The network, layer, sides and scales of a stage's first branch, without all that comes after."""
    kept = {"network", "layer", "max_side", "scales", *WEIGHTS}
    return stage.branches[0].model_dump(include=kept)


def _learned_poolings(
    base: Mapping[str, Any], channels: int, fit: Photos | None, folder: Path, recipe: Recipe, report: Report
) -> dict[str, dict[str, Any]]:
    """Tables of the poolings that know of other photos, with what they learned as files in ``folder``."""
    from resight.describe.pooling import ChannelStatistics

    heat = {**base, "pooling": "heat"}
    blank = np.zeros(channels, np.float32)
    # What it learns is a mean feature to take from each; a mean of zero is none.
    ChannelStatistics(blank, blank, 0, "nothing").save(folder / "blank.safetensors")
    tables = {"heat": {**heat, "learned": str(folder / "blank.safetensors")}}
    if fit is not None:
        from resight.describe.learn import learn_heads, save_learned

        parts = {**base, "pooling": {"kind": "sba", "parts": min(25, channels)}}
        variants = Variants.of({"sba": parts}, reading(recipe), recipe.name)
        images = _readable(fit, variants, report)
        learned = learn_heads(variants.describer, images, len(fit.origins), fit.fitted_on)
        (file,) = save_learned(learned[0], folder, 0).values()
        tables["heat, centred"] = {**heat, "learned": str(folder / file)}
        tables["sba"] = {**parts, "learned": str(folder / file)}
    return tables


def _readable(fit: Photos, variants: Variants, report: Report) -> Iterator[Image]:
    for done, origin in enumerate(fit.origins, 1):
        try:
            yield variants.read(origin, None)
        except ImageError:
            continue
        finally:
            report("learning the poolings", done, len(fit.origins))


def _described(fit: Photos, least: int, variants: Variants, report: Report) -> tuple[Photos, Described]:
    """The photos that can be read, enough for ``least`` dimensions, and their vectors."""
    described = variants.describe([(origin, None) for origin in fit.origins], "learning the projections", report)
    _check_enough(len(described.places), least, fit)
    return replace(fit, origins=tuple(fit.origins[place] for place in described.places)), described


def _check_enough(photos: int, dimensions: int, fit: Photos) -> None:
    if photos <= dimensions:
        raise RecipeError(
            f"{dimensions} dimensions are learned from more than {dimensions} photos; of {fit.fitted_on}, {photos} can "
            "be read: give more, or ask for fewer dimensions"
        )
