"""Weights of features, for every embedding: a feature that counts twice is two features, one that counts 0 is none."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from resight.embedding.binary_vlad import BinaryVlad  # noqa: E402
from resight.embedding.bow import Bow  # noqa: E402
from resight.embedding.democratic import democratic_weights  # noqa: E402
from resight.embedding.faemb import Faemb  # noqa: E402
from resight.embedding.fisher import Fisher  # noqa: E402
from resight.embedding.fisher_layer import FisherLayer  # noqa: E402
from resight.embedding.gmm import Gmm  # noqa: E402
from resight.embedding.layers import LayerEmbedding  # noqa: E402
from resight.embedding.learned_bof import LearnedBof  # noqa: E402
from resight.embedding.netvlad import NetVlad  # noqa: E402
from resight.embedding.triangulation import Triangulation, directions  # noqa: E402
from resight.embedding.vlad import Vlad  # noqa: E402

SIZE, WORDS = 6, 5
SAMPLE = np.random.default_rng(0).normal(size=(600, SIZE)).astype(np.float32)
FIT = {"seed": 0, "fitted_on": "noise"}


def layer(kind):
    match kind:
        case "netvlad":
            return NetVlad.from_kmeans(SAMPLE[:WORDS], SAMPLE)
        case "learned-bof":
            return LearnedBof.from_kmeans(SAMPLE[:WORDS], SAMPLE)
    gmm = Gmm.fit(SAMPLE, WORDS, **FIT)
    return FisherLayer.from_gmm(gmm.weights, gmm.means, gmm.variances)


def tight():
    """A mixture so narrow that few posteriors count."""
    means = np.eye(SIZE, dtype=np.float32)[:WORDS] * 3
    return Fisher(Gmm(np.full(WORDS, 1 / WORDS, np.float32), means, np.full_like(means, 0.05), ""), by_weight=True)


EMBEDDINGS = {
    "bow": lambda: Bow.fit(SAMPLE, WORDS, **FIT),
    "bow, soft": lambda: Bow.fit(SAMPLE, WORDS, **FIT, assignments=3, root=True),
    "vlad": lambda: Vlad.fit(SAMPLE, WORDS, **FIT),
    "vlad, all": lambda: Vlad.fit(SAMPLE, WORDS, **FIT, normalisations=("residual", "power", "intra")),
    "binary-vlad": lambda: BinaryVlad.fit(SAMPLE, WORDS, **FIT),
    "fisher": lambda: Fisher.fit(SAMPLE, WORDS, **FIT, by_weight=True),
    "fisher, few": tight,
    "t-embedding": lambda: Triangulation.fit(SAMPLE, SAMPLE[:WORDS], **FIT, aggregation="sum"),
    "faemb": lambda: Faemb.fit(SAMPLE, SAMPLE[:2], **FIT, aggregation="sum"),
    "netvlad": lambda: LayerEmbedding("netvlad", layer("netvlad"), ""),
    "learned-bof": lambda: LayerEmbedding("learned-bof", layer("learned-bof"), ""),
    "fisher-layer": lambda: LayerEmbedding("fisher-layer", layer("fisher-layer"), ""),
}


@pytest.mark.parametrize("kind", EMBEDDINGS)
def test_weights_are_repetitions(kind):
    embedding = EMBEDDINGS[kind]()
    rng = np.random.default_rng(1)
    sets = [rng.normal(size=(n, SIZE)).astype(np.float32) for n in (7, 3000, 1)]
    counts = [rng.integers(0, 4, len(features)) for features in sets]
    counts[2][:] = 2
    repeated = embedding.transform_sets([np.repeat(x, c, axis=0) for x, c in zip(sets, counts, strict=True)])
    weighted = embedding.transform_sets(sets, [c.astype(np.float64) for c in counts])
    np.testing.assert_allclose(weighted, repeated, atol=2e-4)
    ones = embedding.transform_sets(sets, [np.ones(len(features)) for features in sets])
    np.testing.assert_allclose(ones, embedding.transform_sets(sets), atol=1e-6)
    assert np.abs(weighted - ones).max() > 1e-3


@pytest.mark.parametrize("kind", EMBEDDINGS)
def test_their_scale_and_features_without_any_change_nothing(kind):
    embedding = EMBEDDINGS[kind]()
    rng = np.random.default_rng(2)
    features, weights = rng.normal(size=(40, SIZE)).astype(np.float32), rng.random(40)
    (vector,) = embedding.transform_sets([features], [weights])
    np.testing.assert_allclose(embedding.transform_sets([features], [9 * weights])[0], vector, atol=1e-4)
    more = np.concatenate([features, 5 + features])
    lighter = np.concatenate([weights, np.zeros(40)])
    np.testing.assert_allclose(embedding.transform_sets([more], [lighter])[0], vector, atol=1e-4)
    assert not embedding.transform_sets([features], [np.zeros(40)]).any()


def test_democratic_weights_are_of_the_features_as_they_are():
    embedding = Triangulation.fit(SAMPLE, SAMPLE[:WORDS], **FIT, aggregation="democratic", power=1.0)
    features, weights = SAMPLE[100:112], np.linspace(0, 2, 12)
    embedded = (directions(features, embedding.centroids) - embedding.mean) @ embedding.projection.T
    shares = democratic_weights(embedded @ embedded.T)
    total = sum(w * s * x for w, s, x in zip(weights, shares, embedded, strict=True))
    (vector,) = embedding.transform_sets([features], [weights])
    np.testing.assert_allclose(vector, total / np.linalg.norm(total), atol=1e-5)


@pytest.mark.parametrize("kind", ["netvlad", "learned-bof", "fisher-layer"])
def test_a_mask_trains_with_the_layer(kind):
    module = layer(kind).double()
    x = torch.rand(2, SIZE, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    mask = torch.rand(2, 1, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(4)) + 0.1
    torch.testing.assert_close(module(x, mask), module(x.flatten(2).mT, mask.flatten(1)))
    assert torch.autograd.gradcheck(module, (x.requires_grad_(), mask.requires_grad_()), fast_mode=True)
    with pytest.raises(ValueError, match="weights must be B×N or B×1×H×W"):
        module(x, mask[:1])


@pytest.mark.parametrize("kind", ["bow", "vlad", "fisher", "t-embedding", "netvlad"])
def test_weights_that_do_not_fit_are_refused(kind):
    embedding = EMBEDDINGS[kind]()
    for bad in ([], [np.ones(3)], [np.ones(4), np.ones(4)]):
        with pytest.raises(ValueError, match="one for each feature"):
            embedding.transform_sets([SAMPLE[:4]], bad)
    for value in (-1.0, np.nan):
        with pytest.raises(ValueError, match="finite and at least 0"):
            embedding.transform_sets([SAMPLE[:4]], [np.full(4, value)])
