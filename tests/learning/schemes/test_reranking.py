"""Training of what re-ranks: triplets by brute force, losses by hand, gradients in pieces, a recipe that uses it."""

from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import tomli_w  # noqa: E402
from lightning_fabric import Fabric  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from resight.describe.description import Description  # noqa: E402
from resight.errors import GroundTruthError, RecipeError  # noqa: E402
from resight.evaluation.labelled import LabelledSet, Query  # noqa: E402
from resight.evaluation.load import load_labelled  # noqa: E402
from resight.learning.datasets.photos import training_set  # noqa: E402
from resight.learning.losses.stages import NonMetricStage, SiameseStage  # noqa: E402
from resight.learning.optimisation import Optimisation  # noqa: E402
from resight.learning.schemes.reranking import Examples, HeldOut, RerankingTask, pairs_of, phases  # noqa: E402
from resight.learning.schemes.reranking_learners import NonMetricLearner, TransformerLearner  # noqa: E402
from resight.learning.schemes.reranking_photos import describe_all, drawn_triplets, hard_negatives  # noqa: E402
from resight.learning.task import Lesson  # noqa: E402
from resight.learning.trainer import run  # noqa: E402
from resight.local.features import LocalFeatures  # noqa: E402
from resight.networks.torchvision_ops import ensure_torchvision  # noqa: E402
from resight.recipes import load_recipe  # noqa: E402
from resight.recipes.rerank_stages import TransformerStage  # noqa: E402
from resight.search.collection import Collection  # noqa: E402
from resight.search.rerank.nonmetric import SimilarityNetwork  # noqa: E402
from resight.search.rerank.tokens import tokens_of  # noqa: E402
from resight.search.rerank.transformer import RerankingTransformer  # noqa: E402

D, WIDTH = 6, 8
STAGE = TransformerStage(method="transformer", features=5, heads=2)


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def made_up(labels, seed=0, spread=0.5):
    """Descriptions whose vectors and local features are near those of their class."""
    rng = np.random.default_rng(seed)
    centres, words = rng.normal(size=(max(labels) + 1, D)), rng.normal(size=(max(labels) + 1, 4, WIDTH))
    found = []
    for label in labels:
        n = int(rng.integers(3, 7))
        drawn = words[label][rng.integers(0, 4, n)] + spread * 0.3 * rng.normal(size=(n, WIDTH))
        zeros = np.zeros(n, np.float32)
        local = LocalFeatures(np.zeros((n, 2), np.float32), zeros + 291, zeros, zeros, unit(drawn))
        found.append(Description((64, 64), unit(centres[label] + spread * rng.normal(size=D)), local))
    return tuple(found)


def task_of(learner, labels, **options):
    described, labels = made_up(labels), np.array(labels)
    negatives = hard_negatives(np.stack([d.global_descriptor for d in described]), labels, 100)
    examples = Examples(described, labels, negatives)
    return RerankingTask(learner, examples, None, **{"batch": 4, "chunk": 3, "depth": 100, "seed": 0, **options})


def transformer(seed=0):
    module = RerankingTransformer(D, WIDTH, heads=2, layers=2, feedforward=16, seed=seed)
    return TransformerLearner(module, STAGE, 64)


def nonmetric(seed=0):
    return NonMetricLearner(SimilarityNetwork(D, (16,), seed=seed), 0.2)


LABELS = [0, 0, 0, 1, 1, 2, 2, 2, 2]


def test_hard_negatives_are_the_first_of_a_full_sort():
    rng = np.random.default_rng(2)
    vectors, labels = unit(rng.normal(size=(30, D))), rng.integers(0, 4, 30)
    found = hard_negatives(vectors, labels, 7, block=4)
    for place, row in enumerate(found.tolist()):
        others = [k for k in range(30) if labels[k] != labels[place]]
        assert row == sorted(others, key=lambda k: (-float(vectors[place] @ vectors[k]), k))[:7]
    assert hard_negatives(vectors, labels, 100).shape == (30, 30 - np.bincount(labels).max())


def test_triplets_are_of_their_classes_and_follow_from_seed_and_epoch():
    labels = np.array(LABELS)
    negatives = hard_negatives(unit(np.random.default_rng(0).normal(size=(9, D))), labels, 3)
    batches = drawn_triplets(labels, negatives, size=4, epoch=2, seed=5)
    triplets = np.concatenate([batch.places[batch.tuples] for batch in batches])
    assert sorted(triplets[:, 0]) == list(range(9)) and max(len(b.tuples) for b in batches) <= 4
    for a, p, n in triplets.tolist():
        assert a != p and labels[a] == labels[p] and n in negatives[a]

    def flat(**options):
        drawn = drawn_triplets(labels, negatives, size=4, **{"epoch": 2, "seed": 5, **options})
        return np.concatenate([batch.places[batch.tuples] for batch in drawn]).tolist()

    assert flat() == triplets.tolist() != flat(epoch=3) and flat() != flat(seed=6)


def test_pairs_are_matches_and_others_in_turn():
    (batch, *_) = drawn_triplets(np.array([0, 0, 1, 1]), np.array([[2], [2], [0], [0]]), size=2, epoch=0, seed=0)
    for (a, p, n), (match, other) in zip(
        batch.places[batch.tuples].tolist(), pairs_of(batch).reshape(-1, 2, 3).tolist(), strict=True
    ):
        assert match == [a, p, 1] and other == [a, n, 0]


@pytest.mark.parametrize("make", [transformer, nonmetric])
def test_losses_and_gradients_in_pieces_are_those_of_one_pair_at_a_time(make):
    learner = make()
    task = task_of(learner, LABELS)
    batch = task.batches(0)[0]
    figures = task.backward(batch, 0, 0, lambda loss: loss.backward())
    found = [p.grad.clone() for p in task.module.parameters()]
    task.module.zero_grad()
    total, right = torch.zeros(()), 0
    pairs = pairs_of(batch).tolist()
    for query, other, match in pairs:
        a, b = task.examples.described[query], task.examples.described[other]
        if make is transformer:
            from resight.search.rerank.transformer import Batch

            logit = learner.module(*(Batch.of([tokens_of(d, 5, 64)]) for d in (a, b)))[0]
            total = total + torch.log1p(torch.exp(-logit if match else logit))
            right += (logit.item() > 0) == bool(match)
        else:
            x, y = (torch.tensor(d.global_descriptor)[None] for d in (a, b))
            similarity, cosine = learner.module(x, y)[0], float(a.global_descriptor @ b.global_descriptor)
            # Eq. 12 with S = 1 of a match
            target = match * (cosine + 0.2) + (1 - match) * (cosine - 0.2)
            total = total + (similarity - target).abs()
            right += (similarity.item() > cosine) == bool(match)
    loss = total / len(pairs)
    loss.backward()
    assert figures["loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert figures["accuracy"] == pytest.approx(right / len(pairs))
    for one, parameter in zip(found, task.module.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad, rtol=1e-3, atol=1e-5)


def whole_epoch(task):
    figures = [task.backward(batch, 99, 0, lambda loss: None) for batch in task.batches(99)]
    return {name: np.mean([each[name] for each in figures]) for name in figures[0]}


@pytest.mark.parametrize("make", [transformer, nonmetric])
def test_it_learns_to_tell_matches(make, tmp_path):
    labels = [label for label in range(4) for _ in range(5)]
    task = task_of(make(), labels, batch=5, chunk=64)
    before = whole_epoch(task)
    settings = Optimisation(epochs=40, rate=5e-3, schedule="constant", accelerator="cpu", weight_decay=0.0)
    run(task, settings, tmp_path, Fabric(accelerator="cpu", devices=1), identity={})
    after = whole_epoch(task)
    assert after["loss"] < 0.5 * before["loss"] and after["accuracy"] > 0.8, (before, after)


def test_validation_is_the_map_of_the_order_that_the_scores_make():
    described = made_up([0, 0, 1, 1, 0])
    names = tuple(f"{n}.png" for n in range(5))
    queries = (Query("0.png", frozenset({"1.png", "4.png"})), Query("2.png", frozenset({"3.png"})))
    labelled = LabelledSet("set", file=".", root=".", database=names, queries=queries)  # type: ignore[arg-type]

    class Oracle:
        """Knows the second query's answer and thinks all of the first's results alike."""

        def scores(self, query, described, places):
            return np.array([float(query is described[2] and p == 3) for p in places], np.float32)

    held_out = HeldOut(labelled, described, [described[0], described[2]])
    found = held_out.figures(Oracle(), 100)

    def average_precision(order, positives):  # trapezoidal, Philbin et al. 2007
        total, hits = 0.0, 0
        for rank, name in enumerate(order):
            if name in positives:
                total += ((hits / rank if rank else 1.0) + (hits + 1) / (rank + 1)) / 2
                hits += 1
        return total / len(positives)

    # Of the first all scores are alike, so ties go by image id: 1, 2, 3, 4.
    first = average_precision([1, 2, 3, 4], {1, 4})
    assert found["mAP"] == pytest.approx((first + 1.0) / 2)
    vectors = np.stack([d.global_descriptor for d in described])
    plain = []
    for query, positives in ((0, {1, 4}), (2, {3})):
        order = sorted((k for k in range(5) if k != query), key=lambda k: -vectors[query] @ vectors[k])
        plain.append(average_precision(order, positives))
    assert found["mAP before"] == pytest.approx(np.mean(plain))


@pytest.fixture(scope="module")
def photos(pictures, view, save, tmp_path_factory):
    """Three views of each of three objects, in folders."""
    root = tmp_path_factory.mktemp("photos")
    for name in ("astronaut", "chelsea", "coffee"):
        for seed in range(3):
            save(root / name / f"{seed}.png", view(pictures[name], seed)[0][::2, ::2])
    return load_labelled(root)


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory):
    """A small network and RootSIFT, with whatever re-ranks."""
    folder = tmp_path_factory.mktemp("recipe")
    ensure_torchvision()
    import timm

    with torch.random.fork_rng():
        torch.manual_seed(1)
        save_file(timm.create_model("test_resnet.r160_in1k").state_dict(), folder / "w.safetensors")

    def write(method):
        table = {"name": "small", "title": "Small", "source": "A test", "filter": "global", "image": {"max_side": 160}}
        table["local"] = {"detector": "sift", "max_features": 24}
        branch = {"network": "test_resnet.r160_in1k", "layer": "layer3", "max_side": 96, "weights": "w.safetensors"}
        table["global"] = {**branch, "whiten": "none", "dimensions": 192}
        options = {"features": 8, "layers": 2} if method == "transformer" else {}
        table["rerank"] = [{"method": method, **options}]
        file = folder / f"{method}.toml"
        file.write_text(tomli_w.dumps(table))
        return load_recipe(file)

    return write


def lesson_of(photos, **settings):
    options = {
        "batch": 27,
        "chunk": 18,
        "seed": 0,
        "adversarial": None,
        "loss": SiameseStage(kind="siamese"),
        **settings,
    }
    return Lesson(training_set(photos), photos, SimpleNamespace(**options))


@pytest.mark.parametrize("method", [pytest.param("transformer", marks=pytest.mark.slow), "nonmetric"])
def test_a_recipe_is_trained_written_and_searched(method, photos, recipe_file, tmp_path):
    recipe = recipe_file(method)
    lesson = lesson_of(photos, loss=NonMetricStage(kind="nonmetric", hidden=(32,)))
    (phase,) = phases(recipe, lesson.settings)
    task = phase.make(recipe, lesson)
    assert set(task.validate()) == {"mAP", "mAP before"}
    settings = Optimisation(epochs=2, rate=1e-3, accelerator="cpu", validate_every=2)
    outcome = run(task, settings, tmp_path / "run", Fabric(accelerator="cpu", devices=1), identity={})
    assert outcome.steps == 2 and outcome.best is not None
    phase.write(task, recipe, lesson, tmp_path / "made")
    written = load_recipe(tmp_path / "made")
    if method == "transformer":
        assert len(RerankingTransformer.load(written.rerank[0].model).encoder.layers) == 2
    assert written.rerank[0].model.endswith("rerank-1.safetensors") and written.rerank[0].model_sha256
    assert "layer layer3, with weights that did not learn." in (tmp_path / "made" / "README.md").read_text()
    # The recipe is whole: it works where the first one is not.
    (tmp_path / "made").rename(tmp_path / "moved")
    paths = sorted(photos.locate(path) for path in photos.database)
    with Collection.create(tmp_path / "c", recipe=tmp_path / "moved") as collection:
        collection.add(paths)
        found = collection.search(paths[0])
    described = describe_all(_describer(recipe), [(path, None) for path in paths])
    task.module.eval()
    expected = task.learner.scores(described[0], described, np.arange(len(paths)))
    assert len(found.ids) == len(paths)
    np.testing.assert_allclose(found.scores, np.sort(expected)[::-1], rtol=1e-3, atol=1e-4)


def _describer(recipe):
    from resight.describe.describer import Describer

    return Describer(recipe)


def test_what_does_not_fit_is_said(photos, recipe_file, tmp_path):
    recipe = recipe_file("nonmetric")
    settings = SimpleNamespace(loss=SiameseStage(kind="siamese"), adversarial=None)
    with pytest.raises(RecipeError, match=r'say loss\.kind = "nonmetric"'):
        phases(recipe, settings)
    with pytest.raises(RecipeError, match="no re-ranking that learns"):
        phases(recipe.model_copy(update={"rerank": ()}), settings)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(GroundTruthError, match=r"broken\.png: .*; mend it or take it out"):
        describe_all(_describer(recipe), [(tmp_path / "broken.png", None)])
