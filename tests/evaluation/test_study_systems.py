"""Studies of networks, regions, training sets and years, beside `evaluate`, loops by hand, and the survey's tables."""

import csv
import dataclasses
import json
import xml.etree.ElementTree as ET

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402

from resight.cli.study import network_recipes  # noqa: E402
from resight.errors import RecipeError, ResightError  # noqa: E402
from resight.evaluation import evaluate, load_labelled  # noqa: E402
from resight.evaluation.kept_report import read_report  # noqa: E402
from resight.evaluation.study_depth import study_depth  # noqa: E402
from resight.evaluation.study_progress import Milestone, read_published, study_progress, year_of  # noqa: E402
from resight.evaluation.study_regions import (  # noqa: E402
    Regions,
    cross_matches,
    describe_regions,
    study_regions,
)
from resight.evaluation.study_training import study_training_set  # noqa: E402
from resight.evaluation.variants import Variants, reading, silent  # noqa: E402
from resight.features.multiscale import l2_normalise  # noqa: E402
from resight.geometry.regions import rigid_grid, round_outwards  # noqa: E402
from resight.networks.architectures import create_network  # noqa: E402
from resight.networks.backbone import load_backbone  # noqa: E402
from resight.recipes import Recipe  # noqa: E402
from resight.recipes.rerank_stages import ExpansionStage  # noqa: E402

NETWORKS = ("resnet10t", "test_resnet.r160_in1k")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    for place, name in enumerate(NETWORKS):
        torch.manual_seed(place)
        safetensors.torch.save_file(create_network(name).state_dict(), folder / f"{name}.safetensors")
    return folder


@pytest.fixture(scope="module")
def views(tmp_path_factory, pictures):
    """Three random parts of each picture ask for one another, one by a box; one database image is broken."""
    folder = tmp_path_factory.mktemp("views") / "views"
    folder.mkdir()
    rng = np.random.default_rng(0)
    names = []
    for name, pixels in sorted(pictures.items()):
        for number in range(3):
            x, y = rng.integers(0, pixels.shape[1] - 100), rng.integers(0, pixels.shape[0] - 80)
            names.append(f"{name}-{number}.png")
            cv2.imwrite(str(folder / names[-1]), pixels[y : y + 80, x : x + 100, ::-1])
    (folder / "broken.png").write_bytes(b"no picture")
    queries = {n: {"positives": [m for m in names if m[:4] == n[:4] and m != n]} for n in names}
    queries["chelsea-1.png"]["box"] = [5, 10, 90, 70]
    truth = {"name": "views", "database": [*names, "broken.png"], "queries": queries}
    (folder / "gt.json").write_text(json.dumps(truth))
    return folder


def recipe_of(weights, network="resnet10t", **changes):
    table = {"network": network, "layer": "layer2", "max_side": 64, "whiten": "none", "pooling": "mac"}
    table |= {"dimensions": 128, "weights": str(weights / f"{network}.safetensors"), **changes}
    facts = {"name": "tiny", "title": "", "source": "", "filter": "global", "image": {"max_side": 128}}
    return Recipe.model_validate({**facts, "global": table})


@pytest.mark.slow
def test_networks_have_the_figures_of_evaluate(views, weights):
    asked = [
        f"{NETWORKS[1]}@layer1={weights}/{NETWORKS[1]}.safetensors",
        f"{NETWORKS[0]}={weights}/{NETWORKS[0]}.safetensors",
    ]
    recipes = network_recipes(asked, 64)
    study = study_depth([load_labelled(views)], recipes)
    assert [r.variant for r in study.results] == ["test_resnet.r160_in1k", "resnet10t"]
    assert [r.global_.layer for r in recipes] == ["layer1", "features"]
    for result, recipe in zip(study.results, recipes, strict=True):
        stage = recipe.global_.model_copy(update={"dimensions": result.dimensions})
        mac = Recipe.model_validate(
            {**recipe.model_dump(by_alias=True), "global": {**stage.model_dump(), "pooling": {"kind": "mac"}}}
        )
        expected = evaluate(views, mac, workers=1).figures.mean_average_precision
        assert result.mean_average_precision == pytest.approx(expected, abs=1e-12)
    assert study.results[0].mean_average_precision != study.results[1].mean_average_precision
    assert study.protocol["network resnet10t"].startswith("resnet10t, layer features, pictures of at most 64 px")
    assert "| resnet10t | none | 512 |" in study.table()
    assert study.warnings == ("views: 1 of its images cannot be read, counted as not retrieved",)


def test_networks_that_cannot_be_studied(views, weights):
    labelled = load_labelled(views)
    recipe = recipe_of(weights)
    with pytest.raises(RecipeError, match="two of the networks are called tiny"):
        study_depth([labelled], [recipe, recipe])
    with pytest.raises(RecipeError, match="no network to study"):
        study_depth([labelled], [])
    with pytest.raises(RecipeError, match=r"there is no weights file none\.pth"):
        network_recipes(["resnet10t=none.pth"], 64)
    with pytest.raises(RecipeError, match="should be NAME"):
        network_recipes(["=file"], 64)
    file = weights / "resnet10t.safetensors"
    twice = network_recipes([f"resnet10t@layer1={file}", "resnet10t@layer1"], 64)
    assert [r.name for r in twice] == ["resnet10t-layer1-resnet10t", "resnet10t-layer1"]


@pytest.fixture(scope="module")
def regional(views, weights):
    return study_regions([load_labelled(views)], recipe_of(weights), levels=2)


def test_one_region_has_the_figure_of_evaluate(regional, views, weights):
    expected = evaluate(views, recipe_of(weights), workers=1).figures.mean_average_precision
    whole, *others = regional.results
    assert whole.mean_average_precision == pytest.approx(expected, abs=1e-12)
    assert [r.variant for r in regional.results] == ["whole image", "1 level", "2 levels"]
    assert len({r.mean_average_precision for r in [whole, *others]}) > 1
    assert len(ET.fromstring(regional.plot()).findall(".//{http://www.w3.org/2000/svg}polyline")) == 2


def test_regions_are_the_maps_squares_under_mac(views, weights):
    """The squares of an image's map cut and pooled by hand."""
    labelled, recipe = load_labelled(views), recipe_of(weights)
    base = {"network": "resnet10t", "layer": "layer2", "max_side": 64, "pooling": "mac"}
    base["weights"] = str(weights / "resnet10t.safetensors")
    tables = {"whole": base, "grid": {**base, "scheme": {"kind": "grid", "levels": 2}}}
    variants = Variants.of(tables, reading(recipe))
    path = labelled.locate(labelled.queries[0].path)
    (found,) = describe_regions(variants, [(path, None)], "", silent)
    (view,) = variants.describer.prepare(cv2.imread(str(path))[:, :, ::-1])
    backbone = load_backbone("resnet10t", layers=("layer2",), weights=weights / "resnet10t.safetensors")
    with torch.no_grad():
        (x,) = backbone(torch.from_numpy(view.pictures[0].copy()).permute(2, 0, 1)[None])
    width, height = x.shape[3], x.shape[2]
    cells = round_outwards(rigid_grid(width, height, 2), width, height).tolist()
    by_hand = [x[0].amax(dim=(1, 2)), *(x[0, :, b:d, a:c].amax(dim=(1, 2)) for a, b, c, d in cells)]
    assert found.upto == (1, len(by_hand))
    np.testing.assert_allclose(found.vectors, l2_normalise(torch.stack(by_hand).numpy()), atol=2e-5)


def test_cross_matches_by_loops():
    rng = np.random.default_rng(0)

    def image(counts):
        return Regions(l2_normalise(rng.normal(size=(counts[-1], 6))).astype(np.float32), counts)

    queries = [image((1, 3, 7)), image((1, 2, 4))]
    database = [image(c) for c in ((1, 3, 6), (1, 2, 5), (1, 4, 9))]
    for level in range(3):
        found = np.stack(list(cross_matches(queries, database, level)))
        for i, q in enumerate(queries):
            for j, d in enumerate(database):
                best = [max(a @ b for b in d.vectors[: d.upto[level]]) for a in q.vectors[: q.upto[level]]]
                assert found[i, j] == pytest.approx(np.mean(best), abs=1e-6)


@pytest.mark.slow
def test_training_sets_against_rerankings(regional, views, weights):
    recipe = recipe_of(weights).model_copy(update={"rerank": (ExpansionStage(method="expansion", k=2),)})
    further = {"widely": [ExpansionStage(method="expansion", k=5, alpha=0.0)]}
    study = study_training_set([load_labelled(views)], {"there": recipe}, further, workers=1)
    found = {(r.variant, r.projection): r.mean_average_precision for r in study.results}
    assert list(found) == [("there", "none"), ("there", "the recipe's own"), ("there", "widely")]
    # Without re-ranking the figure is that of MAC, which the study of regions has found in another way.
    assert found["there", "none"] == pytest.approx(regional.results[0].mean_average_precision, abs=1e-12)
    expected = evaluate(views, recipe, workers=1).figures.mean_average_precision
    assert found["there", "the recipe's own"] == pytest.approx(expected, abs=1e-12)
    assert len(set(found.values())) == 3
    assert study.table().startswith("| recipe | re-ranking | dimensions | views |")
    assert study.results[0].dimensions == 128
    assert "views, widely" in study.plot()


def test_rerankings_that_do_not_fit_are_refused_before_anything_is_measured(views, weights):
    late = recipe_of(weights, also=[{"layer": "layer1"}], fusion="scores")
    further = {"widely": [ExpansionStage(method="expansion")]}
    with pytest.raises(RecipeError, match=r"late, re-ranked by widely: .*one vector an image"):
        study_training_set([load_labelled(views)], {"late": late}, further)
    with pytest.raises(RecipeError, match="two re-rankings are called 'none'"):
        study_training_set([load_labelled(views)], {"plain": recipe_of(weights)}, {"none": []})
    with pytest.raises(RecipeError, match="no recipe to study"):
        study_training_set([load_labelled(views)], {})


def test_what_is_written(regional, tmp_path):
    regional.write(tmp_path)
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert [float(r["mean_average_precision"]) for r in rows] == [r.mean_average_precision for r in regional.results]
    assert rows[0]["variant"] == "whole image" and rows[0]["set"] == "views"
    assert "regions an image, views: whole image 1, 1 level " in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize(
    ("source", "year"),
    [
        ("GeM: Radenović, Tolias & Chum, TPAMI 2019. DenseNet: Huang et al., CVPR 2017", 2019),
        ("Babenko et al., ECCV 2014. AlexNet: Krizhevsky, arXiv 1404.5997", 2014),
        ("arXiv 2004.10934, 2013/2016", 2016),
        ("nobody", None),
    ],
)
def test_the_year_of_a_source(source, year):
    assert year_of(source) == year


def test_every_recipe_that_comes_along_has_a_year():
    from resight.recipes import load_recipe, recipe_names

    years = {name: year_of(load_recipe(name).source) for name in recipe_names()}
    assert all(year is not None and 2003 <= year <= 2026 for year in years.values()), years


def test_the_surveys_figures_as_it_prints_them():
    found = {(m.set, m.system): m for m in read_published("survey")}
    for key, year, score in (
        (("Oxford5k", "neural-codes"), 2014, 43.3),
        (("Paris106k", "crow"), 2016, 69.1),
        (("Holidays", "multilayer-cnn"), 2017, 91.4),
        (("Oxford105k", "deep-retrieval"), 2017, 82.8),
        (("Paris6k", "ime-cnn"), 2018, 96.6),
    ):
        assert (found[key].year, round(100 * found[key].mean_average_precision, 1)) == (year, score)
    assert all(m.published and m.source.startswith("survey, Table ") for m in found.values())


@pytest.fixture
def report_of(number_collection, recipe, write_set, tmp_path):
    def make(called, numbers, ap="trapezoidal"):
        names = [f"{i}.txt" for i in range(len(numbers))]
        queries = {"0.txt": {"positives": ["1.txt", "2.txt"]}}
        folder = write_set(dict(zip(names, numbers, strict=True)), database=names, queries=queries)
        number_collection.kept.clear()
        path = tmp_path / f"{called}-{numbers[1]}.json"
        path.write_text(evaluate(folder, recipe.model_copy(update={"name": called}), ap=ap).to_json())
        return read_report(path)

    return make


def test_progress_by_hand(report_of, tmp_path):
    right, wrong = (0, 1, 2, 9), (0, 9, 2, 1)
    reports = [report_of("crow", right), report_of("mine", wrong), report_of("gem-densenet169", wrong)]
    papers = [Milestone("numbers", "old", 2012, 0.25, True, "-"), Milestone("others", "x", 2013, 0.5, True, "-")]
    found = study_progress(reports, papers, {"mine": 2014})
    low = reports[1].figures.mean_average_precision
    assert low < 1
    assert [(m.system, m.year, m.mean_average_precision) for m in found.milestones] == [
        *(("old", 2012, 0.25), ("mine", 2014, low), ("crow", 2016, 1.0), ("gem-densenet169", 2019, low))
    ]
    svg = ET.fromstring(found.plot())
    lines = [p.get("points").split() for p in svg.iter("{http://www.w3.org/2000/svg}polyline")]
    measured = next(line for line in lines if len(line) == 3)
    heights = [float(point.split(",")[1]) for point in measured]
    assert heights[0] > heights[1] == heights[2]  # down the page is less; the best stays
    found.write(tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"table.md", "results.csv", "results.json", "plot.svg"}
    assert "| numbers | 2016 | crow | 100.0 | here |" in found.table()


def test_what_makes_no_progress(report_of, tmp_path):
    one = report_of("crow", (0, 1, 2, 9))
    with pytest.raises(ResightError, match=r"not by one protocol: their average precision is 'rectangular'"):
        study_progress([one, report_of("spoc", (0, 1, 2, 9), ap="rectangular")])
    with pytest.raises(RecipeError, match="the year of mine is not known: give --year mine=YEAR"):
        study_progress([dataclasses.replace(one, protocol=dataclasses.replace(one.protocol, recipe="mine"))])
    with pytest.raises(ResightError, match="no report and no published figure"):
        study_progress([])
    for text, message in (
        ("set,year\n", "line 1: the header is not set,system,year,map,source"),
        ("set,system,year,map,source\na,b,2014,50\n", "line 2: 4 cells, not 5"),
        ("set,system,year,map,source\na,b,then,50,-\n", "line 2: 'then' or '50' is no number"),
        ("set,system,year,map,source\na,b,2014,500,-\n", "line 2: mAP is in per cent"),
    ):
        (tmp_path / "p.csv").write_text(text)
        with pytest.raises(ResightError, match=message):
            read_published(tmp_path / "p.csv")
