"""Deep spatial matching in a recipe: from maps to a collection, re-ranked by what its own functions count by hand."""

import numpy as np
import pytest
import tomli_w
from pydantic import ValidationError

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402

from resight.describe.describer import Describer  # noqa: E402
from resight.describe.local_features import load_network_features  # noqa: E402
from resight.geometry.homography import corners  # noqa: E402
from resight.images.read import read_image  # noqa: E402
from resight.local.dsm import ChannelFeatures, channel_features, match_channels  # noqa: E402
from resight.networks.architectures import create_network  # noqa: E402
from resight.recipes import Recipe, load_recipe  # noqa: E402
from resight.search.searcher import Searcher  # noqa: E402
from resight.store.check import problems  # noqa: E402
from resight.store.store import New, Store  # noqa: E402

LOCAL = {"detector": "dsm", "network": "resnet10t", "layer": "layer2", "max_side": 96, "scales": [1.0, 0.5]}
LOCAL |= {"overlap": 0.5, "per_channel": 3, "max_features": 300}

NAMES = ("coffee-1.png", "coffee-2.jpg", "rocket-1.png", "brick.png")


def table(**stages):
    base = load_recipe("gem-densenet169").model_dump(by_alias=True, exclude_none=True)
    base["global"] |= {"network": "resnet10t", "layer": "layer3", "max_side": 64, "dimensions": 256, "whiten": "none"}
    return base | {"local": LOCAL, "rerank": [{"method": "dsm", "depth": 3, "max_error": 1.5}]} | stages


@pytest.fixture(scope="module")
def stored(tmp_path_factory, photos):
    """A store of four photos, described in this process by a network of random weights; ids from 1."""
    folder = tmp_path_factory.mktemp("dsm")
    torch.manual_seed(0)
    weights = {k: v.contiguous() for k, v in create_network("resnet10t").state_dict().items()}
    safetensors.torch.save_file(weights, folder / "w.safetensors")
    made = table(local=LOCAL | {"weights": "w.safetensors"})
    made["global"]["weights"] = "w.safetensors"
    (folder / "recipe.toml").write_text(tomli_w.dumps(made))
    recipe = load_recipe(folder)
    describer = Describer(recipe)
    found = [describer.describe(photos / name) for name in NAMES]
    with Store.create(folder / "c", recipe, describer.fingerprint) as store:
        store.add([New(f"/{n}.png", str(n), 1, 1, d) for n, d in enumerate(found)], [], None)
        yield store


def test_features_are_those_of_the_maps_and_kept_as_they_are(stored, photos):
    maps = load_network_features(stored.recipe.local).maps(read_image(photos / NAMES[0]))
    expected = channel_features(maps, overlap=0.5, per_channel=3, top=300)
    kept = ChannelFeatures.unpacked(Searcher(stored).stored(0).local)
    assert len(kept) == len(expected) > 20 and problems(stored, lambda _: None) == []
    for name in ("xy", "shape", "channel", "pitch"):
        np.testing.assert_array_equal(getattr(kept, name), getattr(expected, name))


def test_images_are_ranked_by_what_one_map_aligns(stored):
    searcher = Searcher(stored)
    query = searcher.stored(0)
    ranking, _ = searcher.rank(query, None, None)
    start, _ = Searcher(stored, stored.recipe.model_copy(update={"rerank": ()})).rank(query, None, None)
    features = {i: ChannelFeatures.unpacked(searcher.stored(i - 1).local) for i in start.ids.tolist()}
    counts = {i: match_channels(features[1], features[i], max_error=1.5) for i in start.ids[:3].tolist()}
    order = sorted(counts, key=lambda i: (-len(counts[i]), start.ids.tolist().index(i)))
    assert ranking.ids.tolist() == [*order, start.ids[3]] and order[0] == 1
    assert ranking.scores[:3].tolist() == [len(counts[i]) for i in order]
    assert len(counts[1]) > 0.7 * len(np.unique(features[1].channel))
    whole = ranking.evidence[0]
    np.testing.assert_allclose(whole.outline, corners((0, 0, *query.size)), atol=1)
    np.testing.assert_allclose(whole.box, (0, 0, *query.size), atol=1)


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ({"codebook": {}}, "leave out"),
        ({"rerank": [{"method": "matching"}]}, "leave out"),
        ({"local": {"detector": "sift"}}, 'needs .* detector = "dsm"'),
    ],
)
def test_what_does_not_go_together_is_said(stages, said):
    with pytest.raises(ValidationError, match=said):
        Recipe.model_validate(table(**stages))
