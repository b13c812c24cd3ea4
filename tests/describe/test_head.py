"""Heads: poolings and embeddings within a recipe, against plain recomputations; what does not fit is refused."""

from importlib.util import find_spec

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402
from PIL import Image as PilImage  # noqa: E402

from resight.describe.fit import fit_recipe  # noqa: E402
from resight.describe.global_descriptor import GlobalDescriber  # noqa: E402
from resight.errors import RecipeError  # noqa: E402
from resight.networks.torchvision_ops import ensure_torchvision  # noqa: E402
from resight.recipes import load_recipe  # noqa: E402
from resight.recipes.network_stages import GlobalStage  # noqa: E402

BASE = {"network": "resnet10t", "layer": "layer3", "max_side": 96, "dimensions": 4, "weights": "w.safetensors"}


@pytest.fixture(scope="module")
def network():
    ensure_torchvision()
    import timm

    torch.manual_seed(1)
    return timm.create_model("resnet10t", num_classes=10, global_pool="avg").eval()


@pytest.fixture
def folder(network, tmp_path):
    state = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("fc.")}
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    safetensors.torch.save_file(network.state_dict(), tmp_path / "whole.safetensors")
    return tmp_path


@pytest.fixture
def pictures(tmp_path):
    """Ten files of noise at two sizes."""
    rng = np.random.default_rng(2)
    (tmp_path / "pictures").mkdir()
    for number in range(10):
        coarse = PilImage.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((96, 64 + 32 * (number % 2))).save(tmp_path / "pictures" / f"{number}.png")
    return tmp_path / "pictures"


def learn(folder, pictures, **changes):
    """The describer of a recipe that is fitted on the pictures."""
    import tomli_w

    table = {"name": "x", "title": "", "source": "", "filter": "global", "global": BASE | changes}
    (folder / "r.toml").write_text(tomli_w.dumps(table))
    fitted = fit_recipe(
        folder / "r.toml", [pictures], weights=None, into=folder / f"fitted-{len(list(folder.iterdir()))}"
    )
    return GlobalDescriber(load_recipe(fitted).global_, None), fitted


def columns(describer, pixels):
    """What is at the positions of the layer's map, ℓ2-normalised."""
    stage = describer.stage.model_copy(update={"embedding": None, "learned": "", "pooling": describer.stage.pooling})
    picture = describer.prepare(pixels)[0].pictures[0]
    (output,) = describer._networks[0].engine(picture[None])[:1]
    assert stage.scheme.kind == "whole"
    x = output[0].flatten(1).T.double().numpy()
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def pixels_of(pictures, number=0):
    return np.asarray(PilImage.open(pictures / f"{number}.png"))


def test_vlad_of_a_recipe_is_vlad_of_the_maps_columns(folder, pictures):
    describer, fitted = learn(
        folder, pictures, embedding={"kind": "vlad", "words": 3, "normalise": ["intra"]}, whiten="none", dimensions=768
    )
    words = safetensors.torch.load_file(fitted / "embedding.safetensors")["words"].double().numpy()
    x = columns(describer, pixels_of(pictures))
    total = np.zeros_like(words)
    for feature in x:
        nearest = ((words - feature) ** 2).sum(axis=1).argmin()
        total[nearest] += feature - words[nearest]
    norms = np.linalg.norm(total, axis=1, keepdims=True)
    expected = (total / np.where(norms > 0, norms, 1)).ravel()
    np.testing.assert_allclose(describer.describe(pixels_of(pictures)), expected / np.linalg.norm(expected), atol=1e-4)


def test_gem_takes_an_exponent_for_each_channel(folder, pictures):
    powers = np.random.default_rng(4).uniform(1, 6, 256).round(3)
    pooling = {"kind": "gem", "p": powers.tolist()}
    describer, _ = learn(folder, pictures, pooling=pooling, scale_pooling="gem", scales=[1.0, 0.7071])
    pixels = pixels_of(pictures)
    vectors = []
    for picture in describer.prepare(pixels)[0].pictures:
        x = np.maximum(describer._networks[0].engine(picture[None])[0][0].double().numpy(), 1e-6)
        pooled = (x ** powers[:, None, None]).mean(axis=(1, 2)) ** (1 / powers)
        vectors.append(pooled / np.linalg.norm(pooled))
    expected = np.mean([vector**powers for vector in vectors], axis=0) ** (1 / powers)
    np.testing.assert_allclose(describer.raw(pixels), expected / np.linalg.norm(expected), atol=1e-5)
    with pytest.raises(RecipeError, match="256 exponents for the 512 channels of layer layer4"):
        GlobalDescriber(GlobalStage(**BASE | {"layer": "layer4", "pooling": pooling}), folder)


def test_parts_are_the_channels_that_vary_most_over_the_photos(folder, pictures):
    describer, _ = learn(folder, pictures, pooling={"kind": "sba", "parts": 2}, whiten="none", dimensions=512)
    picture = pixels_of(pictures)

    def maps(pixels):
        return describer._networks[0].engine(describer.prepare(pixels)[0].pictures[0][None])[0][0].double().numpy()

    sums = np.stack([maps(pixels_of(pictures, number)).sum(axis=(1, 2)) for number in range(10)])
    best = np.argsort(-sums.var(axis=0), kind="stable")[:2]
    x = maps(picture)
    parts = []
    for channel in best:
        weight = np.sqrt(x[channel] / np.sqrt((x[channel] ** 2).sum()))
        parts.append((x * weight).sum(axis=(1, 2)))
    expected = np.concatenate(parts)
    np.testing.assert_allclose(describer.describe(picture), expected / np.linalg.norm(expected), atol=1e-4)


def test_a_misfit_is_told_before_weights_are_downloaded(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(RecipeError, match=r"layer pooled of resnet10t is one vector.*scheme grid cannot take regions"):
        GlobalDescriber(GlobalStage(**BASE | {"layer": "pooled", "weights": "", "scheme": {"kind": "grid"}}), None)


@pytest.mark.parametrize("kind", ["netvlad", "learned-bof", "fisher-layer"])
def test_trainable_layers_start_from_the_photos(folder, pictures, kind):
    describer, _ = learn(folder, pictures, embedding={"kind": kind, "words": 5, "reduce": 4})
    assert describer.describe(pixels_of(pictures)).shape == (4,)


def test_a_second_fit_keeps_what_was_learned_and_whitens_anew(folder, pictures):
    first, fitted = learn(folder, pictures, embedding={"kind": "vlad", "words": 3})
    fit_recipe(fitted, [pictures], weights=None, into=folder / "again", sample=8)
    again = GlobalDescriber(load_recipe(folder / "again").global_, None)
    assert again.raw_fingerprints == first.raw_fingerprints
    assert again.fingerprint != first.fingerprint


def test_pca_alone_rotates_and_a_ridge_says_how_far_whitening_goes(folder, pictures):
    rotated, _ = learn(folder, pictures, projection="pca")
    (rotation,) = rotated.whitenings
    assert rotation.kind == "pca"
    np.testing.assert_allclose(rotation.matrix @ rotation.matrix.T, np.eye(4), atol=1e-5)
    full, _ = learn(folder, pictures, ridge=0.0)
    raw = np.stack([full.raw(pixels_of(pictures, number)) for number in range(10)])
    white = (raw - full.whitenings[0].mean) @ full.whitenings[0].matrix.T
    np.testing.assert_allclose(np.cov(white.T), np.eye(4), atol=1e-3)


def test_a_power_law_comes_before_the_whitening(folder, pictures):
    describer, _ = learn(folder, pictures, power=0.5, pooling="average", projection="pca")
    plain = GlobalDescriber(GlobalStage(**BASE | {"pooling": "average"}), folder)
    vectors = []
    for number in range(10):
        raw = plain.raw(pixels_of(pictures, number))
        rooted = np.sign(raw) * np.sqrt(np.abs(raw))
        vectors.append(rooted / np.linalg.norm(rooted))
    np.testing.assert_allclose(describer.raw(pixels_of(pictures)), vectors[0], atol=1e-6)
    np.testing.assert_allclose(describer.whitenings[0].mean, np.mean(vectors, axis=0), atol=1e-6)
    assert describer.raw_fingerprints != plain.raw_fingerprints


def test_what_was_not_learned_yet_is_said(folder, pictures):
    describer = GlobalDescriber(GlobalStage(**BASE, embedding={"kind": "vlad"}), folder)
    with pytest.raises(RecipeError, match=r"not learned yet.*resight fit"):
        describer.describe(pixels_of(pictures))


def test_class_maps_need_the_classifier_and_its_layer(folder):
    whole = BASE | {"weights": "whole.safetensors", "pooling": {"kind": "cam-crow", "top": 3}}
    GlobalDescriber(GlobalStage(**(whole | {"layer": "layer4"})), folder)
    with pytest.raises(RecipeError, match=r"w\.safetensors: holds no classifier"):
        GlobalDescriber(GlobalStage(**(whole | {"weights": "w.safetensors", "layer": "layer4"})), folder)
    with pytest.raises(RecipeError, match=r"takes 512 channels, layer layer3 has 256"):
        GlobalDescriber(GlobalStage(**whole), folder)
    with pytest.raises(RecipeError, match="class 10 of a classifier with 10 classes"):
        table = whole | {"layer": "layer4", "pooling": {"kind": "cam-crow", "classes": [10]}}
        GlobalDescriber(GlobalStage(**table), folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scheme": {"kind": "grid"}}, "scheme grid cannot take regions"),
        ({"embedding": {"kind": "vlad"}}, "embedding vlad needs a set"),
        ({"pooling": "crow"}, "pooling crow has nothing to pool"),
    ],
)
def test_a_vector_has_no_positions(folder, changes, said):
    with pytest.raises(RecipeError, match=f"layer pooled of resnet10t is one vector, without positions: {said}"):
        GlobalDescriber(GlobalStage(**(BASE | {"layer": "pooled"} | changes)), folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scale_pooling": "gem", "pooling": "mac"}, "scale_pooling"),
        ({"pooling": "cam-crow", "scheme": {"kind": "grid"}}, "cam-crow makes regions itself"),
        ({"pooling": "sba", "embedding": {"kind": "vlad"}}, "leave one out"),
        ({"scheme": {"kind": "grid"}, "embedding": {"kind": "vlad", "mask": "max"}}, "mask"),
        ({"whiten": "regions", "embedding": {"kind": "vlad"}}, "embedded"),
        ({"fusion": "deep-index", "also": [{"layer": "layer4"}]}, "pairs of visual words"),
        ({"fusion": "orthogonal"}, "two branches"),
        ({"whiten": "regions", "power": 0.5, "pooling": "mac"}, "power is of the whole descriptor"),
    ],
)
def test_stages_that_do_not_fit_are_refused_when_the_recipe_is_read(changes, said):
    with pytest.raises(ValueError, match=said):
        GlobalStage(**(BASE | changes))


# Looked for, not imported: an import of one's own would let it report to a server.
@pytest.mark.skipif(not (find_spec("openvino") and find_spec("nncf")), reason="needs resight[fast]")
def test_a_network_in_8_bits_is_part_of_the_recipe(folder, pictures):
    import tomli_w

    table = {"name": "x", "title": "", "source": "", "filter": "global", "global": BASE}
    (folder / "r.toml").write_text(tomli_w.dumps(table))
    fit_recipe(folder / "r.toml", [pictures], weights=None, into=folder / "int8", int8=True)
    fit_recipe(folder / "r.toml", [pictures], weights=None, into=folder / "float")
    small, full = (GlobalDescriber(load_recipe(folder / name).global_, None) for name in ("int8", "float"))
    assert "8 bits" in small.engine
    assert small.raw_fingerprints != full.raw_fingerprints
    x, y = (describer.raw(pixels_of(pictures)) for describer in (small, full))
    assert not np.array_equal(x, y)
    assert x @ y > 0.98
    (folder / "int8").rename(folder / "moved")
    np.testing.assert_allclose(GlobalDescriber(load_recipe(folder / "moved").global_, None).raw(pixels_of(pictures)), x)
