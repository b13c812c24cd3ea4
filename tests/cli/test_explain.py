"""`resight explain` over a real collection of four small pictures, described by a small seeded network."""

import json
import re
from base64 import b64decode
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from resight.cli.main import app  # noqa: E402
from resight.describe.locate import Located  # noqa: E402
from resight.errors import CollectionError, RecipeError, ResightError  # noqa: E402
from resight.images.image import Image  # noqa: E402
from resight.networks.torchvision_ops import ensure_torchvision  # noqa: E402
from resight.recipes.network_stages import GlobalStage  # noqa: E402
from resight.search.collection import Collection  # noqa: E402
from resight.search.drawing import SIDE  # noqa: E402
from resight.search.explain import Side, known_similarity, locate_pair, write_explanation  # noqa: E402
from resight.search.ranking import Ranking  # noqa: E402

RECIPE = """
name = "small"
title = "Small"
source = "-"
filter = "global"
[image]
max_side = 192
[global]
network = "resnet10t"
layer = "layer3"
max_side = 192
pooling = "gem"
whiten = "none"
dimensions = 256
weights = "w.safetensors"
"""


@pytest.fixture(scope="module")
def thing():
    """96×96 of strong contrast."""
    rng = np.random.default_rng(5)
    return np.kron(rng.integers(0, 2, (12, 12, 3), dtype=np.uint8) * 255, np.ones((8, 8, 1), np.uint8))


@pytest.fixture(scope="module")
def made(tmp_path_factory, thing):
    """A folder with `photos`, of which two show the thing in a corner, and the collection `c` of them."""
    ensure_torchvision()
    import timm

    folder = tmp_path_factory.mktemp("explain")
    torch.manual_seed(1)
    network = timm.create_model("resnet10t", num_classes=0, global_pool="").eval()
    safetensors.torch.save_file(network.state_dict(), folder / "w.safetensors")
    (folder / "recipe.toml").write_text(RECIPE)
    (folder / "photos").mkdir()
    rng = np.random.default_rng(6)
    for name, corner in {"left": (0, 0), "right": (96, 32), "grey": None, "changed": None}.items():
        pixels = rng.integers(118, 138, (128, 192, 3), dtype=np.uint8)
        if corner is not None:
            x, y = corner
            pixels[y : y + 96, x : x + 96] = thing
        PIL.Image.fromarray(pixels).save(folder / f"photos/{name}.png")
    with Collection.create(folder / "c", folder / "recipe.toml") as collection:
        assert collection.add([folder / "photos"], workers=1).added == 4
    PIL.Image.new("RGB", (64, 64)).save(folder / "photos/changed.png")
    return folder


@pytest.fixture
def run(made, monkeypatch):
    """Runs `resight explain c …` in the folder; the result has exit_code, stdout, stderr."""
    monkeypatch.chdir(made)

    def run(*arguments):
        result = CliRunner().invoke(app, ["explain", "c", *map(str, arguments)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


def mass(heat, x1, y1, x2, y2):
    """The share of a heat's positive part that is inside a box."""
    positive = np.maximum(heat, 0)
    return positive[y1:y2, x1:x2].sum() / positive.sum()


def test_it_says_what_search_knows(run, made):
    with Collection.open(made / "c") as collection:
        ranking = collection.search(made / "photos/left.png")
        right = collection.find(str(made / "photos/right.png"))
    place = ranking.ids.tolist().index(right)
    answer = run("photos/left.png", "photos/right.png", "--json")
    assert answer.exit_code == 0, answer.stderr
    facts = json.loads(answer.stdout)
    assert (facts["id"], facts["rank"], facts["images"]) == (right, place + 1, 4)
    assert facts["similarity"] == pytest.approx(float(ranking.scores[place]), abs=1e-5)
    assert facts["inliers"] is facts["homography"] is facts["places"] is None and not facts["calibrated"]
    text = run("photos/left.png", f"id:{right}").stdout
    assert f"rank        {place + 1} of 4" in text and f"{ranking.scores[place]:.3f}" in text
    assert "probability" not in text and "not verified" in text


def test_an_image_of_the_collection_is_not_counted_among_its_own_results(run, made):
    with Collection.open(made / "c") as collection:
        left = collection.find(str(made / "photos/left.png"))
    facts = json.loads(run(f"id:{left}", "photos/right.png", "--json").stdout)
    assert facts["images"] == 3
    itself = json.loads(run(f"id:{left}", f"id:{left}", "--json").stdout)
    assert itself["rank"] == 1 and itself["similarity"] == pytest.approx(1, abs=1e-4)


def test_the_heat_is_on_the_thing_and_adds_up_in_both_pictures(run, made):
    out = made / "out.png"
    answer = run("photos/left.png", "photos/right.png", "--json", "--heat", out)
    assert answer.exit_code == 0, answer.stderr
    facts = json.loads(answer.stdout)
    for part in facts["places"]:
        assert part["similarity"] == pytest.approx(facts["similarity"], abs=1e-4)
        assert part["gain"] + part["loss"] + part["constant"] == pytest.approx(part["similarity"], abs=1e-9)
    with Collection.open(made / "c") as collection:
        here, there = locate_pair(collection, made / "photos/left.png", facts["id"])
    assert here.heat.shape == there.heat.shape == (128, 192)
    # The thing covers 3/8 of each picture.
    assert mass(here.heat, 0, 0, 96, 96) > 0.75 and mass(there.heat, 96, 32, 192, 128) > 0.75
    with PIL.Image.open(out) as drawn:
        assert drawn.format == "PNG" and drawn.width >= 2 * 192 and drawn.height >= 128 + 60


def test_the_heat_of_a_box_is_at_its_place(run, made):
    with Collection.open(made / "c") as collection:
        right = collection.find(str(made / "photos/right.png"))
        query, result = locate_pair(collection, made / "photos/left.png", right, box=(16, 32, 80, 96))
    outside = query.heat.copy()
    outside[32:96, 16:80] = 0
    assert not outside.any() and query.heat[32:96, 16:80].any() and result.box is None
    assert query.heat.sum() == pytest.approx(query.located.similarity, abs=0.02)
    facts = json.loads(run("photos/left.png", f"id:{right}", "--box", "16,32,80,96", "--json").stdout)
    assert facts["query_box"] == [16, 32, 80, 96]
    assert facts["similarity"] == pytest.approx(query.located.similarity, abs=1e-4)


def test_the_page_needs_nothing_else_and_shows_both_with_and_without_heat(run, made):
    answer = run("photos/left.png", "photos/right.png", "--heat", "out.html", "--box", "0,0,96,96")
    assert answer.exit_code == 0, answer.stderr
    assert answer.stdout.count("of which") == 2  # one line a picture
    page = (made / "out.html").read_text()
    assert not re.search(r"(src|href)=\"(?!data:|#)", page) and "<script" not in page
    pictures = [
        np.asarray(PIL.Image.open(BytesIO(b64decode(data)))).astype(int)
        for data in re.findall(r"data:image/jpeg;base64,([^\"]+)", page)
    ]
    assert len(pictures) == 4
    hot, plain, *_ = pictures
    difference = np.abs(hot - plain).sum(axis=2)
    assert difference[16:80, 16:80].mean() > 40 and difference[:, 112:].mean() < 6  # as JPEG allows
    assert page.count('class="box"') == 2 and "speak for it" in page


def side(heat, box=None):
    located = Located((np.asarray(heat, float),), 0.25)
    pixels = np.full((*np.shape(heat), 3), 100, np.uint8)
    return Side(Image(pixels, np.shape(heat)[::-1], "<array>"), box, located, np.float32(heat))


def test_only_what_is_above_0_is_coloured_and_more_is_brighter():
    tinted = side([[-1.0, 0.0, 0.25, 0.5, 1.0]]).tinted().pixels[0].astype(int)
    assert (tinted[:2] == 100).all() and len(np.unique(tinted[1:], axis=0)) == 4
    # The last colour of inferno is (252, 255, 164).
    np.testing.assert_allclose(tinted[-1], 0.25 * 100 + 0.75 * np.array([252, 255, 164]), atol=1)
    assert (side([[-1.0, 0.0]]).tinted().pixels == 100).all()


def test_the_parts_are_said_in_words():
    assert side([[-0.5, 0.0], [0.25, 0.75]]).lines == (
        "similarity 0.750, of which",
        "+1.000 from places that speak for it",
        "-0.500 from places that speak against it",
        "+0.250 from no place (the whitening's mean)",
    )


def test_the_box_is_drawn_on_the_picture(tmp_path):
    sides = [side(np.zeros((60, SIDE)), (10, 20, 200, 50)), side(np.zeros((30, 40)))]
    write_explanation(tmp_path / "out.PNG", sides)
    with PIL.Image.open(tmp_path / "out.PNG") as drawn:
        pixels = np.asarray(drawn)
    rows, columns = np.nonzero((pixels == (0, 224, 255)).all(axis=2))
    assert (np.ptp(columns), np.ptp(rows)) == (190, 30)


def test_a_verified_pair_is_told_with_its_evidence(resight):
    """Over the collection that answers from a dictionary (conftest.py)."""
    facts = json.loads(resight("explain", "c", "a.jpg", "id:1", "--json").stdout)
    assert (facts["rank"], facts["score"], facts["accepted"], facts["inliers"]) == (2, 0.75, True, 5)
    assert facts["homography"] == [[2, 0, 10], [0, 2, 20], [0, 0, 1]] and facts["similarity"] is None
    rows = [line.split(maxsplit=1) for line in resight("explain", "c", "a.jpg", "id:1").stdout.splitlines()]
    assert dict(rows) == {
        "query": "a.jpg",
        "result": "id:1 /photos/one.jpg",
        "rank": "2 of 3",
        "probability": "0.750, a match",
        "inliers": "5 of 9 matching points",
        "box": "10,20,210,120",
        "homography": "2 0 10; 0 2 20; 0 0 1",
    }
    tail = resight("explain", "c", "a.jpg", "id:2").stdout
    assert "0.100, not a match" in tail and "not verified" in tail and "homography" not in tail


def test_the_similarity_behind_a_probability_is_that_of_the_fused_branches():
    also = ({"weight": 3.0, "layer": "layer2"},)
    stage = GlobalStage(network="net", also=also, fusion="scores", whiten="none")
    cosines = np.float32([[0.5, 0.1], [0.9, 0.7]])
    collection = SimpleNamespace(
        recipe=SimpleNamespace(global_=stage, filter="global"),
        branch_similarities=lambda query, box: (np.array([4, 9]), cosines),
    )
    ranking = Ranking(np.array([9, 4]), np.float32([0.8, 0.2]), (None, None), 0.5, True)
    assert known_similarity(collection, "a.jpg", 9, ranking) == pytest.approx((0.9 + 3 * 0.7) / 4)


def test_other_weights_than_the_collections_are_refused(made, monkeypatch):
    monkeypatch.setattr(Collection, "fingerprint", "another")
    with Collection.open(made / "c") as collection, pytest.raises(CollectionError, match="other weights"):
        locate_pair(collection, 1, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("photos/left.png", "photos/nowhere.png"), "is not in the collection"),
        (("photos/left.png", "id:99"), "there is no image with this id"),
        (("photos/nowhere.png", "photos/left.png"), "photos/nowhere.png: the file does not exist"),
        (("photos/left.png", "photos/right.png", "--box", "0,0,400,50"), "leaves the image"),
        (("photos/left.png", "photos/right.png", "--heat", "out.jpg"), "ends in .png or .html"),
        (("photos/left.png", "photos/changed.png", "--heat", "o.png"), "has changed since it was indexed"),
    ],
)
def test_what_cannot_be_explained_says_why(run, arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2 and message in result.stderr and not result.stdout


def test_an_unwritable_target_is_named(tmp_path):
    with pytest.raises(ResightError, match=r"cannot write .*missing/out\.png"):
        write_explanation(tmp_path / "missing/out.png", [side([[1.0]]), side([[1.0]])])


def test_a_recipe_without_places_says_so(tmp_path):
    with Collection.create(tmp_path / "local") as collection, pytest.raises(RecipeError, match="no global descriptor"):
        locate_pair(collection, "a.jpg", 1)
