"""Trainable embeddings as fitted ones: the same vectors as the layer, before and after the disk."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from resight.embedding.embedding import Embedding  # noqa: E402
from resight.embedding.fisher import Gmm  # noqa: E402
from resight.embedding.fisher_layer import FisherLayer  # noqa: E402
from resight.embedding.layers import LayerEmbedding  # noqa: E402
from resight.embedding.learned_bof import LearnedBof  # noqa: E402
from resight.embedding.netvlad import NetVlad  # noqa: E402
from resight.errors import RecipeError  # noqa: E402

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(200, 6)).astype(np.float32)
CENTROIDS = FEATURES[:5]


def layer(kind):
    if kind == "netvlad":
        return NetVlad.from_kmeans(CENTROIDS, FEATURES)
    if kind == "learned-bof":
        return LearnedBof.from_kmeans(CENTROIDS, FEATURES)
    gmm = Gmm.fit(FEATURES, 5, seed=0, fitted_on="")
    return FisherLayer.from_gmm(gmm.weights, gmm.means, gmm.variances)


@pytest.mark.parametrize(("kind", "length"), [("netvlad", 30), ("learned-bof", 5), ("fisher-layer", 60)])
def test_it_gives_the_layers_vectors_and_comes_back_from_the_disk(kind, length, tmp_path):
    made = layer(kind)
    embedding: Embedding = LayerEmbedding(kind, made, "noise")
    sets = [FEATURES[:7], FEATURES[7:50], FEATURES[:0]]
    with torch.no_grad():
        expected = np.stack([made(torch.from_numpy(x)[None])[0].numpy() for x in sets])
    assert (embedding.dimension, embedding.input_dimension) == (length, 6)
    embedding.save(tmp_path / "e.safetensors")
    again = LayerEmbedding.load(tmp_path / "e.safetensors")
    assert (again.kind, again.fitted_on, again.fingerprint) == (kind, "noise", embedding.fingerprint)
    for one in (embedding, again):
        np.testing.assert_allclose(one.transform_sets(sets), expected, atol=1e-6)
        np.testing.assert_allclose(one.transform(sets[1]), expected[1], atol=1e-6)


def test_another_artefact_is_refused_by_its_name(tmp_path):
    file = tmp_path / "other.safetensors"
    file.write_bytes(b"no tensors")
    with pytest.raises(RecipeError, match=r"other\.safetensors"):
        LayerEmbedding.load(file)
