"""Parts of a similarity: they add up to it in every recipe that has them, and lie where the same thing is."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402
from PIL import Image as PilImage  # noqa: E402

from resight.describe.fit import fit_whitenings  # noqa: E402
from resight.describe.global_descriptor import GlobalDescriber  # noqa: E402
from resight.describe.locate import Located, locate  # noqa: E402
from resight.describe.pooling import ChannelStatistics  # noqa: E402
from resight.errors import RecipeError  # noqa: E402
from resight.images.image import Image  # noqa: E402
from resight.networks.torchvision_ops import ensure_torchvision  # noqa: E402
from resight.recipes.network_stages import GlobalStage  # noqa: E402


@pytest.fixture(scope="module")
def network():
    ensure_torchvision()
    import timm

    torch.manual_seed(1)
    return timm.create_model("resnet10t", num_classes=0, global_pool="").eval()


@pytest.fixture(scope="module")
def folder(network, tmp_path_factory):
    """A recipe's folder with the weights in it."""
    made = tmp_path_factory.mktemp("recipe")
    safetensors.torch.save_file(network.state_dict(), made / "w.safetensors")
    rng = np.random.default_rng(3)
    classifier = torch.from_numpy(rng.normal(size=(6, 512)).astype(np.float32))
    whole = network.state_dict() | {"fc.weight": classifier, "fc.bias": torch.zeros(6)}
    safetensors.torch.save_file(whole, made / "classes.safetensors")
    mean, variance = rng.random((2, 256), np.float32)
    ChannelStatistics(mean, variance, 9, "chance").save(made / "channels.safetensors")
    return made


def stage(**changes):
    facts = {"network": "resnet10t", "layer": "layer3", "max_side": 96, "dimensions": 3, "weights": "w.safetensors"}
    return GlobalStage(**(facts | changes))


def photos(n, height=64, width=96):
    rng = np.random.default_rng(2)
    coarse = rng.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)
    return [np.asarray(PilImage.fromarray(c).resize((width, height))) for c in coarse]


def fitted(folder, stage):
    """A describer of the stage, with the whitenings it asks for learned from noise."""
    describer = GlobalDescriber(stage, folder)
    if stage.whiten == "none":
        return describer
    made = fit_whitenings(describer, (Image(p, (96, 64), "<array>") for p in photos(6)), "noise")
    for place, whitening in enumerate(made):
        whitening.save(folder / f"whitening-{place}.safetensors")
    also = tuple({**o, "whitening": f"whitening-{n}.safetensors"} for n, o in enumerate(stage.also, 1) if stage.late)
    return GlobalDescriber(
        stage.model_copy(update={"whitening": "whitening-0.safetensors", "also": also or stage.also}), folder
    )


RAW = {"whiten": "none", "dimensions": 256}
WHOLE = RAW | {"layer": "features", "dimensions": 512, "max_side": 128}
GRID = {"kind": "grid", "levels": 2}
CLASSES = {"layer": "layer4", "weights": "classes.safetensors"}
OTHER = {"layer": "layer2", "pooling": "mac", "weight": 0.5, "scales": (1.0,)}
SYSTEMS = {
    "gem": {"pooling": {"kind": "gem", "p": 2.5}},
    "gem, each its own": RAW | {"pooling": {"kind": "gem", "p": tuple(np.linspace(1, 5, 256))}},
    "mac": RAW | {"pooling": "mac"},
    "average": RAW | {"pooling": "average"},
    "sum": {"pooling": "sum"},
    "spoc": {"pooling": "spoc"},
    "crow": {"pooling": {"kind": "crow", "a": 3.0, "b": 1.0}},
    "gram": {"pooling": "gram", "scheme": GRID},
    "heat": RAW | {"pooling": {"kind": "heat", "threshold": 0.3}, "learned": "channels.safetensors"},
    "sba": RAW | {"pooling": {"kind": "sba", "parts": 3}, "learned": "channels.safetensors", "dimensions": 768},
    "sba, whitened": {"pooling": {"kind": "sba", "parts": 2}, "learned": "channels.safetensors", "scheme": GRID},
    "cam-crow": CLASSES | {"pooling": {"kind": "cam-crow", "top": 3}, "whiten": "regions", "scales": (1.0, 0.7071)},
    "cam-crow, offline": CLASSES | {"pooling": {"kind": "cam-crow", "classes": (1, 4)}},
    "scales": RAW | {"scales": (1.0, 0.7071, 0.5)},
    "whitened scales": {"scales": (1.0, 0.5)},
    "grid": RAW | {"scheme": GRID},
    "R-MAC": {"pooling": "mac", "scheme": GRID, "whiten": "regions", "scales": (1.0, 0.7071)},
    "layer": {"whiten": "layer", "scales": (1.0, 0.7071)},
    "pyramid": {"scheme": {"kind": "pyramid", "cells": (1, 2)}, "pooling": "crow"},
    "joined pyramid": RAW
    | {"scheme": {"kind": "pyramid", "aggregate": "concatenate"}, "scales": (1.0, 0.7071), "dimensions": 1280},
    "dense": RAW | {"scheme": {"kind": "dense", "on": "map", "sides": (64, 48), "stride": 16}},
    "square root": {"power": 0.5, "scales": (1.0, 0.7071)},
    "square root, raw": RAW | {"power": 0.5, "pooling": "mac"},
    "joined": {"also": (OTHER,), "scales": (1.0, 0.7071)},
    "joined, raw": RAW | {"also": (OTHER,), "dimensions": 384},
    "by scores": {"also": (OTHER | {"dimensions": 2},), "fusion": "scores"},
    "by scores, R-MAC": {
        "also": (OTHER | {"scheme": {"kind": "pyramid"}},),
        "fusion": "scores",
        "scheme": GRID,
        "whiten": "regions",
    },
}


def constant(describer, pixels, other):
    """What the means of the whitenings take: −vᵀPm over the norms, from vectors before whitening."""
    stage = describer.stage
    if stage.whiten == "none":
        return 0.0
    if stage.whiten in ("regions", "layer"):
        rows = [np.concatenate(scales) for (scales,) in describer.features([describer.prepare(pixels)])]
        if stage.whiten == "regions":
            rows = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in rows]
    else:
        lengths = [len(whitening.mean) for whitening in describer.whitenings]
        rows = [z[None] for z in np.split(describer.raw(pixels), np.cumsum(lengths)[:-1])]
    parts = []
    for w, z, v in zip(describer.whitenings, rows, np.split(other, np.cumsum(stage.lengths)[:-1]), strict=True):
        projected = (z - w.mean) @ w.matrix.T
        norms = np.linalg.norm(projected, axis=1, keepdims=True)
        total = np.linalg.norm((projected / norms).sum(axis=0))
        parts.append(-float(v @ w.matrix @ w.mean) * (1 / norms).sum() / total)
    return np.average(parts, weights=[branch.weight for branch in stage.branches]) if stage.late else parts[0]


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_parts_add_up_to_the_similarity(folder, system):
    """The descriptors are those of ``describe``, which knows nothing of places."""
    describer = fitted(folder, stage(**SYSTEMS[system]))
    one, two = photos(2)[0], photos(2, 96, 64)[1]
    a, b = describer.describe(one), describer.describe(two)
    branches, ends = describer.stage.branches, np.cumsum(describer.stage.lengths)[:-1]
    cosines = [x @ y for x, y in zip(np.split(a, ends), np.split(b, ends), strict=True)]
    expected = np.average(cosines, weights=[x.weight for x in branches]) if len(ends) else a @ b
    here, there = locate(describer, one, b), locate(describer, two, a)
    for located, size, pair in ((here, (96, 64), (one, b)), (there, (64, 96), (two, a))):
        total = sum(part.sum() for part in located.maps) + located.constant
        # Whitening noise by six photos enlarges the rounding of what is described in float32.
        assert total == pytest.approx(expected, abs=1e-3) and located.similarity == pytest.approx(total, abs=1e-9)
        assert located.gain >= 0 >= located.loss
        assert len(located.maps) == sum(len(branch.scales) for branch in branches)
        assert located.over(*size).shape == size[::-1]
        assert located.constant == pytest.approx(constant(describer, *pair), abs=1e-3)


def maps_of(network, pixels):
    """C×h×w float64 of the network's last layer."""
    mean, std = (np.array(network.pretrained_cfg[key]) for key in ("mean", "std"))
    x = torch.from_numpy(((pixels / 255 - mean) / std).transpose(2, 0, 1)[None]).float()
    with torch.no_grad():
        return network.forward_features(x)[0].double().numpy()


def test_each_part_of_a_whitened_average_by_hand(network, folder):
    """heat(h, w) = vᵀP x(h, w) / (hw · ‖average‖ · ‖P(z − m)‖), and the rest is −vᵀPm / ‖P(z − m)‖."""
    describer = fitted(folder, stage(layer="features", pooling="average"))
    (whitening,) = describer.whitenings
    pixels, other = photos(2)
    v = describer.describe(other)
    x = maps_of(network, pixels)
    average = x.mean(axis=(1, 2))
    z = average / np.linalg.norm(average)
    norm = np.linalg.norm(whitening.matrix.astype(float) @ (z - whitening.mean))
    counts = v.astype(float) @ whitening.matrix
    expected = np.einsum("c,chw->hw", counts, x) / (x[0].size * np.linalg.norm(average) * norm)
    located = locate(describer, pixels, v)
    (heat,) = located.maps
    np.testing.assert_allclose(heat, expected, atol=1e-4 * np.abs(expected).max())
    assert located.constant == pytest.approx(-(counts @ whitening.mean) / norm, rel=1e-4)


def test_overlapping_regions_add_their_normalised_shares(network, folder):
    """R-MAC without whitening by loops: a region's maximum, at its place, over the region's norm."""
    describer = GlobalDescriber(stage(**WHOLE, pooling="mac", scheme={"kind": "pyramid", "cells": (1, 2)}), folder)
    pixels, other = photos(2, 96, 128)
    v = describer.describe(other)
    x = maps_of(network, pixels)
    assert x.shape[1:] == (3, 4)
    # Cells of 2×2 on three rows touch the middle row from both sides.
    regions = [(0, 0, 4, 3)] + [(left, top, left + 2, top + 2) for top in (0, 1) for left in (0, 2)]
    expected, total = np.zeros((3, 4)), np.zeros(512)
    for x1, y1, x2, y2 in regions:
        part = x[:, y1:y2, x1:x2]
        peaks = part.max(axis=(1, 2))
        norm = np.linalg.norm(peaks)
        total += peaks / norm
        for channel, peak in enumerate(peaks):
            at = np.argwhere(part[channel] == peak)
            for row, column in at:
                expected[y1 + row, x1 + column] += v[channel] * peak / norm / len(at)
    (heat,) = locate(describer, pixels, v).maps
    np.testing.assert_allclose(heat, expected / np.linalg.norm(total), atol=1e-4)


@pytest.mark.parametrize("pooling", ["gem", "mac", "crow"])
@pytest.mark.parametrize("corner", [(0, 0), (192, 128)])
def test_the_heat_is_where_the_same_thing_is(folder, pooling, corner):
    """A picture of strong contrast, alone and pasted into a corner of a flat grey one."""
    rng = np.random.default_rng(5)
    thing = np.kron(rng.integers(0, 2, (12, 12, 3), dtype=np.uint8) * 255, np.ones((8, 8, 1), np.uint8))
    scene = rng.integers(118, 138, (224, 288, 3), dtype=np.uint8)
    left, top = corner
    scene[top : top + 96, left : left + 96] = thing
    describer = GlobalDescriber(stage(**RAW | {"max_side": 288}, pooling=pooling), folder)
    heat = locate(describer, scene, describer.describe(thing)).over(288, 224)
    inside = heat[top : top + 96, left : left + 96]
    assert inside.mean() > 3 * heat.mean()
    y, x = np.unravel_index(heat.argmax(), heat.shape)
    assert left - 16 <= x < left + 112 and top - 16 <= y < top + 112


def test_maps_of_two_sizes_weigh_by_their_sums():
    fine, coarse = np.zeros((4, 8)), np.array([[0.0, 0.25]])
    fine[0, 0] = 0.5
    heat = Located((fine, coarse), 0.0).over(64, 32)
    assert heat.dtype == np.float32 and heat.sum() == pytest.approx(0.75, rel=1e-5)
    assert heat[:, 48:].sum() == pytest.approx(0.125, rel=1e-5)  # beyond the last position's middle
    assert heat[:8, :8].sum() > 0.25 and not heat[16:, :16].any()


REFUSED = {
    "embedding vlad": {"embedding": {"kind": "vlad"}},
    'aggregate = "max"': {"scheme": GRID | {"aggregate": "max"}},
    "scheme grid of pixels": {"scheme": GRID | {"on": "pixels"}},
    "scheme dog of pixels": {"scheme": {"kind": "dog"}},
    "scheme edge-boxes": {"scheme": {"kind": "edge-boxes"}},
    'scale_pooling = "gem"': {"scale_pooling": "gem"},
    "fusion ranks": {"also": ({"layer": "layer2"},), "fusion": "ranks"},
    "fusion orthogonal": {"also": ({"layer": "layer2"},), "fusion": "orthogonal"},
    "layer pooled of resnet10t": {"layer": "pooled"},
}


@pytest.mark.parametrize("part", REFUSED)
def test_what_has_no_places_is_named(folder, part):
    with pytest.raises(RecipeError) as caught:
        describer = GlobalDescriber(stage(**RAW | REFUSED[part]), folder)
        locate(describer, photos(1)[0], np.zeros(sum(describer.stage.lengths), np.float32))
    assert str(caught.value).startswith(f"{part} leaves a similarity no places")
    assert "fusion concatenate or scores" in str(caught.value)


def test_what_a_pooling_has_not_learned_yet_is_said(folder):
    with pytest.raises(RecipeError, match="not learned yet"):
        locate(GlobalDescriber(stage(**RAW, pooling="sba"), folder), photos(1)[0], np.zeros(256, np.float32))


def test_a_descriptor_of_another_recipe_is_refused(folder):
    with pytest.raises(ValueError, match="must have 256 entries"):
        locate(GlobalDescriber(stage(**RAW), folder), photos(1)[0], np.zeros(3, np.float32))


def test_an_unfitted_recipe_says_what_to_do(folder):
    with pytest.raises(RecipeError, match="resight fit"):
        locate(GlobalDescriber(stage(), folder), photos(1)[0], np.zeros(3, np.float32))
