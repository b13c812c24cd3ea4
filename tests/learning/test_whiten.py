"""A trained recipe's whitening, learned by what will describe: against the definition on the same descriptors."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import tomli_w  # noqa: E402
from PIL import Image as PilImage  # noqa: E402

from resight.describe.describer import Describer  # noqa: E402
from resight.errors import RecipeError  # noqa: E402
from resight.learning.datasets.photos import Photo, TrainingSet  # noqa: E402
from resight.learning.model import Learns, make_model  # noqa: E402
from resight.learning.whiten import check_photos, drawn, whiten  # noqa: E402
from resight.learning.write import write_recipe  # noqa: E402
from resight.recipes import load_recipe  # noqa: E402

pytestmark = pytest.mark.usefixtures("sketched_once")

SMALL = {"network": "test_resnet", "layer": "layer1", "max_side": 96, "dimensions": 3, "scales": [1.0, 0.7071]}


@pytest.fixture
def photos(noise):
    """Six whole photos of three objects, and a seventh that shows one in a part."""
    whole = [Photo(noise / f"{number}.png", number % 3) for number in range(6)]
    part = Photo(noise / "6.png", 0, (8.0, 0.0, 72.0, 64.0))
    return TrainingSet("toys", (*whole, part), ("a", "b", "c"), noise)


@pytest.fixture
def written(weights_of, tmp_path):
    """Writes a recipe as if it was trained; its folder."""

    def make(**changes):
        table = {"name": "x", "title": "", "source": "", "filter": "global"}
        table["global"] = SMALL | {"weights": str(weights_of("test_resnet"))} | changes
        (tmp_path / "r.toml").write_text(tomli_w.dumps(table))
        recipe = load_recipe(tmp_path / "r.toml")
        model = make_model(recipe.global_, weights=None, learns=Learns(), recipe_name="x", seed=0)
        return write_recipe(model, recipe, tmp_path / "written", trained={})

    return make


def raw_of(folder, photos):
    """Descriptors before whitening, of the parts that photos are."""
    describer, rows = Describer(load_recipe(folder)), []
    for photo in photos.photos:
        pixels = np.asarray(PilImage.open(photo.path))
        if photo.box is not None:
            x1, y1, x2, y2 = map(int, photo.box)
            pixels = pixels[y1:y2, x1:x2]
        rows.append(describer.network.raw(pixels))
    return np.stack(rows)


def test_pairs_of_an_object_come_to_differ_alike_in_all_directions(written, photos):
    folder = written()
    x = raw_of(folder, photos)
    found = whiten(folder, photos, how="learned", ridge=0.01)
    labels = photos.labels
    pairs = [(i, j) for i in range(7) for j in range(i) if labels[i] == labels[j]]
    differences = np.stack([x[i] - x[j] for i, j in pairs])
    within = differences.T @ differences / len(pairs)
    within += 0.01 * np.trace(within) / len(within) * np.eye(len(within))
    matrix = found.matrix.astype(np.float64)
    np.testing.assert_allclose(matrix @ within @ matrix.T, np.eye(3), atol=1e-3)
    assert (found.kind, found.dimension) == ("learned-whitening", 3)
    assert found.fitted_on == "5 matching pairs of toys, which the network was trained on"
    assert found.photos.count == 7
    network = Describer(load_recipe(folder)).network
    pixels = np.asarray(PilImage.open(photos.photos[1].path))
    expected = matrix @ (x[1] - found.mean)
    np.testing.assert_allclose(network.describe(pixels), expected / np.linalg.norm(expected), atol=1e-5)


def test_pca_whitens_the_photos_themselves(written, photos):
    folder = written(ridge=0.0)
    x = raw_of(folder, photos)
    found = whiten(folder, photos, how="pca")
    np.testing.assert_allclose(np.cov((x - found.mean) @ found.matrix.T, rowvar=False), np.eye(3), atol=1e-3)
    assert load_recipe(folder).global_.whitening


def test_none_leaves_a_recipe_that_describes_as_it_is(written, photos):
    folder = written()
    x = raw_of(folder, photos)
    assert whiten(folder, photos, how="none") is None
    stage = load_recipe(folder).global_
    assert (stage.whiten, stage.dimensions) == ("none", x.shape[1])
    pixels = np.asarray(PilImage.open(photos.photos[0].path))
    np.testing.assert_allclose(Describer(load_recipe(folder)).network.describe(pixels), x[0], atol=1e-6)
    assert whiten(folder, photos, how="pca") is None


def test_regions_are_whitened_by_pca_alone(written, photos):
    folder = written(whiten="regions", pooling="mac", scheme={"kind": "grid", "levels": 2})
    with pytest.raises(RecipeError, match=r'toys: the recipe whitens by regions.*choose whitening "pca"'):
        whiten(folder, photos, how="learned")
    found = whiten(folder, photos, how="pca")
    assert found.n > len(photos.photos)
    assert Describer(load_recipe(folder)).network.describe(np.zeros((64, 96, 3), np.uint8)).shape == (3,)


def test_too_few_photos_are_told_with_what_to_choose(written, photos):
    folder = written(dimensions=8)
    before = (folder / "recipe.toml").read_text()
    with pytest.raises(RecipeError, match=r'toys: a whitening of 8 dimensions.*here are 7: choose fewer.*"none"'):
        whiten(folder, photos, how="pca")
    assert (folder / "recipe.toml").read_text() == before
    stage = load_recipe(folder).global_
    check_photos(stage, 7, "toys", "none")
    check_photos(stage, 7, "toys", "learned", dimensions=6)
    assert whiten(folder, photos, how="learned", dimensions=2).dimension == 2
    assert load_recipe(folder).global_.dimensions == 2


def test_photos_are_drawn_by_objects_and_the_seed(noise):
    photos = [Photo(noise / f"{number}.png", number % 4) for number in range(20)]
    kept = drawn(photos, 11, 3)
    assert kept == drawn(photos, 11, 3)
    assert kept == [photo for photo in photos if photo in kept]
    assert sorted(np.bincount([photo.label for photo in kept], minlength=4)) == [0, 1, 5, 5]
    assert drawn(photos, 20, 3) == photos
