"""Re-ranking by matches of local features: the counts are those of matching and verification by hand."""

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from resight.cli.rerank import parse_stage
from resight.describe.describer import Describer
from resight.describe.description import Description
from resight.geometry.homography import corners, project
from resight.local.nearest import match_all
from resight.local.verification import verify
from resight.recipes.recipe import VerifyStage
from resight.recipes.rerank_stages import RerankStage
from resight.search.examples import DescribedExample
from resight.search.rerank import Database, initial_ranking
from resight.search.rerank.cache import Cache
from resight.search.rerank.matching import MatchReranker, evidence_of, mutual_matcher
from resight.search.rerank.stages import Asked, Source, prepare

STAGE = VerifyStage()


@pytest.fixture(scope="module")
def shown(pictures, view, recipe):
    """Descriptions of four images, of which 2 and 3 are views of the query, and the query; the vectors favour 0."""
    few = recipe.local.model_copy(update={"max_features": 300})
    describer = Describer(recipe.model_copy(update={"local": few}))
    other, truth = view(pictures["astronaut"], 0)
    pixels = [pictures["chelsea"], pictures["brick"], other, view(pictures["astronaut"], 1)[0]]
    vectors = np.array([[1, 0], [0.9, 0.44], [0.8, 0.6], [0, 1]], np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = [Description(d.size, v, d.local) for v, d in zip(vectors, map(describer.describe, pixels), strict=True)]
    asked = describer.describe(pictures["astronaut"])
    return dict(enumerate(found)), Description(asked.size, vectors[0], asked.local), truth


def by_hand(query, result, ratio=None):
    i, j, _ = match_all(query.local.descriptors, result.local.descriptors, ratio=ratio)
    limit = STAGE.max_error * max(result.size)
    return verify(query.local, result.local, i, j, max_error=limit, seed=0), i, j


def test_evidence_is_that_of_its_matches(shown):
    descriptions, query, truth = shown
    box = (60.0, 30.0, 200.0, 180.0)
    evidence = evidence_of(query, box, descriptions[2], mutual_matcher(1.0), STAGE, oriented=True)
    found, i, j = by_hand(query, descriptions[2])
    assert evidence.matches == len(i) and evidence.inliers == len(found.inliers) > 30
    pairs = {(*a, *b) for a, b in zip(query.local.xy[i].tolist(), descriptions[2].local.xy[j].tolist(), strict=True)}
    agreed = np.column_stack([evidence.query_xy, evidence.result_xy])
    assert {tuple(row) for row in agreed.tolist()} <= pairs
    assert np.abs(evidence.outline - project(truth, corners(box))).max() < 2


def test_images_come_by_inliers_and_then_as_before(shown):
    descriptions, query, _ = shown
    database = Database(np.arange(4), np.stack([d.global_descriptor for d in descriptions.values()]))
    start = initial_ranking(query.global_descriptor, database)
    assert start.ids.tolist() == [0, 1, 2, 3]
    stages = [parse_stage("matching:depth=3,ratio=0.85")]
    prepared = prepare(stages, Source(database, Cache(None), descriptions=descriptions))
    vector = query.global_descriptor
    ranking = prepared.rerank(Asked(vector, vector[None], (DescribedExample(query),)), start)
    counts = [len(by_hand(query, descriptions[image], 0.85)[0].inliers) for image in range(3)]
    order = sorted(range(3), key=lambda image: (-counts[image], image))
    assert ranking.ids.tolist() == [*order, 3] and order[0] == 2
    assert ranking.scores[:3].tolist() == [counts[image] for image in order]
    assert [e.inliers for e in ranking.evidence[:3]] == ranking.scores[:3].tolist() and ranking.evidence[3] is None
    assert not ranking.calibrated and ranking.threshold == -np.inf


def test_what_an_unwanted_example_shows_better_is_put_back(shown):
    descriptions, query, _ = shown
    reranker = MatchReranker(descriptions, mutual_matcher(0.85), STAGE)
    database = Database(np.arange(4), np.stack([d.global_descriptor for d in descriptions.values()]))
    start = initial_ranking(query.global_descriptor, database)
    wanted, unwanted = DescribedExample(query), DescribedExample(descriptions[2], None, -1.0)
    scores = [
        dict(zip(ranking.ids.tolist(), ranking.scores.tolist(), strict=True))
        for ranking in (reranker.rerank([wanted], start), reranker.rerank([wanted, unwanted], start))
    ]
    assert scores[0][2] > 30 and scores[1][2] == 0  # it is the unwanted picture itself


def test_weights_go_with_lightglue():
    for table in ({"matcher": "lightglue"}, {"model": "glue.pth"}):
        with pytest.raises(ValidationError, match="goes with model"):
            TypeAdapter(RerankStage).validate_python({"method": "matching"} | table)


def test_lightglue_ranks_what_it_matches(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    from resight.local.features import LocalFeatures, quantised
    from resight.local.lightglue import VARIANTS, LightGlue, load_lightglue

    torch.manual_seed(0)
    save_file(LightGlue(VARIANTS["aliked"]).state_dict(), tmp_path / "glue.safetensors")

    def described(seed):
        rng = np.random.default_rng(seed)
        descriptors = rng.normal(size=(12, 128)).astype(np.float32)
        descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
        ones = np.ones(12, np.float32)
        xy = rng.uniform(0, 90, (12, 2)).astype(np.float32)
        return Description((90, 90), None, quantised(LocalFeatures(xy, ones, 0 * ones, ones, descriptors)))

    query, descriptions = described(0), {image: described(image) for image in range(3)}
    database = Database(np.arange(3), np.eye(3, dtype=np.float32))
    start = initial_ranking(database.vectors[2], database)
    stage = parse_stage(f"matching:matcher=lightglue,model={tmp_path / 'glue.safetensors'}")
    prepared = prepare([stage], Source(database, Cache(None), descriptions=descriptions, oriented=False))
    asked = Asked(database.vectors[2], database.vectors[2][None], (DescribedExample(query),))
    ranking = prepared.rerank(asked, start)
    network = load_lightglue(tmp_path / "glue.safetensors", "aliked")
    for image, evidence in zip(ranking.ids.tolist(), ranking.evidence, strict=True):
        i, j, _ = network.match(query.local, (90, 90), descriptions[image].local, (90, 90))
        found = verify(query.local, descriptions[image].local, i, j, max_error=0.9, seed=0, oriented=False)
        assert evidence.matches == len(i) and evidence.inliers == len(found.inliers)
