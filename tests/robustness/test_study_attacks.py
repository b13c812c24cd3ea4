"""A study of attacks on a small random network: figures beside `evaluate`, what attackers may do, what is written."""

import csv
import json
import shutil
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import tomli_w
from typer.testing import CliRunner

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402
from two_adapters import built, parts  # noqa: E402

from resight.cli.main import app  # noqa: E402
from resight.describe.describer import Describer  # noqa: E402
from resight.errors import ResightError  # noqa: E402
from resight.evaluation import evaluate, load_labelled  # noqa: E402
from resight.networks.architectures import create_free_size  # noqa: E402
from resight.recipes import Recipe, load_recipe  # noqa: E402
from resight.robustness.answers import ask_pixels  # noqa: E402
from resight.robustness.attack_bench import Bench, Effort  # noqa: E402
from resight.robustness.study_attacks import study_attacks  # noqa: E402
from resight.search.collection import Collection  # noqa: E402

pytestmark = pytest.mark.usefixtures("sketched_once")

NETWORK = "test_resnet.r160_in1k"


@pytest.fixture(scope="module")
def table(tmp_path_factory, recipe):
    """Of a recipe of a random network, verified by local features alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network, _ = create_free_size(NETWORK)
    file = tmp_path_factory.mktemp("weights") / "w.safetensors"
    safetensors.torch.save_file({k: v.contiguous() for k, v in network.state_dict().items()}, file)
    stage = {"network": NETWORK, "layer": "layer3", "max_side": 96, "whiten": "none", "dimensions": 192}
    stage |= {"weights": str(file), "scales": [1.0]}
    shared = recipe.model_dump(mode="json", by_alias=True, exclude_none=True)
    local = {key: shared[key] for key in ("image", "local", "codebook", "verify", "calibration")}
    local["calibration"] |= {"similarity": 0.0, "intercept": -4.0}
    local["image"] |= {"max_side": 192}
    local["local"] |= {"max_features": 200}
    local["codebook"] |= {"words": 64}
    return {"name": "tiny", "title": "", "source": "", "filter": "global", "global": stage, **local}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory, photos):
    """Four queries that are not in the database of eight."""
    folder = tmp_path_factory.mktemp("set") / "views"
    shutil.copytree(photos, folder)
    names = sorted(path.name for path in folder.iterdir() if path.suffix == ".png")
    queries = {f"{n[:-6]}-2.jpg": {"positives": [n]} for n in names if n.endswith("-1.png")}
    (folder / "gt.json").write_text(json.dumps({"name": "views", "database": names, "queries": queries}))
    return load_labelled(folder)


@pytest.fixture(scope="module")
def study(labelled, table):
    return study_attacks(
        [labelled],
        {"one": Recipe.model_validate(table)},
        defences=["none", "resize"],
        epsilons=[2, 8],
        queries=2,
        effort=Effort(steps=3, draws=2, passes=2, learners=1, asked=4),
        workers=1,
    )


def rows(study, **wanted):
    return [r for r in study.results if all(getattr(r, key) == value for key, value in wanted.items())]


def test_clean_figures_are_those_of_evaluate(study, labelled, table):
    from dataclasses import replace

    facts = study.protocol["sets"]["views"]
    assert (facts["queries"], facts["learned on"], facts["average precision"]) == (2, 1, "trapezoidal")
    plain = {key: table[key] for key in table if key not in ("local", "codebook", "verify", "calibration")}
    chosen = np.sort(np.random.default_rng(0).choice(4, 2, replace=False))
    part = replace(labelled, queries=tuple(labelled.queries[n] for n in chosen))
    for defence, recipe in (("none", plain), ("verification", table)):
        (clean,) = rows(study, attack="clean", defence=defence)
        report = evaluate(part, Recipe.model_validate(recipe), workers=1)
        assert clean.mean_average_precision == pytest.approx(report.figures.mean_average_precision, abs=1e-12)
        assert (clean.epsilon, clean.changed, clean.similarity) == (0, 0.0, pytest.approx(1.0, abs=1e-4))


def test_what_is_attacked_is_what_the_default_adapter_compares(labelled, pictures, tmp_path):
    adapted, plain, _ = built(parts(tmp_path))
    pixels = np.ascontiguousarray(pictures["coffee"][:64, :64])
    with Collection.create(tmp_path / "c", adapted) as index:
        joint = index.learned()["adapter joint"]
        found = Bench(index, labelled, {}, lambda *_: None, Effort()).vector(pixels).numpy()
        stored = Describer(plain).describe(pixels).global_descriptor
        np.testing.assert_allclose(found, joint.transform(stored), atol=1e-3)
        index.adapter = "none"
        found = Bench(index, labelled, {}, lambda *_: None, Effort()).vector(pixels).numpy()
        np.testing.assert_allclose(found, stored, atol=1e-3)


def test_each_attack_is_measured_against_each_defence_in_its_way(study):
    assert len(study.results) == 3 * (1 + 4 * 2)
    for defence in ("none", "resize", "verification"):
        (clean,) = rows(study, attack="clean", defence=defence)
        for epsilon in (2, 8):
            (left,) = rows(study, attack="untargeted", defence=defence, epsilon=epsilon)
            assert left.similarity < clean.similarity and left.hit is None
            (black,) = rows(study, attack="black-box", defence=defence, epsilon=epsilon)
            assert black.asked == 4 and left.asked is None
        (hit,) = rows(study, attack="targeted", defence=defence, epsilon=8)
        assert 0 <= hit.hit <= 1
        weak, strong = (rows(study, attack="untargeted", defence=defence, epsilon=e)[0] for e in (2, 8))
        assert strong.similarity < weak.similarity
    for attack in ("untargeted", "targeted", "universal"):  # verification is attacked by the pictures made without it
        for one, other in zip(
            rows(study, attack=attack, defence="none"), rows(study, attack=attack, defence="verification"), strict=True
        ):
            assert one.similarity == other.similarity
            assert one.suspect is None and other.suspect + other.undecided <= 1


def test_the_same_command_has_the_same_result(study, labelled, table):
    again = study_attacks(
        [labelled],
        {"one": Recipe.model_validate(table)},
        attacks=["untargeted", "black-box"],
        defences=["resize"],
        epsilons=[8],
        queries=2,
        effort=Effort(steps=3, draws=2, passes=2, learners=1, asked=4),
        workers=1,
    )
    for attack in ("clean", "untargeted", "black-box"):
        assert rows(again, attack=attack, defence="resize") == [
            r for r in rows(study, attack=attack, defence="resize") if r.epsilon in (0, 8)
        ]


def test_what_is_written(study, tmp_path):
    study.write(tmp_path / "out")
    with (tmp_path / "out/results.csv").open() as file:
        written = list(csv.DictReader(file))
    assert len(written) == len(study.results) and written[0]["attack"] == "clean"
    assert json.loads((tmp_path / "out/results.json").read_text())["protocol"]["defence resize"].startswith("sides")
    text = (tmp_path / "out/table.md").read_text()
    assert "| set | recipe | defence | clean | untargeted 2/255 | untargeted 8/255 | targeted 2/255 |" in text
    assert "| set | recipe | flagged as suspect | clean |" in text
    assert ET.parse(tmp_path / "out/plot-black-box.svg").getroot().tag.endswith("svg")
    page = (tmp_path / "out/report.html").read_text()
    # Of two queries: clean, and under four attacks; the altered part, and what is found first.
    assert page.count("<img ") == 2 * (1 + 1 + 4 * 3)
    assert page.count("<table>") == 2 and page.count("<svg") == 4


def test_the_filters_own_ranking_ends_the_search(labelled, table, tmp_path, pictures):
    with Collection.create(tmp_path / "c", Recipe.model_validate(table)) as index:
        index.add([labelled.root], workers=1)
        plain, verified = (ask_pixels(index, pictures["coffee"], verified=v) for v in (False, True))
        assert all(evidence is None for evidence in plain.ranking.evidence)
        assert not plain.ranking.calibrated and verified.ranking.calibrated
        assert np.array_equal(plain.ranking.ids, verified.first.ids)
        own = index.find(str(labelled.locate("coffee-1.png")))
        assert verified.ranking.ids[0] == own and verified.ranking.place == verified.place(np.empty(0, np.int64))
        place = int(np.flatnonzero(plain.ranking.ids == own)[0]) + 1
        assert verified.ranking.place <= place
        assert plain.mean_score(plain.ranking.ids[:2]) == pytest.approx(float(plain.ranking.scores[:2].mean()))
        # Without its matches nothing can be told of it.
        matches = verified.ranking.ids[: verified.ranking.accepted]
        assert verified.place(matches) is None and own not in verified.without(matches)


def test_it_asks_for_what_there_is(labelled, table):
    recipes = {"one": Recipe.model_validate(table)}
    with pytest.raises(ResightError, match="there is no attack 'physical': choose untargeted"):
        study_attacks([labelled], recipes, attacks=["physical"])
    with pytest.raises(ResightError, match="none is left to learn a universal"):
        study_attacks([labelled], recipes, queries=4)
    with pytest.raises(ResightError, match=r"has no \[global\] table"):
        study_attacks([labelled], {"x": load_recipe("rootsift-asmk")}, attacks=["untargeted"], workers=1)


def test_what_makes_a_set_worth_less_is_said(labelled, table, tmp_path, monkeypatch):
    shutil.copytree(labelled.root, tmp_path / "views")
    broken = next(p for p in labelled.database if not any(p in query.positives for query in labelled.queries))
    (tmp_path / "views" / broken).write_bytes(b"no picture")
    monkeypatch.setattr(
        "resight.robustness.study_attacks.fitted_share", lambda *_: {"codebook": 0.1, "whitening": 0.25}
    )
    plain = {key: table[key] for key in table if key not in ("local", "codebook", "verify", "calibration")}
    recipes = {"one": Recipe.model_validate(plain)}
    found = study_attacks([load_labelled(tmp_path / "views")], recipes, attacks=[], queries=1, workers=1)
    assert [result.attack for result in found.results] == ["clean"]
    unread, learned = found.warnings
    assert "1 of its images cannot be read" in unread and "25 % of its photos were learned from" in learned


def test_the_command(labelled, table, tmp_path):
    plain = {key: table[key] for key in table if key not in ("local", "codebook", "verify", "calibration")}
    (tmp_path / "tiny.toml").write_text(tomli_w.dumps(plain))
    arguments = ["study", "attacks", labelled.root, "--recipe", tmp_path / "tiny.toml", "--into", tmp_path / "out"]
    arguments += ["--attack", "untargeted", "--defence", "none", "--epsilon", 4, "--queries", 2, "--steps", 2]
    result = CliRunner().invoke(app, [str(each) for each in [*arguments, "--workers", 1, "--quiet"]])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("| set | recipe | defence | clean | untargeted 4/255 |\n")
    assert "| views | tiny.toml | none | " in result.stdout
    assert (tmp_path / "out/report.html").is_file()
