"""DELF and DELG: which cells are kept and what describes them, against loops and plain arithmetic of the heads."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402

from resight.errors import RecipeError  # noqa: E402
from resight.local.delf import Delf, DelfHead, DelgAutoencoder, read_delf_head  # noqa: E402
from resight.local.maps import Cells, FeatureMap  # noqa: E402
from resight.pooling.delf_attention import DelfAttention  # noqa: E402

C, HIDDEN, REDUCED = 6, 4, 3


@pytest.fixture
def maps():
    """At scales 1 and 1/2."""
    rng = np.random.default_rng(1)
    values = [rng.standard_normal((C, *shape)).astype(np.float32) for shape in [(6, 4), (3, 2)]]
    return [FeatureMap(v, Cells(16, 0), (16 * v.shape[2], 16 * v.shape[1]), (64, 96)) for v in values]


@pytest.fixture
def head():
    """A DELG head whose normalisation has seen something."""
    torch.manual_seed(0)
    made = DelfHead(DelfAttention(C, HIDDEN), DelgAutoencoder(C, REDUCED)).requires_grad_(False)
    made.attention.bn_conv1.running_mean.uniform_(-1, 1)
    made.attention.bn_conv1.running_var.uniform_(0.5, 2)
    return made.eval()


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def by_hand(head, x):
    """(descriptor, score) of one cell's vector, in float64."""
    p = {k: v.numpy().astype(float).reshape(v.shape[:2]) for k, v in head.state_dict().items() if v.ndim}
    reduced, scored = x, x
    if head.autoencoder is not None:
        reduced = p["autoencoder.conv1.weight"] @ x + p["autoencoder.conv1.bias"]
        scored = np.maximum(p["autoencoder.conv2.weight"] @ reduced + p["autoencoder.conv2.bias"], 0)
    h = p["attention.conv1.weight"] @ scored + p["attention.conv1.bias"]
    bn = {k.rpartition(".")[2]: v for k, v in p.items() if "bn_conv1" in k}
    h = (h - bn["running_mean"]) / np.sqrt(bn["running_var"] + 1e-3) * bn["weight"] + bn["bias"]
    score = np.log1p(np.exp(p["attention.conv2.weight"] @ np.maximum(h, 0) + p["attention.conv2.bias"]))
    return reduced, float(score[0])


@pytest.mark.parametrize("kind", ["length", "delf", "delg"])
def test_the_strongest_cells_of_all_scales(maps, head, kind):
    if kind == "delf":
        head.autoencoder = None
    detector = Delf(head=None if kind == "length" else head, top=9, reduce="none")
    expected = []
    for level, each in enumerate(maps):
        for row, column in np.ndindex(each.values.shape[1:]):
            x = each.values[:, row, column].astype(float)
            descriptor, score = (x, np.linalg.norm(x)) if kind == "length" else by_hand(head, x)
            expected.append((score, unit(descriptor), 2**level, row, column))
    expected = sorted(expected, key=lambda entry: -entry[0])[:9]
    features = detector.detect(maps)
    np.testing.assert_allclose(features.score, [e[0] for e in expected], rtol=1e-4)
    np.testing.assert_allclose(features.descriptors, [e[1] for e in expected], atol=1e-5)
    np.testing.assert_allclose(features.size, [291 * e[2] for e in expected])
    xy = [((16 * column + 0.5) * n - 0.5, (16 * row + 0.5) * n - 0.5) for _, _, n, row, column in expected]
    np.testing.assert_allclose(features.xy, xy)


def test_a_threshold_and_an_overlap_leave_fewer(maps):
    every = Delf(reduce="none").detect(maps)
    assert len(every) == 30
    limit = float(every.score[10])
    assert Delf(reduce="none", threshold=limit).detect(maps).score.tolist() == every.score[:10].tolist()
    # Squares of 32 and 64 pixels a stride of 16 or 32 apart: neighbours in a row overlap by a third.
    few = Delf(reduce="none", field=2.0, overlap=0.3).detect(maps)
    assert 1 < len(few) < len(every) and few.score[0] == every.score[0]
    for a in range(len(few)):
        for b in range(a):
            low, high = few.size[a] / 2, few.size[b] / 2
            sides = np.minimum(few.xy[a] + low, few.xy[b] + high) - np.maximum(few.xy[a] - low, few.xy[b] - high)
            inside = np.prod(np.maximum(sides, 0))
            assert inside / (few.size[a] ** 2 + few.size[b] ** 2 - inside) <= 0.3


def test_a_head_comes_back_from_its_file(tmp_path, maps, head):
    path = tmp_path / "head.safetensors"
    safetensors.torch.save_file(head.state_dict(), path)
    again = read_delf_head(path)
    assert again.fingerprint == head.fingerprint
    x = torch.from_numpy(maps[0].values)
    for got, wanted in zip(again(x), head(x), strict=True):
        torch.testing.assert_close(got, wanted)
    head.attention.conv2.bias += 1
    assert Delf(head=again, reduce="none").identity != Delf(head=head, reduce="none").identity


def test_the_papers_scorer_has_no_normalisation(tmp_path):
    path = tmp_path / "head.safetensors"
    plain = DelfHead(DelfAttention(C, HIDDEN, normalise=False))
    safetensors.torch.save_file(plain.state_dict(), path)
    assert read_delf_head(path).state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize(
    "wrong", [{}, {"attention.conv1.weight": torch.zeros(4)}, {"attention.conv1.weight": torch.zeros(4, 6, 1, 1)}]
)
def test_a_file_without_a_head_is_refused(tmp_path, wrong):
    path = tmp_path / "head.safetensors"
    safetensors.torch.save_file(wrong | {"other": torch.zeros(1)}, path)
    with pytest.raises(RecipeError, match=r"head\.safetensors"):
        read_delf_head(path)


def test_an_autoencoder_is_not_reduced_again(head):
    with pytest.raises(RecipeError, match="autoencoder reduces already"):
        Delf(head=head, reduce="pca")
