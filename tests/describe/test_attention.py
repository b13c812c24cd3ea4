"""Attention within a recipe: the module applied by hand to the network's map, then pooled; what does not fit."""

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402
import tomli_w  # noqa: E402
from PIL import Image as PilImage  # noqa: E402

from resight.describe.fit import fit_recipe  # noqa: E402
from resight.describe.global_descriptor import GlobalDescriber  # noqa: E402
from resight.describe.locate import locate  # noqa: E402
from resight.errors import CollectionError, RecipeError  # noqa: E402
from resight.networks.torchvision_ops import ensure_torchvision  # noqa: E402
from resight.networks.weights import file_sha256  # noqa: E402
from resight.pooling.attention_gem import AttentionGeM  # noqa: E402
from resight.pooling.crn import ContextualReweighting  # noqa: E402
from resight.pooling.delf_attention import DelfAttention  # noqa: E402
from resight.pooling.multiscale_attention import RegionalAttention  # noqa: E402
from resight.pooling.rmac import region_cells  # noqa: E402
from resight.pooling.saliency import spectral_residual  # noqa: E402
from resight.pooling.second_order import SecondOrderAttention  # noqa: E402
from resight.recipes import load_recipe  # noqa: E402
from resight.recipes.network_stages import GlobalStage  # noqa: E402
from resight.search.collection import Collection  # noqa: E402

CHANNELS = 256
BASE = {"network": "resnet10t", "layer": "layer3", "max_side": 96, "dimensions": 4, "weights": "w.safetensors"}
RAW = {"whiten": "none", "dimensions": CHANNELS}
FILTERS = ((3, 4), (5, 2))

MODULES = {
    "second-order": lambda: SecondOrderAttention(CHANNELS, 4),
    "crn": lambda: ContextualReweighting(CHANNELS, FILTERS, (3, 3)),
    "delf": lambda: DelfAttention(CHANNELS, 8),
    "regional": lambda: RegionalAttention(CHANNELS, 8, 2),
    "attention-gem": lambda: AttentionGeM(CHANNELS, 8, p=2.0),
}
TABLES = {
    "second-order": {"reduction": 4},
    "crn": {"filters": FILTERS, "context": (3, 3)},
    "delf": {"hidden": 8},
    "regional": {"hidden": 8, "levels": 2},
    "attention-gem": {"hidden": 8},
}


def mean_of(x):
    return x.mean(axis=(1, 2))


def gem_of(x, p):
    return (np.maximum(x, 1e-6) ** p).mean(axis=(1, 2)) ** (1 / p)


def softmax(x):
    return np.exp(x - x.max()) / np.exp(x - x.max()).sum()


def by_second_order(module, x, picture):
    """At each position, the values' mean by the softmax of how its query meets the keys; and GeM (Ng et al., §3.2)."""
    query, key, value = (part(x)[0].flatten(1).double().numpy() for part in (module.f, module.g, module.h))
    met = np.stack([value @ softmax(q @ key / len(key) ** 0.5) for q in query.T], axis=1)
    back, bias = module.v.weight[:, :, 0, 0].double().numpy(), module.v.bias.double().numpy()[:, None]
    return gem_of(x[0].double().numpy() + (back @ met + bias).reshape(x[0].shape), 3)


def by_delf(module, x, picture):
    """Eq. 1 of Noh et al., of features of unit length."""
    scores, features = module(x)[0, 0].double().numpy(), x[0].double().numpy()
    return sum(
        scores[row, column] * features[:, row, column] / np.linalg.norm(features[:, row, column])
        for row, column in np.ndindex(scores.shape)
    )


def by_norms(module, x, picture):
    features = x[0].double().numpy()
    norms = np.linalg.norm(features, axis=0)
    return (features * norms).sum(axis=(1, 2)) / norms.sum()


def by_centre(module, x, picture):
    """SPoC: a Gaussian of the distance to the centre, σ a third of that to the nearest border."""
    features = x[0].double().numpy()
    height, width = features.shape[1:]
    y, z = np.mgrid[:height, :width] + 0.5
    squared = (y - height / 2) ** 2 + (z - width / 2) ** 2
    return (features * np.exp(-squared / (2 * (min(height, width) / 6) ** 2))).sum(axis=(1, 2))


def by_sums(module, x, picture):
    """CroW's spatial weights: the root of a position's share in the ℓ2 norm of the sums over channels."""
    features = x[0].double().numpy()
    sums = features.sum(axis=0)
    return (features * np.sqrt(sums / np.linalg.norm(sums))).sum(axis=(1, 2))


def by_residual(module, x, picture):
    features = x[0].double().numpy()
    saliency = cv2.resize(spectral_residual(picture), features.shape[:0:-1], interpolation=cv2.INTER_AREA)
    return gem_of(features * saliency / saliency.mean(), 3)


SYSTEMS = {
    "second-order": ("second-order", {}, by_second_order),
    "crn": ("crn", {"pooling": "average"}, lambda m, x, picture: mean_of((x * m(x))[0].double().numpy())),
    "delf": ("delf", {"pooling": "sum"}, by_delf),
    "regional": ("regional", {"pooling": "mac"}, lambda m, x, picture: m(x)[0].double().numpy()),
    "attention-gem": (
        "attention-gem",
        {"pooling": {"kind": "gem", "p": 2.0}},
        lambda m, x, _: m(x)[0].double().numpy(),
    ),
    "norms": ("saliency", {"pooling": "average"}, by_norms),
    "centre": ("saliency", {"pooling": "sum", "attention": {"by": "centre"}}, by_centre),
    "sums": ("saliency", {"pooling": "sum", "attention": {"by": "sums"}}, by_sums),
    "spectral residual": ("saliency", {"attention": {"by": "spectral-residual"}}, by_residual),
}


@pytest.fixture(scope="module")
def network():
    ensure_torchvision()
    import timm

    torch.manual_seed(1)
    return timm.create_model("resnet10t", num_classes=0, global_pool="").eval()


@pytest.fixture
def folder(network, tmp_path):
    safetensors.torch.save_file(network.state_dict(), tmp_path / "w.safetensors")
    return tmp_path


@pytest.fixture
def noise(tmp_path):
    """Seven files of coarse noise, 96×64 pixels, which go into the network as they are."""
    rng = np.random.default_rng(2)
    (tmp_path / "noise").mkdir()
    for number in range(7):
        coarse = PilImage.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((96, 64)).save(tmp_path / "noise" / f"{number}.png")
    return tmp_path / "noise"


def pixels_of(file):
    return np.asarray(PilImage.open(file))


def map_of(network, pixels):
    """1×C×h×w of layer3, without resight."""
    mean, std = (np.array(network.pretrained_cfg[key]) for key in ("mean", "std"))
    x = torch.from_numpy(((pixels / 255 - mean) / std).transpose(2, 0, 1)[None]).float()
    with torch.no_grad():
        return network.layer3(
            network.layer2(network.layer1(network.maxpool(network.act1(network.bn1(network.conv1(x))))))
        )


def trained(kind, seed=0):
    """A module with weights that a seed draws, also those that begin as zero; none of what is not learned."""
    if kind not in MODULES:
        return None
    torch.manual_seed(seed)
    module = MODULES[kind]().eval().requires_grad_(False)
    for name, tensor in module.state_dict().items():
        if name.endswith(("weight", "bias")):
            torch.nn.init.normal_(tensor, std=0.3 if kind == "attention-gem" else 0.05)
        if name.endswith("running_var"):
            torch.nn.init.uniform_(tensor, 0.5, 2.0)
        if kind == "crn":
            tensor.abs_()  # or its last ReLU could leave nothing
    return module


def save(module, path, prefix=""):
    safetensors.torch.save_file({prefix + k: v.clone() for k, v in module.state_dict().items()}, path)


def stage_of(folder, kind, module, **changes):
    """A stage with the attention's weights in the folder."""
    table = {"kind": kind, **TABLES.get(kind, {}), **changes.pop("attention", {})}
    if module is not None:
        save(module, folder / "trained.safetensors")
        table |= {"weights": "trained.safetensors"}
    return BASE | changes | {"attention": table}


def write(folder, stage):
    table = {"name": "x", "title": "", "source": "", "filter": "global", "global": stage}
    (folder / "r.toml").write_text(tomli_w.dumps(table))
    return folder / "r.toml"


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_recipe_from_fit_to_describe_is_the_module_by_hand_and_the_pooling(system, network, folder, noise):
    kind, changes, by_hand = SYSTEMS[system]
    module = trained(kind)
    recipe = write(folder, stage_of(folder, kind, module, **changes))
    fitted = fit_recipe(recipe, [noise], weights=None, into=folder / "fitted")
    for file in folder.glob("*.safetensors"):
        file.unlink()  # the fitted recipe has its own
    describer = GlobalDescriber(load_recipe(fitted).global_, None)
    pixels = pixels_of(noise / "3.png")
    expected = by_hand(module, map_of(network, pixels), pixels)
    expected /= np.linalg.norm(expected)
    np.testing.assert_allclose(describer.raw(pixels), expected, atol=2e-5)
    (whitening,) = describer.whitenings
    projected = whitening.matrix.astype(float) @ (expected - whitening.mean)
    # Whitening noise by seven photos enlarges the rounding of what the network computes in float32.
    np.testing.assert_allclose(describer.describe(pixels), projected / np.linalg.norm(projected), atol=5e-3)
    plain = GlobalDescriber(GlobalStage(**{**BASE, **RAW, "pooling": describer.stage.pooling}), fitted)
    assert np.abs(plain.raw(pixels) - expected).max() > 1e-3  # it makes a difference


def test_regions_are_cut_from_the_map_of_the_whole_picture(network, folder, noise):
    """A mask that sees 3×3 cells of the whole picture, under a pyramid; not one of each cell."""
    module = trained("crn")
    scheme = {"kind": "pyramid", "cells": (2,), "aggregate": "concatenate"}
    stage = stage_of(folder, "crn", module, pooling="average", scheme=scheme, whiten="none", dimensions=4 * CHANNELS)
    pixels = pixels_of(noise / "0.png")
    x = map_of(network, pixels)
    assert x.shape[2:] == (4, 6)
    weighed = (x * module(x))[0].double().numpy()
    cells = [mean_of(weighed[:, y : y + 2, z : z + 3]) for y in (0, 2) for z in (0, 3)]
    expected = np.concatenate([cell / np.linalg.norm(cell) for cell in cells]) / 2
    np.testing.assert_allclose(GlobalDescriber(GlobalStage(**stage), folder).raw(pixels), expected, atol=2e-5)


def test_a_pooling_that_learns_learns_from_the_weighed_maps(network, folder, noise):
    """SBA's parts are the channels of the largest variance of sums over the map, under the mask."""
    module = trained("crn")
    stage = stage_of(folder, "crn", module, pooling={"kind": "sba", "parts": 3})
    fitted = fit_recipe(write(folder, stage), [noise], weights=None, into=folder / "fitted")
    maps = [map_of(network, pixels_of(file)) for file in sorted(noise.iterdir())]
    sums = np.stack([(x * module(x))[0].double().numpy().sum(axis=(1, 2)) for x in maps])
    learned = safetensors.torch.load_file(fitted / "channels.safetensors")
    np.testing.assert_allclose(learned["variance"].numpy(), sums.var(axis=0, ddof=1), rtol=1e-3)


def test_an_embedding_takes_rewritten_positions(network, folder, noise):
    from resight.embedding.vlad import Vlad

    module = trained("second-order")
    stage = stage_of(folder, "second-order", module, embedding={"kind": "vlad", "words": 2})
    fitted = fit_recipe(write(folder, stage), [noise], weights=None, into=folder / "fitted")
    pixels = pixels_of(noise / "1.png")
    columns = module(map_of(network, pixels))[0].flatten(1).T
    unit = torch.nn.functional.normalize(columns, dim=1).numpy()
    expected = Vlad.load(fitted / "embedding.safetensors").transform(unit)
    found = GlobalDescriber(load_recipe(fitted).global_, None).raw(pixels)
    np.testing.assert_allclose(found, expected, atol=1e-4)


WEIGHTED = {
    "BLCF-saliency": ("saliency", {"by": "spectral-residual"}, {"kind": "bow", "words": 5, "idf": False}),
    "SWVF, VLAD": ("saliency", {"by": "sums"}, {"kind": "vlad", "words": 2, "reduce": 6}),
    "SWVF, Fisher": ("saliency", {"by": "centre"}, {"kind": "fisher", "components": 2, "reduce": 4}),
    "CRN": ("crn", {}, {"kind": "netvlad", "words": 2, "mask": "sum"}),
    "DELF": ("delf", {}, {"kind": "binary-vlad", "words": 2}),
}


@pytest.mark.parametrize("system", WEIGHTED)
def test_an_embedding_counts_positions_by_their_weights(system, network, folder, noise):
    """Against the embedding itself, given the unit features and the mask, of the map by hand."""
    kind, table, embedding = WEIGHTED[system]
    module = trained(kind)
    stage = stage_of(folder, kind, module, attention=table, embedding=embedding, projection="pca")
    fitted = fit_recipe(write(folder, stage), [noise], weights=None, into=folder / "fitted")
    describer = GlobalDescriber(load_recipe(fitted).global_, None)
    pixels = pixels_of(noise / "1.png")
    x = map_of(network, pixels)
    unit = torch.nn.functional.normalize(x, dim=1)[0].flatten(1).T.numpy()
    mask = weight_of(module, table.get("by"), x, pixels)
    chosen = np.ones(len(unit), bool)
    if embedding.get("mask") == "sum":
        sums = x[0].sum(dim=0).flatten().double().numpy()
        chosen = sums >= np.median(sums)
    embedder = describer.heads[0].embedder
    features = unit if embedder.reduction is None else embedder.reduction.transform(unit)
    expected = embedder.embedding.transform_sets([features[chosen]], [mask.ravel()[chosen]])[0]
    np.testing.assert_allclose(describer.raw(pixels), expected, atol=3e-4)
    assert np.abs(embedder.embedding.transform(features[chosen]) - expected).max() > 1e-3 or system == "DELF"


def weight_of(module, by, x, picture):
    """The weight of each position by the definitions, h×w, up to a factor."""
    features = x[0].double().numpy()
    height, width = features.shape[1:]
    match by:
        case "spectral-residual":
            return cv2.resize(spectral_residual(picture), (width, height), interpolation=cv2.INTER_AREA)
        case "sums":
            return np.sqrt(features.sum(axis=0))
        case "centre":
            y, z = np.mgrid[:height, :width] + 0.5
            squared = (y - height / 2) ** 2 + (z - width / 2) ** 2
            return np.exp(-squared / (2 * (min(height, width) / 6) ** 2))
    return module(x)[0, 0].double().numpy()


def test_patch_tokens_are_weighed_by_the_class_token(tmp_path, noise):
    import timm

    torch.manual_seed(2)
    network = timm.create_model("vit_tiny_patch16_224", num_classes=0, dynamic_img_size=True).eval()
    safetensors.torch.save_file(network.state_dict(), tmp_path / "vit.safetensors")
    stage = {"network": "vit_tiny_patch16_224", "layer": "tokens", "max_side": 96, "weights": "vit.safetensors"}
    stage |= {"attention": {"kind": "class-token", "temperature": 0.3}, "pooling": "average", "whiten": "none"}
    describer = GlobalDescriber(GlobalStage(**stage, dimensions=192), tmp_path)
    pixels = pixels_of(noise / "0.png")
    mean, std = (np.array(network.pretrained_cfg[key]) for key in ("mean", "std"))
    x = torch.from_numpy(((pixels / 255 - mean) / std).transpose(2, 0, 1)[None]).float()
    with torch.no_grad():
        tokens = network.forward_features(x)[0].double().numpy()
    cls, patches = tokens[0], tokens[1:]
    cosines = patches @ cls / np.linalg.norm(patches, axis=1) / np.linalg.norm(cls)
    expected = softmax(cosines / 0.3) @ patches
    np.testing.assert_allclose(describer.raw(pixels), expected / np.linalg.norm(expected), atol=2e-5)
    v = describer.describe(pixels_of(noise / "1.png"))
    (heat,) = locate(describer, pixels, v).maps
    parts = softmax(cosines / 0.3) * (patches @ v) / np.linalg.norm(expected)
    np.testing.assert_allclose(heat.ravel(), parts, atol=1e-5)

    stage["network"], stage["weights"] = "swin_tiny_patch4_window7_224", ""
    assert "has no layer 'tokens'" in refused(tmp_path, stage | {"dimensions": 192})


def masks(module, x, picture):
    """The weight of each position by the definitions, h×w; features times these are pooled."""
    match module:
        case ContextualReweighting():
            return module(x)[0, 0].double().numpy()
        case DelfAttention():
            return (module(x)[0, 0] / x[0].norm(dim=0)).double().numpy()
        case None:
            norms = x[0].norm(dim=0).double().numpy()
            return norms / norms.mean()


@pytest.mark.parametrize("kind", ["crn", "delf", "saliency"])
def test_places_of_a_similarity_count_by_their_weight(kind, network, folder, noise):
    """heat(h, w) = m(h, w) · vᵀx(h, w) / (hw · ‖pooled‖) of an average; the whole is the cosine."""
    module = trained(kind)
    describer = GlobalDescriber(GlobalStage(**stage_of(folder, kind, module, pooling="average", **RAW)), folder)
    pixels, other = pixels_of(noise / "0.png"), pixels_of(noise / "1.png")
    v = describer.describe(other)
    x = map_of(network, pixels)
    mask, features = masks(module, x, pixels), x[0].double().numpy()
    norm = np.linalg.norm((features * mask).mean(axis=(1, 2)))
    located = locate(describer, pixels, v)
    (heat,) = located.maps
    expected = mask * np.einsum("c,chw->hw", v.astype(float), features) / (mask.size * norm)
    np.testing.assert_allclose(heat, expected, atol=1e-4 * np.abs(expected).max())
    assert located.similarity == pytest.approx(float(describer.describe(pixels) @ v), abs=1e-5)


def test_places_under_attention_gem_add_up(folder, noise):
    stage = stage_of(folder, "attention-gem", trained("attention-gem"), pooling={"kind": "gem", "p": 2.0}, **RAW)
    describer = GlobalDescriber(GlobalStage(**stage), folder)
    one, two = (describer.describe(pixels_of(noise / f"{n}.png")) for n in (0, 1))
    located = locate(describer, pixels_of(noise / "0.png"), two)
    assert sum(part.sum() for part in located.maps) == pytest.approx(float(one @ two), abs=1e-5)


def test_places_of_weighted_regions_are_their_maxima(network, folder, noise):
    module = trained("regional")
    describer = GlobalDescriber(
        GlobalStage(**stage_of(folder, "regional", module, pooling="mac", **RAW | {"scales": (1.0, 0.7071)})), folder
    )
    one, two = (describer.describe(pixels_of(noise / f"{n}.png")) for n in (0, 1))
    located = locate(describer, pixels_of(noise / "0.png"), two)
    assert sum(part.sum() for part in located.maps) == pytest.approx(float(one @ two), abs=1e-5)
    assert located.constant == pytest.approx(0, abs=1e-9)
    # A channel's maximum over the whole map is one region's, and no position that is no region's maximum counts.
    x = map_of(network, pixels_of(noise / "0.png"))
    maxima = np.zeros(x.shape[2:], bool)
    for x1, y1, x2, y2 in region_cells(*x.shape[2:], module.levels, module.variant, module.whole):
        part = x[0, :, y1:y2, x1:x2]
        maxima[y1:y2, x1:x2] |= (part == part.amax(dim=(1, 2), keepdim=True)).any(dim=0).numpy()
    assert not located.maps[0][~maxima].any()


def test_what_mixes_positions_leaves_no_places(folder, noise):
    kind = "second-order"
    describer = GlobalDescriber(GlobalStage(**stage_of(folder, kind, trained(kind), pooling="average", **RAW)), folder)
    with pytest.raises(RecipeError, match=f"attention {kind} leaves a similarity no places .* mixes the positions"):
        locate(describer, pixels_of(noise / "0.png"), np.zeros(CHANNELS, np.float32))


def test_other_weights_are_another_descriptor_and_moved_ones_are_not(folder, noise):
    stage = stage_of(folder, "crn", trained("crn"), **RAW)
    first = GlobalDescriber(GlobalStage(**stage), folder)
    table = stage["attention"]
    (folder / "moved").mkdir()
    (folder / "trained.safetensors").rename(folder / "moved/mine.safetensors")
    moved = GlobalDescriber(GlobalStage(**stage | {"attention": table | {"weights": "moved/mine.safetensors"}}), folder)
    assert moved.fingerprint == first.fingerprint and moved.raw_fingerprints == first.raw_fingerprints
    other = GlobalDescriber(GlobalStage(**stage_of(folder, "crn", trained("crn", seed=1), **RAW)), folder)
    plain = GlobalDescriber(GlobalStage(**{**BASE, **RAW}), folder)
    assert len({first.fingerprint, other.fingerprint, plain.fingerprint}) == 3

    stage |= {"weights": str(folder / "w.safetensors")}
    with Collection.create(folder / "c", load_recipe(write(folder, stage))) as collection:
        collection.add([noise], workers=1)
    save(trained("crn", seed=2), folder / "trained.safetensors")
    with Collection.open(folder / "c") as collection, pytest.raises(CollectionError, match="other weights or learned"):
        collection.search(noise / "0.png")


def test_a_part_of_a_checkpoint_is_taken_by_the_prefix_of_its_names(folder, noise):
    module = trained("second-order")
    stage = stage_of(folder, "second-order", module, **RAW)
    whole = {"features.conv1.weight": torch.zeros(3)}
    whole |= {f"features.soa5.{name}": tensor.clone() for name, tensor in module.state_dict().items()}
    torch.save({"state_dict": whole, "meta": {"soa_layers": "45"}}, folder / "solar.pth")
    table = stage["attention"] | {"weights": "solar.pth", "prefix": "features.soa5."}
    pixels = pixels_of(noise / "0.png")
    expected = GlobalDescriber(GlobalStage(**stage), folder).raw(pixels)
    found = GlobalDescriber(GlobalStage(**stage | {"attention": table}), folder).raw(pixels)
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(RecipeError, match=r"solar\.pth: no name begins with 'features\.soa4\.'"):
        GlobalDescriber(GlobalStage(**stage | {"attention": table | {"prefix": "features.soa4."}}), folder)


def refused(folder, stage):
    with pytest.raises(RecipeError) as caught:
        GlobalDescriber(GlobalStage(**stage), folder)
    return str(caught.value)


def test_weights_that_do_not_fit_are_listed(folder):
    stage = stage_of(folder, "crn", trained("crn"))
    said = refused(folder, stage | {"layer": "layer4"})
    assert "trained.safetensors (attention crn over the 512 channels of layer layer4)" in said
    assert "misshapen filters.0.weight (4, 256, 3, 3) for (4, 512, 3, 3)" in said

    state = trained("crn").state_dict()
    bias = state.pop("accumulate.bias")
    safetensors.torch.save_file(state | {"accumulate.offset": bias}, folder / "trained.safetensors")
    said = refused(folder, stage)
    assert "missing accumulate.bias" in said and "unexpected accumulate.offset" in said

    said = refused(folder, stage_of(folder, "second-order", trained("second-order"), attention={"reduction": 2}))
    assert "misshapen f.0.weight (64, 256, 1, 1) for (128, 256, 1, 1)" in said
    said = refused(folder, stage_of(folder, "second-order", trained("second-order"), attention={"reduction": 512}))
    assert "reduction 512 leaves none of 256 channels" in said


@pytest.mark.parametrize("kind", MODULES)
def test_what_is_learned_needs_weights(kind, folder):
    pooling = {"regional": "mac"}.get(kind, "gem")
    # Said before any network is loaded: this one's weights are not there.
    said = refused(folder, BASE | {"weights": "none.safetensors", "attention": {"kind": kind}, "pooling": pooling})
    assert f"attention {kind} has to be trained" in said and f'kind = "{kind}", weights = "FILE"' in said


def test_another_file_than_the_recipes_is_refused(folder):
    stage = stage_of(folder, "crn", trained("crn"))
    sha256 = file_sha256(folder / "trained.safetensors")
    GlobalDescriber(GlobalStage(**stage | {"attention": stage["attention"] | {"weights_sha256": sha256}}), folder)
    save(trained("crn", seed=1), folder / "trained.safetensors")
    said = refused(folder, stage | {"attention": stage["attention"] | {"weights_sha256": sha256}})
    assert "trained.safetensors: sha256 is" in said and sha256 in said
    said = refused(folder, stage | {"attention": stage["attention"] | {"weights": "none.safetensors"}})
    assert "none.safetensors: no such weights file" in said


def test_the_exponent_is_the_one_it_was_trained_with(folder):
    said = refused(folder, stage_of(folder, "attention-gem", trained("attention-gem"), pooling="gem"))
    assert 'trained with p = 2, the recipe has 3.0: say pooling = { kind = "gem", p = 2 }' in said


@pytest.mark.parametrize(("name", "layer"), [("resnet10t", "pooled"), ("vit_tiny_patch16_224", "cls")])
def test_a_layer_without_positions_is_refused(name, layer, folder):
    import timm

    made = timm.create_model(name, num_classes=0)
    safetensors.torch.save_file(made.state_dict(), folder / "w.safetensors")
    stage = BASE | {"network": name, "layer": layer, "max_side": 224, "attention": {"kind": "saliency"}}
    assert "is one vector, without positions: attention saliency has none to weigh" in refused(folder, stage)
