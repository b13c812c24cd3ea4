"""Queries of several images: against loops that follow the definitions, and in a real collection of small photos."""

import math
from dataclasses import fields, replace
from itertools import permutations

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import resight
from resight.describe.description import Description
from resight.errors import QueryError
from resight.geometry.homography import corners
from resight.images import read_image
from resight.recipes import Recipe
from resight.search.collection import Collection
from resight.search.examples import DescribedExample, Example, best_evidence, joint_descriptor, mean_similarity
from resight.search.ranking import Evidence
from resight.search.searcher import Searcher
from resight.store.store import New, Store

NONE = Evidence(0, 0, None, None, None, np.empty((0, 2), np.float32), np.empty((0, 2), np.float32))


@pytest.fixture(scope="module")
def collection(indexed):
    with Collection.open(indexed) as opened:
        yield opened


@pytest.fixture(scope="module")
def ids(collection, photos) -> dict[str, int]:
    return {path.name: collection.find(str(path)) for path in photos.glob("*.*g")}


@pytest.fixture(scope="module")
def montage(pictures) -> np.ndarray:
    """Coffee at the left and Chelsea at the right, each the top left 300×213 pixels of its picture."""
    return np.hstack([pictures[name][:213, :300] for name in ("coffee", "chelsea")])


def found(ranking) -> set[int]:
    return set(ranking.ids[: ranking.accepted].tolist())


def scores(ranking) -> dict[int, float]:
    return dict(zip(ranking.ids.tolist(), ranking.scores.tolist(), strict=True))


def pieces(ranking) -> dict[int, Evidence]:
    return dict(zip(ranking.ids.tolist(), ranking.evidence, strict=True))


def assert_same(one, other) -> None:
    """To the last bit, evidence included."""
    np.testing.assert_array_equal(one.ids, other.ids)
    np.testing.assert_array_equal(one.scores, other.scores)
    assert (one.threshold, one.calibrated) == (other.threshold, other.calibrated)
    for a, b in zip(one.evidence, other.evidence, strict=True):
        for field in fields(Evidence):
            np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name), field.name)


def both(ids, name: str) -> set[int]:
    return {ids[f"{name}-1.png"], ids[f"{name}-2.jpg"]}


@pytest.mark.parametrize("weight", [1.0, 0.3])
@pytest.mark.parametrize("box", [None, (300, 0, 600, 213)])
def test_one_example_is_a_plain_search(collection, montage, box, weight):
    """Whatever its weight, which is beside that of no other."""
    assert_same(collection.search_examples([Example(montage, box, weight)]), collection.search(montage, box=box))


def test_an_image_of_the_collection_is_an_example_too(collection, ids):
    one = collection.search_examples([Example(ids["moon.png"])], top=3)
    assert len(one) == 3
    assert_same(one, collection.search(ids["moon.png"], top=3))


def test_two_sides_of_a_thing_find_what_each_alone_does_not(collection, photos, ids):
    front, back = photos / "coffee-1.png", photos / "chelsea-2.jpg"
    assert found(collection.search(front)) == both(ids, "coffee")
    assert found(collection.search(back)) == both(ids, "chelsea")
    ranking = collection.search_examples([Example(front), Example(back)])
    assert found(ranking) == both(ids, "coffee") | both(ids, "chelsea")
    seen = {image_id: piece.example for image_id, piece in pieces(ranking).items()}
    assert [seen[i] for name in ("coffee", "chelsea") for i in both(ids, name)] == [0, 0, 1, 1]


def test_examples_may_be_of_any_kind_and_one_may_have_a_box(collection, photos, ids, montage):
    with PIL.Image.open(photos / "rocket-1.png") as opened:
        rocket = opened.convert("RGB")
    box = (300, 0, 600, 213)
    examples = [rocket, Example(montage, box), str(photos / "moon.png"), read_image(photos / "brick.png")]
    ranking = collection.search_examples([e if isinstance(e, Example) else Example(e) for e in examples])
    wanted = both(ids, "rocket") | both(ids, "chelsea") | {ids["moon.png"], ids["brick.png"]}
    assert found(ranking) == wanted  # and not coffee, which is in the montage outside the box
    piece = pieces(ranking)[ids["chelsea-1.png"]]
    assert piece.example == 1
    np.testing.assert_allclose(piece.outline, corners((0, 0, 300, 213)), atol=2)


def test_an_unwanted_example_pushes_the_look_alike_down(collection, pictures, ids):
    """Two pictures show a part of what the query does; an unwanted one shows more of them than the query does."""
    query = np.hstack([pictures["coffee"][:213, :300], pictures["chelsea"][:213, 60:200]])
    before = collection.search(query)
    assert found(before) == both(ids, "coffee") | both(ids, "chelsea")
    ranking = collection.search_examples([Example(query), Example(ids["chelsea-1.png"], weight=-1)])
    assert found(ranking) == both(ids, "coffee")
    assert {i: scores(ranking)[i] for i in found(ranking)} == {i: scores(before)[i] for i in found(ranking)}
    shown = pieces(ranking)[ids["chelsea-2.jpg"]]
    assert shown.example == 0 and shown.inliers > 10  # what spoke for it can still be seen


def test_an_unwanted_example_that_resembles_nothing_changes_nothing(collection, montage):
    blank = Example(np.full((200, 300, 3), 77, np.uint8), weight=-3)
    assert_same(collection.search_examples([Example(montage), blank]), collection.search(montage))


def test_scores_are_by_the_definition(collection, photos, ids, montage, recipe):
    """From searches for each example alone, and their similarities."""
    images = [montage, photos / "rocket-2.jpg", ids["chelsea-1.png"], photos / "rocket-1.png"]
    weights = [1.0, 0.5, -0.25, 2.0]
    searcher = collection._open_searcher()
    alone = [pieces(collection.search(image)) for image in images]
    similar = [
        dict(zip(searcher.snapshot.ids.tolist(), map(float, searcher.similarity(d)), strict=True))
        for d in (collection._described(image, None) for image in images)
    ]
    ranking = collection.search_examples([Example(i, None, w) for i, w in zip(images, weights, strict=True)])
    calibration, expected, seen = recipe.calibration, {}, {}
    for i in searcher.snapshot.ids.tolist():
        wanted = [(alone[e][i].inliers, similar[e][i], e) for e in (0, 1, 3)]
        inliers, similarity, seen[i] = max(wanted)
        if inliers == 0 or alone[2][i].inliers > inliers:
            inliers = 0
            total = sum(w * s[i] for w, s in zip(weights, similar, strict=True))
            similarity = max(0.0, total / (1.0 + 0.5 + 2.0))
        agreed = 0.3 + 0.7 * alone[seen[i]][i].agreement
        odds = calibration.intercept + calibration.inliers * agreed * math.log(1 + max(0, inliers - 4))
        expected[i] = 1 / (1 + math.exp(-odds - calibration.similarity * similarity))
    assert scores(ranking) == pytest.approx(expected, rel=1e-5)
    assert {i: piece.example for i, piece in pieces(ranking).items()} == seen
    assert {i: piece.inliers for i, piece in pieces(ranking).items()} == {i: alone[seen[i]][i].inliers for i in seen}


def test_the_order_of_the_examples_does_not_matter(collection, photos, ids, montage):
    examples = [
        Example(montage),
        Example(photos / "rocket-2.jpg", weight=0.7),
        Example(ids["chelsea-1.png"], None, -0.3),
    ]
    orders = (examples, examples[::-1], [*examples[1:], examples[0]])
    first, *others = [(collection.search_examples(order), order) for order in orders]
    for ranking, order in others:
        np.testing.assert_array_equal(ranking.ids, first[0].ids)
        np.testing.assert_array_equal(ranking.scores, first[0].scores)
        for a, b in zip(ranking.evidence, first[0].evidence, strict=True):
            assert a.inliers == b.inliers
            assert a.inliers == 0 or order[a.example] is first[1][b.example]


def test_without_verification_words_rank_by_the_mean_similarity(collection, photos, recipe):
    searcher = Searcher(collection._store, recipe.model_copy(update={"verify": None, "calibration": None}))
    described = [collection._described(photos / f"{n}-1.png", None) for n in ("coffee", "chelsea", "rocket")]
    weights = (3.0, 1.0, -2.0)
    each = [searcher.similarity(d).tolist() for d in described]
    expected = {
        i: max(0.0, (3 * a + b - 2 * c) / 4) for i, a, b, c in zip(searcher.snapshot.ids.tolist(), *each, strict=True)
    }
    examples = [DescribedExample(d, None, w) for d, w in zip(described, weights, strict=True)]
    ranking, timing = searcher.rank_examples(examples, None)
    assert scores(ranking) == pytest.approx(expected, rel=1e-5, abs=1e-9)
    assert ranking.ids.tolist() == sorted(expected, key=lambda i: (-np.float32(scores(ranking)[i]), i))
    assert timing.comparisons == sum(searcher.rank(d, None, None)[1].comparisons for d in described)


@pytest.mark.parametrize(
    ("example", "said"),
    [
        (Example(99), "^example 2, id:99: there is no image with this id"),
        (Example("/no/such.jpg"), "^example 2, /no/such.jpg: the file does not exist"),
        (Example(np.zeros((2, 2))), "^example 2, <ndarray>: .* is no picture"),
        (Example(1, (0, 0, 999, 9)), "^example 2, .*leaves the image, which is 320×320"),
        (Example(np.zeros((20, 30, 3), np.uint8), (0, 0, 31, 9), -1), "^example 2, .*leaves the image, which is 30×20"),
    ],
)
def test_errors_name_the_example(collection, example, said):
    with pytest.raises(QueryError, match=said):
        collection.search_examples([Example(1), example])


@pytest.mark.parametrize("examples", [[], [Example(1, None, -1), Example("a.jpg", None, -2)]])
def test_something_must_be_wanted(collection, examples):
    with pytest.raises(QueryError, match="needs an example with a weight above 0"):
        collection.search_examples(examples)


@pytest.mark.parametrize("weight", [0, math.nan, math.inf, -math.inf])
def test_weights_that_say_nothing_are_refused(weight):
    with pytest.raises(QueryError, match=r"^a/b.jpg: weight .* says nothing"):
        resight.Example("a/b.jpg", weight=weight)


# Global descriptors, in a collection made of drawn vectors.

LATE = {"fusion": "scores", "weight": 2.0, "also": [{"network": "-", "dimensions": 2}]}


def vector_recipe(**changes) -> Recipe:
    stage = {"network": "-", "dimensions": 3, **changes}
    return Recipe.model_validate({"name": "v", "title": "-", "source": "-", "filter": "global", "global": stage})


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x * x).sum())


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    """24×5, of parts of 3 and 2, each of unit length."""
    drawn = np.random.default_rng(3).normal(size=(24, 5))
    return np.float32([np.concatenate([unit(row[:3]), unit(row[3:])]) for row in drawn])


@pytest.fixture
def searcher_of(tmp_path):
    def make(recipe: Recipe, vectors: np.ndarray) -> Searcher:
        store = Store.create(tmp_path / "c", recipe, "f00d")
        made.append(store)
        store.add([New(f"/{i}", "", 1, 2, described(v).description) for i, v in enumerate(vectors)], [], None)
        return Searcher(store)

    made: list[Store] = []
    yield make
    for store in made:
        store.close()


def described(vector: np.ndarray, weight: float = 1.0) -> DescribedExample:
    return DescribedExample(Description((8, 8), np.float32(vector), None), None, weight)


def test_global_descriptors_are_summed_with_their_weights(searcher_of, vectors):
    vectors = vectors[:, :3]
    searcher = searcher_of(vector_recipe(), vectors)
    examples = [described(vectors[0]), described(vectors[1], 0.4), described(vectors[2], -0.7)]
    joint = unit(vectors[0] + 0.4 * vectors[1] - 0.7 * vectors[2].astype(float))
    expected = {i: float(v @ joint) for i, v in enumerate(vectors, 1)}
    ranking, timing = searcher.rank_examples(examples, None)
    assert scores(ranking) == pytest.approx(expected, abs=1e-6) and timing.comparisons == 4 * 24
    assert ranking.ids.tolist() == sorted(expected, key=lambda i: -expected[i])


def test_what_lies_between_two_examples_is_found_by_both_alone_last(searcher_of):
    """Each example has three images nearer to itself than the one between them."""
    degrees = np.array([0, -10, 10, -20, 90, 80, 100, 110, 45])
    points = np.column_stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees)), np.zeros(9)])
    searcher = searcher_of(vector_recipe(), points)
    for alone in (points[0], points[4]):
        assert searcher.rank(described(alone).description, None, None)[0].ids.tolist().index(9) == 4
    ranking, _ = searcher.rank_examples([described(points[0]), described(points[4])], None)
    assert ranking.ids[0] == 9
    towards, _ = searcher.rank_examples([described(points[0], 9), described(points[4])], 1)
    assert towards.ids.tolist() == [3]  # at 10°, the nearest to atan(1/9) = 6.3°
    away, _ = searcher.rank_examples([described(points[0]), described(points[4], -0.25)], 1)
    assert away.ids.tolist() == [2]  # at −10°, the nearest to −atan(1/4) = −14° but one; −20° is further


def test_late_fusion_keeps_the_parts_apart(searcher_of, vectors):
    searcher = searcher_of(vector_recipe(**LATE), vectors)
    examples = [described(vectors[5]), described(vectors[6], 0.5), described(vectors[7], -1)]
    a, b, c = (vectors[i].astype(float) for i in (5, 6, 7))
    expected = {}
    for i, v in enumerate(vectors, 1):
        first, second = (unit(a[p] + 0.5 * b[p] - c[p]) @ v[p] for p in (slice(0, 3), slice(3, 5)))
        expected[i] = (2 * first + second) / 3
    ranking, _ = searcher.rank_examples(examples, None)
    assert scores(ranking) == pytest.approx(expected, abs=1e-6)


def test_examples_that_cancel_each_other_are_refused(searcher_of, vectors):
    searcher = searcher_of(vector_recipe(**LATE), vectors)
    with pytest.raises(QueryError, match="cancel each other out"):
        searcher.rank_examples([described(vectors[5]), described(vectors[5], -1)], None)
    with pytest.raises(QueryError, match="weight above 0"):
        searcher.rank_examples([described(vectors[5], -1)], None)


weighted = st.lists(
    st.tuples(st.lists(st.floats(-1, 1), min_size=6, max_size=6), st.floats(0.01, 10)), min_size=2, max_size=6
)


@settings(max_examples=40)
@given(weighted, st.randoms(use_true_random=False))
def test_joining_is_blind_to_order_and_scale(examples, random):
    rows, weights = map(list, zip(*examples, strict=True))
    shuffled = random.sample(examples, len(examples))
    for join in (lambda r, w: joint_descriptor(np.add(r, 2), w, (4, 2)), mean_similarity):
        one = join(rows, weights)
        np.testing.assert_array_equal(join(*map(list, zip(*shuffled, strict=True))), one)
        np.testing.assert_allclose(join(rows, [3 * w for w in weights]), one, rtol=1e-5, atol=1e-6)


@settings(max_examples=40)
@given(weighted)
def test_mean_similarity_is_the_loop(examples):
    examples = [(row, -w if i % 2 else w) for i, (row, w) in enumerate(examples)]
    result = mean_similarity([row for row, _ in examples], [w for _, w in examples])
    for n in range(6):
        total = sum(w * row[n] for row, w in examples) / sum(w for _, w in examples if w > 0)
        assert result[n] == pytest.approx(max(0.0, total), abs=1e-5)


def test_a_joint_descriptor_worked_by_hand():
    """Each part is normalised before and after; the second parts are at right angles, the first ones opposite."""
    joint = joint_descriptor([[3.0, 4.0, 0.1, 0.0], [-30.0, -40.0, 0.0, 7.0]], [1.0, -0.5], (2, 2))
    np.testing.assert_allclose(joint, [0.6, 0.8, 1 / math.sqrt(1.25), -0.5 / math.sqrt(1.25)], rtol=1e-6)
    assert joint.dtype == np.float32


def test_sums_are_the_same_in_any_order_to_the_last_bit():
    """Where 1e16 + 1 − 1e16 depends on it."""
    assert (
        len({float(mean_similarity([[x] for x in order], [1, 1, 1])[0]) for order in permutations((1e16, 1, -1e16))})
        == 1
    )


def test_similarities_below_zero_stay_where_nothing_is_subtracted():
    np.testing.assert_allclose(mean_similarity([[-0.5, 1.0], [-0.1, 0.0]], [1, 3]), [-0.2, 0.25])


def test_the_best_evidence_worked_by_hand():
    """Examples 0 and 2 are wanted, 1 is not; five candidates, at positions 4 to 8."""
    inliers = {0: (9, 5, 7, 0, 7), 1: (9, 8, 0, 1, 6), 2: (3, 7, 7, 0, 7)}
    similarities = [np.zeros(9, np.float32) for _ in range(3)]
    similarities[2][6] = 0.1
    results = [{p: replace(NONE, inliers=n) for p, n in enumerate(inliers[e], 4)} for e in range(3)]
    results[2][5] = replace(results[2][5], others=(replace(NONE, inliers=2),))
    evidence, standing = best_evidence(results, similarities, [1.0, -1.0, 0.2])
    # 4: as many for as against; 5: outvoted; 6: the more similar of two; 7: nothing for it; 8: the earlier of two.
    assert standing == [4, 6, 8]
    assert [(evidence[p].example, evidence[p].inliers) for p in range(4, 9)] == [(0, 9), (2, 7), (2, 7), (0, 0), (0, 7)]
    assert [other.example for other in evidence[5].others] == [2]
