"""Studies of a small random network beside `fit` and `evaluate`, which describe, store and search by other ways."""

import json
import xml.etree.ElementTree as ET

import cv2
import numpy as np
import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402

from resight.describe.fit import fit_recipe  # noqa: E402
from resight.errors import GroundTruthError, QueryError, RecipeError, ResightError  # noqa: E402
from resight.evaluation import LabelledSet, Query, evaluate, load_labelled  # noqa: E402
from resight.evaluation.plot import Result, Series, Study, plot  # noqa: E402
from resight.evaluation.study import (  # noqa: E402
    cosines,
    draw_photos,
    halvings,
    measure,
    study_dimensions,
    study_layers,
    study_pooling,
)
from resight.networks.architectures import create_network  # noqa: E402
from resight.recipes import Recipe, load_recipe  # noqa: E402

SVG = "{http://www.w3.org/2000/svg}"
STAGE = {"network": "resnet10t", "layer": "layer2", "max_side": 64, "scales": [1.0, 0.7071], "whiten": "none"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    safetensors.torch.save_file(create_network("resnet10t").state_dict(), file)
    return file


@pytest.fixture(scope="module")
def recipe_of(weights):
    """A recipe with changes to its [global] table."""

    def make(**changes):
        table = {**STAGE, "weights": str(weights), **changes}
        facts = {"name": "tiny", "title": "", "source": "", "filter": "global", "image": {"max_side": 128}}
        return Recipe.model_validate({**facts, "global": table})

    return make


@pytest.fixture(scope="module")
def parts(pictures):
    """Writes N random 80×100 parts of each picture as NAME-i.png into a folder; returns their names."""

    def write(folder, many, seed):
        rng = np.random.default_rng(seed)
        names = []
        for name, pixels in sorted(pictures.items()):
            for number in range(many):
                x, y = rng.integers(0, pixels.shape[1] - 100), rng.integers(0, pixels.shape[0] - 80)
                cv2.imwrite(str(folder / f"{name}-{number}.png"), pixels[y : y + 80, x : x + 100, ::-1])
                names.append(f"{name}-{number}.png")
        return names

    return write


@pytest.fixture(scope="module")
def views(tmp_path_factory, pictures, parts):
    """Each of three parts of a picture asks for the others: one by a box, one from outside the database."""
    folder = tmp_path_factory.mktemp("set")
    names = parts(folder, 3, 0)
    (folder / "broken.png").write_bytes(b"no picture")
    queries = {n: {"positives": [m for m in names if m[:4] == n[:4] and m != n]} for n in names}
    queries["chelsea-1.png"]["box"] = [5, 10, 90, 70]
    queries["coffee-0.png"]["positives"].append("broken.png")
    names.remove("coffee-0.png")
    for query in queries.values():
        query["positives"] = [path for path in query["positives"] if path != "coffee-0.png"]
    truth = {"name": "views", "database": [*names, "broken.png"], "queries": queries}
    (folder / "gt.json").write_text(json.dumps(truth))
    return folder


@pytest.fixture(scope="module")
def others(tmp_path_factory, parts):
    """A folder of 40 photos to learn from, and a file that is none."""
    folder = tmp_path_factory.mktemp("others")
    assert len(parts(folder, 5, 1)) == 40
    (folder / "zero.png").write_bytes(b"no picture")
    return folder


def figure(study, **wanted):
    (found,) = [r for r in study.results if all(getattr(r, key) == value for key, value in wanted.items())]
    return found


@pytest.fixture(scope="module")
def poolings(views, others, recipe_of):
    return study_pooling(
        [load_labelled(views)], recipe_of(), fit=draw_photos([others, views / "moon-1.png"]), dimensions=12
    )


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("mac", {"pooling": "mac"}),
        ("r-mac", {"pooling": "mac", "scheme": {"kind": "grid", "levels": 3}}),
    ],
)
def test_a_pooling_has_the_figure_of_evaluate(poolings, name, table, views, recipe_of):
    found = figure(poolings, variant=name, projection="none")
    report = evaluate(views, recipe_of(**table, dimensions=found.dimensions), workers=1)
    assert found.mean_average_precision == pytest.approx(report.figures.mean_average_precision, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "table"),
    [("sba", {"pooling": "sba"}), ("heat, centred", {"pooling": "heat"})],
)
def test_whitened_and_learned_poolings_have_the_figures_of_fit(
    poolings, name, table, views, others, recipe_of, tmp_path
):
    recipe = recipe_of(**table, whiten="image", dimensions=12)
    (tmp_path / "recipe.toml").write_text(tomli_w.dumps(recipe.model_dump(by_alias=True, exclude_none=True)))
    fitted = fit_recipe(tmp_path / "recipe.toml", [others, views / "moon-1.png"], weights=None, into=tmp_path / "f")
    report = evaluate(views, fitted, workers=1)
    found = figure(poolings, variant=name, projection="pca-whitening")
    assert found.dimensions == 12
    assert found.mean_average_precision == pytest.approx(report.figures.mean_average_precision, abs=1e-12)


def test_poolings_are_all_there_and_the_sum_is_the_average(poolings, views, recipe_of):
    plain = [r.variant for r in poolings.results if r.projection == "none"]
    assert plain == [
        *("average", "sum", "mac", "gem", "spoc", "crow", "gram", "r-mac", "heat", "heat, centred", "sba")
    ]  # each once
    assert len({r.mean_average_precision for r in poolings.results}) > 5
    for projection in ("none", "pca-whitening"):
        sums = [figure(poolings, variant=name, projection=projection) for name in ("sum", "average")]
        assert sums[0].mean_average_precision == pytest.approx(sums[1].mean_average_precision, abs=1e-12)
    assert poolings.protocol["fitted on"].startswith("42 photos of ")
    assert poolings.warnings == (
        "views: 1 of its images cannot be read, counted as not retrieved",
        "views: 4.35 % of its photos were learned from, which flatters its figures",  # one of 23
    )


def test_layers_have_the_figures_of_evaluate(views, recipe_of):
    study = study_layers([load_labelled(views)], recipe_of(pooling="mac"))
    assert [(r.variant, r.dimensions) for r in study.results] == [
        *(("conv1", 64), ("layer1", 64), ("layer2", 128), ("layer3", 256), ("layer4", 512), ("features", 512))
    ]
    for name, length in (("layer1", 64), ("layer3", 256)):
        report = evaluate(views, recipe_of(layer=name, dimensions=length), workers=1)
        found = figure(study, variant=name).mean_average_precision
        assert found == pytest.approx(report.figures.mean_average_precision, abs=1e-12)


def test_dimensions_have_the_figures_of_fit(views, others, recipe_of, tmp_path):
    recipe = recipe_of(whiten="image", dimensions=32, layer="layer1")
    study = study_dimensions([load_labelled(views)], recipe, fit=draw_photos([others], 36, 1))
    assert [(r.projection, r.dimensions) for r in study.results] == [
        *(("none", 64), ("pca", 32), ("pca-whitening", 32))  # 36 photos are too few for 64
    ]
    (tmp_path / "recipe.toml").write_text(tomli_w.dumps(recipe.model_dump(by_alias=True, exclude_none=True)))
    fitted = fit_recipe(tmp_path / "recipe.toml", [others], weights=None, into=tmp_path / "f", sample=36, seed=1)
    report = evaluate(views, fitted, workers=1)
    found = figure(study, projection="pca-whitening")
    assert found.mean_average_precision == pytest.approx(report.figures.mean_average_precision, abs=1e-12)


def test_what_the_recipe_itself_learned_from_a_sets_photos_is_told(views, others, recipe_of, tmp_path):
    recipe = recipe_of(embedding={"kind": "vlad", "words": 3}, dimensions=384)
    (tmp_path / "recipe.toml").write_text(tomli_w.dumps(recipe.model_dump(by_alias=True, exclude_none=True)))
    fitted = fit_recipe(tmp_path / "recipe.toml", [views], weights=None, into=tmp_path / "f")
    study = study_dimensions([load_labelled(views)], load_recipe(fitted), fit=draw_photos([others]))
    assert any("100 % of its photos were learned from" in warning for warning in study.warnings)
    assert [r.dimensions for r in study.results] == [384, 32, 32]  # of VLAD's 384, 40 photos tell 32


@given(length=st.integers(2, 20000), most=st.integers(32, 20000))
def test_halvings(length, most):
    found = halvings(length, most)
    most = min(most, 8192)
    assert found == sorted(set(found))
    assert all(n <= min(length, most) for n in found)
    assert (length in found) == (length <= most)
    assert set(found) - {length} == {n for n in (32 << k for k in range(20)) if n <= most and n < length}


def test_figures_by_hand():
    """Two positives of four at the ranks 1 and 3, the query and a junk image taken out; ties go by place."""
    labelled = LabelledSet(
        name="hand",
        file="gt.json",
        root=".",
        database=("a", "b", "c", "d", "e", "q"),
        queries=(Query("q", positives=frozenset({"a", "c", "d"}), junk=frozenset({"b"})),),
    )
    scores = np.array([[0.5, 0.9, 0.5, 0.5, 0.5, 1.0]])
    # a, c, d, e after b and q are gone: ranks 0, 1, 2
    assert measure(labelled, scores) == 1.0
    # Without d's vector one of three is never found: (1 + 1) / 3.
    rows = {"a": 0, "b": 1, "c": 2, "e": 3, "q": 4}
    assert measure(labelled, np.array([[0.5, 0.9, 0.5, 0.5, 1.0]]), rows) == pytest.approx(2 / 3)
    # e first: ranks 1 and 2, trapezia (0 + 1/2)/2 and (1/2 + 2/3)/2
    assert measure(labelled, np.array([[0.5, 0.9, 0.4, 0.6, 1.0]]), rows) == pytest.approx((1 / 4 + 7 / 12) / 3)


def test_cosines_in_blocks():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(600, 5)).astype(np.float32), rng.normal(size=(7, 5)).astype(np.float32)
    found = np.stack(list(cosines(x, y)))
    np.testing.assert_allclose(found, np.einsum("qc,nc->qn", x, y), atol=1e-5)


def test_what_cannot_be_studied(views, others, recipe_of, tmp_path):
    labelled = load_labelled(views)
    with pytest.raises(RecipeError, match=r"rootsift-asmk has no \[global\] table"):
        study_layers([labelled], load_recipe("rootsift-asmk"))
    with pytest.raises(RecipeError, match="keeps its branches' vectors apart"):
        late = recipe_of(also=[{"layer": "layer3"}], fusion="ranks")
        study_dimensions([labelled], late, fit=draw_photos([others]))
    with pytest.raises(RecipeError, match=r"40 dimensions are learned from more than 40 photos; .* 40 can be read"):
        study_pooling([labelled], recipe_of(), fit=draw_photos([others]), dimensions=40)
    with pytest.raises(RecipeError, match="32 dimensions are learned from more than 32 photos"):
        study_dimensions([labelled], recipe_of(), fit=draw_photos([others], sample=32))
    with pytest.raises(RecipeError, match="layer layer2 of resnet10t has 128 channels: lower --dimensions"):
        study_pooling([labelled], recipe_of(), fit=draw_photos([others]), dimensions=129)
    with pytest.raises(RecipeError, match="layer pooled of resnet10t is one vector"):
        study_pooling([labelled], recipe_of(layer="pooled"))
    with pytest.raises(RecipeError, match="give --fit"):
        study_pooling([labelled], recipe_of(), dimensions=8)
    with pytest.raises(RecipeError, match="has yet to learn"):
        study_dimensions([labelled], recipe_of(pooling={"kind": "sba", "parts": 4}), fit=draw_photos([others]))
    with pytest.raises(GroundTruthError, match="another set is called views"):
        study_layers([labelled, labelled], recipe_of())
    with pytest.raises(ResightError, match=r"no photos in .*: name a folder"):
        draw_photos([tmp_path])


def test_what_cannot_be_read_is_named(tmp_path, others, recipe_of):
    files = {"a.png": others / "moon-0.png", "bad.png": others / "zero.png", "worse.png": others / "zero.png"}
    for name, file in files.items():
        (tmp_path / name).write_bytes(file.read_bytes())
    for database, error in (
        (["a.png"], (QueryError, r"query bad\.png of bad: not an image")),
        (["worse.png"], (GroundTruthError, "none of the database's images can be read: not an image")),
    ):
        truth = {"name": "bad", "database": database, "queries": {"bad.png": {"positives": database}}}
        (tmp_path / "gt.json").write_text(json.dumps(truth))
        with pytest.raises(error[0], match=error[1]):
            study_layers([load_labelled(tmp_path)], recipe_of())


def by_hand():
    results = [
        Result(name, "recipe", kind, length, share)
        for name, shift in (("crests | <&>", 0.0), ("vases\x00", 0.1))
        for kind, length, share in (
            ("none", 100, 0.5),
            ("pca", 32, 0.25),
            ("pca", 64, 0.375),
            ("pca-whitening", 32, 0.6),
        )
        for share in [share + shift]
    ]
    sets = {name: {"unread": {}, "fitted_share": None} for name in ("crests | <&>", "vases\x00")}
    return Study("dimensions", {"recipe": "by hand", "sets": sets}, tuple(results))


def test_table_json_and_plot(tmp_path):
    study = by_hand()
    study.write(tmp_path / "new")
    table = (tmp_path / "new/table.md").read_text().splitlines()
    assert table[0] == "recipe: by hand  "
    assert table[2] == "| recipe | projection | dimensions | crests \\| <&> | vases\x00 |"
    assert table[4:] == [
        "| recipe | none | 100 | 50.0 | 60.0 |",
        "| recipe | pca | 32 | 25.0 | 35.0 |",
        "| recipe | pca | 64 | 37.5 | 47.5 |",
        "| recipe | pca-whitening | 32 | 60.0 | 70.0 |",
    ]
    facts = json.loads((tmp_path / "new/results.json").read_text())
    assert facts["study"] == "dimensions" and facts["protocol"]["recipe"] == "by hand"
    assert facts["results"][1]["mean_average_precision"] == 0.25 and len(facts["results"]) == 8
    root = ET.parse(tmp_path / "new/plot.svg").getroot()
    labels = [text.text for text in root.iter(f"{SVG}text")]
    assert "100" not in labels and {"32", "64", "crests | <&>, pca", "vases\ufffd, pca-whitening", "mAP, %"} <= set(
        labels
    )


def test_a_plot_puts_points_where_they_belong():
    series = [Series("up", 0, False, ((6.0, 0.2), (5.0, 0.1), (7.0, 0.3))), Series("flat", 1, True, ((5.0, 0.3),))]
    root = ET.fromstring(plot(series, [(5.0, "32"), (6.0, "64"), (7.0, "128")], across="x", up="y", joined=True))
    width, height = (float(root.get(key)) for key in ("width", "height"))
    lines = [
        [tuple(map(float, p.split(","))) for p in line.get("points").split()] for line in root.iter(f"{SVG}polyline")
    ]
    (x1, y1), (x2, y2), (x3, y3) = lines[0]  # in order of x, evenly spaced, larger values higher
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2) and x2 > x1
    assert y1 - y2 == pytest.approx(y2 - y3, abs=0.2) and y1 > y2
    flat = lines[2][0]
    assert flat == (x1, y3)
    for mark in root.iter(f"{SVG}circle"):
        assert 0 < float(mark.get("cx")) < width and 0 < float(mark.get("cy")) < height
    names = [text.text for text in root.iter(f"{SVG}text")]
    assert [names.count(label) for label in ("32", "64", "128", "up", "flat")] == [1] * 5


@pytest.mark.parametrize("points", [[(0.0, 0.0)], [(0.0, 1.0)], [(0.0, 0.5), (0.0, 0.5)]])
def test_a_plot_of_equal_values(points):
    root = ET.fromstring(
        plot([Series("one", 9, False, tuple(points))], [(0.0, "only")], across="", up="", joined=False)
    )
    assert all("nan" not in mark.get("cy") and 0 <= float(mark.get("cy")) <= 320 for mark in root.iter(f"{SVG}circle"))


def test_an_empty_plot_is_refused():
    with pytest.raises(ValueError, match="a tick and a point"):
        plot([Series("none", 0, False, ())], [(0.0, "only")], across="", up="", joined=False)
