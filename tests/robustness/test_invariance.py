"""Curves and their areas beside integrals by hand, and the study beside `evaluate` on sets changed in files."""

import csv
import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from zlib import crc32

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from resight.cli.main import app
from resight.errors import QueryError, RecipeError, ResightError
from resight.evaluation import evaluate, load_labelled
from resight.recipes.query_stage import QueryStage
from resight.recipes.rerank_stages import ExpansionStage
from resight.robustness.curves import Invariance, Measured, relative_area
from resight.robustness.invariance import _picture, study_invariance
from resight.robustness.transformations import TRANSFORMATIONS

SVG = "{http://www.w3.org/2000/svg}"


def test_areas_by_hand():
    assert relative_area([0, 1, 4], [0.5, 0.5, 0.5]) == pytest.approx(1)
    # 0.8 → 0.4 over 1, then 0.4 → 0 over 3: (0.6 + 0.6) of 0.8 · 4.
    assert relative_area([0, 1, 4], [0.8, 0.4, 0]) == pytest.approx(1.2 / 3.2)
    assert relative_area([0, 1], [0.5, 0.75]) == pytest.approx(1.25)
    assert relative_area([0, 1], [0, 0.5]) is None
    for strengths, scores in (([0], [1]), ([0, 0], [1, 1]), ([0, 1], [1])):
        with pytest.raises(ValueError, match="strengths"):
            relative_area(strengths, scores)


def test_areas_of_a_straight_fall_are_a_half():
    """And the trapezoids of a fine curve are its integral."""
    x = np.linspace(0, 3, 400)
    assert relative_area(x, 1 - x / 3) == pytest.approx(0.5)
    assert relative_area(x, np.exp(-x)) == pytest.approx((1 - np.exp(-3)) / 3, abs=1e-5)


@pytest.fixture(scope="module")
def quick(recipe):
    """With few features, for speed."""
    return recipe.model_copy(update={"local": recipe.local.model_copy(update={"max_features": 200})})


@pytest.fixture(scope="module")
def views(tmp_path_factory, photos, save, pictures):
    """The second view of each thing asks for the first, one by a box."""
    folder = tmp_path_factory.mktemp("set") / "views"
    names = sorted(path.name for path in photos.glob("*.[pj][np]g"))
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes((photos / name).read_bytes())
    things = ("astronaut", "chelsea", "coffee", "rocket")
    queries = {f"{thing}-2.jpg": {"positives": [f"{thing}-1.png"]} for thing in things}
    queries["coffee-2.jpg"]["box"] = [40, 30, 280, 180]
    database = [name for name in names if name not in queries]
    (folder / "gt.json").write_text(json.dumps({"name": "views", "database": database, "queries": queries}))
    return folder


@pytest.fixture(scope="module")
def study(views, quick):
    """Of the weakest and the strongest change, for speed."""
    looks = {"2 turns": QueryStage(turns=2)}
    few = {name: replace(each, strengths=each.strengths[::4]) for name, each in TRANSFORMATIONS.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("resight.robustness.invariance.TRANSFORMATIONS", few)
        return study_invariance(
            [load_labelled(views)], {"sift": quick}, only=["rotation", "noise"], queries=looks, side=320, workers=1
        )


def test_a_point_is_what_evaluate_says_of_changed_files(study, views, quick, tmp_path):
    truth = json.loads((views / "gt.json").read_text())
    for name in truth["database"]:
        (tmp_path / name).write_bytes((views / name).read_bytes())
    labelled = load_labelled(views)
    for strength in (0, 80):
        changed = {}
        for query in labelled.queries:
            pixels = cv2.imread(str(views / query.path))[..., ::-1]
            own = (0, crc32(f"{query.path} {query.box}".encode()))
            noisy, _ = TRANSFORMATIONS["noise"].change(np.ascontiguousarray(pixels), strength, own, query.box)
            changed[query.path] = f"{query.path}.png"
            cv2.imwrite(str(tmp_path / changed[query.path]), noisy[..., ::-1])
        queries = {changed[path]: facts for path, facts in truth["queries"].items()}
        (tmp_path / "gt.json").write_text(json.dumps({**truth, "queries": queries}))
        expected = evaluate(tmp_path, quick, workers=1).figures.mean_average_precision
        (found,) = [
            r.mean_average_precision
            for r in study.results
            if r.strength == strength and r.transformation in ("unchanged", "noise") and r.system == "sift"
        ]
        assert found == pytest.approx(expected, abs=1e-12)


def test_what_is_found_and_written(study, tmp_path):
    assert len(study.results) == 2 * (1 + 2 + 2)
    plain, turned = (next(r for r in study.results if r.system == name) for name in ("sift", "sift, 2 turns"))
    assert plain.transformation == "unchanged" and plain.mean_average_precision == 1
    assert turned.milliseconds > plain.milliseconds > 0
    areas = {(a.transformation, a.system): a.area for a in study.areas}
    assert areas["rotation", "sift"] > 0.9, "SIFT has orientations"
    assert areas["noise", "sift"] < 1
    study.write(tmp_path)
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert [float(r["mean_average_precision"]) for r in rows] == [r.mean_average_precision for r in study.results]
    kept = list(csv.DictReader((tmp_path / "areas.csv").open()))
    assert [float(r["area"]) for r in kept] == [a.area for a in study.areas]
    table = (tmp_path / "table.md").read_text()
    assert "| mAP, unchanged |  | 100.0 | 100.0 |" in table and "| area, rotation | 180 degrees |" in table
    assert "area: ∫ mAP(s)" in table
    assert json.loads((tmp_path / "results.json").read_text())["protocol"]["sets"]["views"]["queries"] == 4
    svg = ET.fromstring((tmp_path / "plot.svg").read_text())
    curves = [p for p in svg.iter(f"{SVG}polyline") if len(p.get("points").split()) == 3]
    assert len(curves) == 4, "two panels of two curves"
    assert len(svg.findall(f"{SVG}g")) == 2


def test_panels_stand_apart():
    """No panel of a plot of thirteen begins within another, and all are within the picture."""
    results = [Measured("s", "x", "unchanged", "", 0, 0.9, 1)]
    for each in TRANSFORMATIONS.values():
        results += [Measured("s", "x", each.name, each.unit, s, 0.5, 1) for s in each.strengths]
    svg = ET.fromstring(Invariance({"sets": {}}, tuple(results)).plot())
    spans = []
    for panel in svg.findall(f"{SVG}g"):
        left, top = (float(v) for v in panel.get("transform")[10:-1].split())
        x, y = zip(*[map(float, p.split(",")) for p in panel.find(f"{SVG}polyline").get("points").split()], strict=True)
        spans.append((left + min(x), top + min(y), left + max(x), top + max(y)))
        assert spans[-1][2] < float(svg.get("width")) and spans[-1][3] < float(svg.get("height"))
    assert len(spans) == len(TRANSFORMATIONS)
    for number, one in enumerate(spans):
        for other in spans[:number]:
            assert one[0] > other[2] or other[0] > one[2] or one[1] > other[3] or other[1] > one[3]


def test_what_cannot_be_studied(views, recipe):
    labelled = load_labelled(views)
    with pytest.raises(ResightError, match="no transformation 'spin'; there are rotation, "):
        study_invariance([labelled], {"sift": recipe}, only=["spin"])
    with pytest.raises(RecipeError, match="no recipe to study"):
        study_invariance([labelled], {})
    reranked = recipe.model_copy(update={"rerank": (ExpansionStage(method="expansion"),)})
    with pytest.raises(RecipeError, match=r"sift, 4 turns: .*max.* has no one query"):
        study_invariance([labelled], {"sift": reranked}, queries={"4 turns": QueryStage(turns=4)})


@pytest.mark.parametrize("change", ["rotation", "scale", "crop", "viewpoint"])
def test_a_box_goes_with_its_query(views, change):
    """It is halved with its picture; a blot that fills it is still in it after each change that moves pixels."""
    labelled = load_labelled(views)
    query = next(q for q in labelled.queries if q.box is not None)
    pixels, box = _picture(labelled, query, 160)
    assert pixels.shape[1] == 160 and box == pytest.approx((20, 15, 140, 90), abs=0.5)
    black = np.zeros_like(pixels)
    black[15:90, 20:140] = 255
    each = TRANSFORMATIONS[change]
    seen, (x1, y1, x2, y2) = each.change(black, each.strengths[1], 3, (20, 15, 140, 90))
    inside = seen[round(y1) : round(y2), round(x1) : round(x2)] > 200
    outside = (seen > 200).sum() - inside.sum()
    assert inside.mean() > 0.4 and outside <= 0.01 * inside.sum()


def test_a_query_that_cannot_be_read_is_named(views, recipe, tmp_path):
    for path in views.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "rocket-2.jpg").write_bytes(b"no picture")
    with pytest.raises(QueryError, match=r"query rocket-2\.jpg of views"):
        study_invariance([load_labelled(tmp_path)], {"sift": recipe}, only=["blur"], workers=1)


def test_the_command(views, tmp_path):
    line = ["study", "invariance", str(views), "--into", str(tmp_path / "out"), "--only", "grey", "--queries", "2"]
    found = CliRunner().invoke(app, [*line, "--side", "320", "--workers", "1", "--turns", "2"])
    assert found.exit_code == 0, found.output
    assert "area, grey" in found.output and "rootsift-asmk, 2 turns" in found.output
    facts = json.loads((tmp_path / "out/results.json").read_text())["protocol"]["sets"]["views"]
    assert facts["queries"] == 2 and "2 of 4 queries" in facts["selection"]
    again = CliRunner().invoke(app, line)
    assert again.exit_code == 2 and "not an empty folder" in again.output
    bad = CliRunner().invoke(app, [*line[:3], "--into", str(tmp_path / "no"), "--scales", "0.5"])
    assert bad.exit_code == 2 and "begin with 1.0" in bad.output
