"""DOAP's layouts against NumPy and SciPy: MatConvNet's arithmetic, its files as SciPy writes them, HardNet's names."""

import numpy as np
import pytest
import scipy.io
from scipy.ndimage import map_coordinates
from scipy.signal import correlate2d

torch = pytest.importorskip("torch")

from resight.errors import RecipeError  # noqa: E402
from resight.images.image import Image  # noqa: E402
from resight.local.doap import DoapFeatures, l2net, read_doap, resample  # noqa: E402
from resight.local.features import quantised  # noqa: E402
from resight.local.patch_network import AffNet, OriNet  # noqa: E402

LAYERS = (
    (1, 32, 3, 1, 1),
    (32, 32, 3, 1, 1),
    (32, 64, 3, 2, 1),
    (64, 64, 3, 1, 1),
    (64, 128, 3, 2, 1),
    (128, 128, 3, 1, 1),
)
LOCATE = ((1, 3, 5, 2, 0), (3, 4, 5, 2, 0), (4, 6, 8, 1, 0))  # 42 → 19 → 8 → 1


def structs(rows):
    """A MATLAB structure array, as SciPy writes one."""
    array = np.empty((1, len(rows)), [(key, object) for key in rows[0]])
    for place, row in enumerate(rows):
        for key, value in row.items():
            array[0, place][key] = value
    return array


def cells(*texts):
    array = np.empty((1, len(texts)), object)
    array[0, :] = texts
    return array


class Dagnn:
    """A DagNN model with random weights, and what MatConvNet computes with it, in NumPy."""

    def __init__(self, outputs, transformer, seed=0):
        self.rng, self.layers, self.params, self.steps = np.random.default_rng(seed), [], [], []
        if transformer:
            for place, shape in enumerate(LOCATE):
                self.conv(f"loc{place}", *shape, scale=0.3 if place < 2 else 0.05)
                if place < 2:
                    self.layer("dagnn.ReLU", f"lrelu{place}", leak=0.0)
            # Close to the middle of the patch, as it begins.
            self.params[-1]["value"] += np.array([0.6, 0.1, -0.1, 0.7, 0.05, -0.1], np.float32)[:, None]
            self.layer("dagnn.AffineGridGenerator", "grid", Ho=32.0, Wo=32.0)
            self.layer("models.PaddedBilinear", "xST")
        for place, shape in enumerate(LAYERS, 1):
            self.conv(f"conv{place}", *shape, scale=0.1)
            self.norm(f"bn{place}", shape[1])
            self.layer("dagnn.ReLU", f"relu{place}", leak=0.0)
        self.layer("dagnn.DropOut", "drop", rate=0.3)
        self.conv("conv7", 128, outputs, 8, 1, 0, scale=0.02, puts="logits")
        self.layer("models.APLoss", "objective", opts=cells("made up"))

    def layer(self, kind, name, params=(), puts="", **block):
        entry = {"name": name, "type": kind, "inputs": cells("before"), "outputs": cells(puts or name)}
        block = structs([block]) if block else np.empty((0, 0))
        self.layers.append({**entry, "params": cells(*params) if params else np.empty((0, 0)), "block": block})
        self.steps.append((kind.rpartition(".")[2], params, block))

    def conv(self, name, inputs, outputs, side, stride, padding, scale, puts=""):
        weight = self.rng.normal(size=(side, side, inputs, outputs), scale=scale).astype(np.float32)
        bias = self.rng.normal(size=(outputs, 1), scale=0.1).astype(np.float32)
        self.params += [{"name": name + "f", "value": weight}, {"name": name + "b", "value": bias}]
        size = np.array([side, side, inputs, outputs], float)
        sides = {"stride": np.full((1, 2), float(stride)), "pad": np.full((1, 4), float(padding))}
        self.layer("dagnn.Conv", name, (name + "f", name + "b"), puts, size=size, **sides, dilate=np.ones((1, 2)))

    def norm(self, name, width):
        values = self.rng.uniform(0.5, 1.5, (4, width, 1)).astype(np.float32)
        values[[0, 3]] *= 0.01  # deviations so small that MatConvNet's ε, which is in them, counts
        moments = np.hstack([values[2] - 1, values[3]])
        for part, value in (("m", values[0]), ("b", values[1] - 1), ("x", moments)):
            self.params.append({"name": name + part, "value": value})
        self.layer("dagnn.BatchNorm", name, (name + "m", name + "b", name + "x"), epsilon=1e-5)

    def save(self, path):
        meta = {"epoch": 3.0, "note": "made up"}
        net = {"layers": structs(self.layers), "params": structs(self.params), "meta": structs([meta])}
        scipy.io.savemat(path, {"net": structs([net])}, do_compression=True)
        return path

    def logits(self, patch):
        """By MatConvNet's documentation, in float64; a patch H×W."""
        values = {entry["name"]: entry["value"].astype(float) for entry in self.params}
        x = (patch - patch.mean()) / patch.std(ddof=1)
        seen, x = x, x[None]
        for kind, names, block in self.steps:
            given = [values[name] for name in names]
            if kind == "Conv":
                pad, stride = int(block[0, 0]["pad"][0, 0]), int(block[0, 0]["stride"][0, 0])
                x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
                maps = [
                    sum(correlate2d(x[c], given[0][:, :, c, k], "valid") for c in range(len(x))) + given[1][k]
                    for k in range(given[0].shape[3])
                ]
                x = np.stack(maps)[:, ::stride, ::stride]
            elif kind == "BatchNorm":
                scale, shift, moments = given
                mean, deviation = moments.T[:, :, None, None]
                x = scale[:, :, None] * (x - mean) / deviation + shift[:, :, None]
            elif kind == "ReLU":
                x = np.maximum(x, 0)
            elif kind == "PaddedBilinear":
                x = resampled(seen, x.ravel())[None]
        return x.ravel()


def resampled(patch, a):
    """MatConvNet's grid and the authors' padding, in NumPy: v is down, u right."""
    room, line = len(patch) // 2, np.linspace(-1, 1, 32)
    padded = np.pad(patch, room, mode="edge")
    v, u = np.meshgrid(line, line, indexing="ij")
    grid = np.stack([a[0] * v + a[1] * u + a[4], a[2] * v + a[3] * u + a[5]])
    return map_coordinates(padded, (grid / 2 + 1) / 2 * (len(padded) - 1), order=1, mode="grid-constant")


def drawn(count, side, seed=1):
    return np.random.default_rng(seed).uniform(0, 255, (count, side, side)).astype(np.float32)


@pytest.mark.parametrize(("outputs", "transformer"), [(128, False), (128, True), (256, False)])
def test_a_published_model_computes_what_matconvnet_does(outputs, transformer, tmp_path):
    made, side = Dagnn(outputs, transformer), 42 if transformer else 32
    network = read_doap(made.save(tmp_path / "model.mat"), outputs, binary=outputs == 256)
    patches = drawn(1, side)
    expected = made.logits(patches[0].astype(float))
    with torch.inference_mode():
        found = network.logits(torch.from_numpy(patches[:, None]))[0].numpy()
        described = network(torch.from_numpy(patches[:, None]))[0].numpy()
    assert network.side == side and expected.std() > 0.05
    np.testing.assert_allclose(found, expected, atol=2e-4 * abs(expected).max())
    unit = np.sign(expected) / 16 if outputs == 256 else expected / np.linalg.norm(expected)
    np.testing.assert_allclose(described, unit, atol=1e-3)


def test_the_transformer_turns_squeezes_and_moves():
    """Maps that reach beyond the patch, beyond its repeated border too."""
    patches = drawn(3, 42)
    maps = np.array([[1, 0, 0, 1, 0, 0], [0.7, -0.9, 0.8, 0.6, 0.3, -0.4], [1.8, 0.2, 0, 1.2, 0.9, 0.1]], np.float32)
    found = resample(torch.from_numpy(patches[:, None]), torch.from_numpy(maps)).numpy()
    for patch, a, one in zip(patches, maps, found, strict=True):
        np.testing.assert_allclose(one[0], resampled(patch, a), atol=0.02)
    assert (found[2] == 0).any() and not (found[1] == 0).any()


def test_hardnet_s_names_are_those_of_the_network(tmp_path):
    """As https://github.com/DagnyT/hardnet saves them: no biases, and batch normalisation without parameters."""
    torch.manual_seed(0)
    state = {f"features.{name}": value for name, value in l2net().state_dict().items()}
    convolutions = {name for name in state if name.endswith("weight")}
    assert convolutions == {f"features.{place}.weight" for place in (0, 3, 6, 9, 12, 15, 19)}
    assert {"features.1.running_mean", "features.20.running_var"} < set(state) and "features.0.bias" not in state
    torch.save({"epoch": 9, "state_dict": state}, tmp_path / "DOAP.pth")
    network = read_doap(tmp_path / "DOAP.pth", 128)
    with torch.inference_mode():
        found = network(torch.from_numpy(drawn(4, 32)[:, None]))
    np.testing.assert_allclose(found.norm(dim=1), 1, atol=1e-5)
    with pytest.raises(RecipeError, match=r"misshapen features\.19\.weight \(128, 128, 8, 8\) for \(256"):
        read_doap(tmp_path / "DOAP.pth", 256)


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    for name, network in (("AffNet", AffNet()), ("OriNet", OriNet())):
        torch.save({"state_dict": network.state_dict()}, tmp_path / f"{name}.pth")
    Dagnn(256, True).save(tmp_path / "DOAP.mat")
    return tmp_path


def test_binary_distances_are_hamming_s_also_as_they_are_stored(folder, photo_image):
    features = DoapFeatures(folder, dimension=256, binary=True).extract(photo_image, max_features=60)
    bits = features.descriptors > 0
    assert len(features) > 20 and 0.05 < bits.mean() < 0.95
    np.testing.assert_array_equal(np.abs(features.descriptors), 1 / 16)
    stored = quantised(features).descriptors.astype(int)
    hamming = (bits[:, None] != bits).sum(axis=2)
    np.testing.assert_array_equal(((stored[:, None] - stored) ** 2).sum(axis=2), hamming * 32**2)


@pytest.fixture
def photo_image(pictures):
    pixels = np.ascontiguousarray(pictures["coffee"][:200, :200])
    return Image(pixels, pixels.shape[1::-1], "<array>")


def test_what_is_no_model_is_refused_by_name(folder, tmp_path):
    with pytest.raises(RecipeError, match=r"DOAP\.mat: describes a patch by 256 numbers, not 128: set dimension"):
        DoapFeatures(folder)
    scipy.io.savemat(folder / "DOAP.mat", {"net": structs([{"layers": "none", "params": 3.0}])})
    with pytest.raises(RecipeError, match=r"DOAP\.mat: is no DagNN model of DOAP, or damaged"):
        DoapFeatures(folder)
    whole = Dagnn(128, False).save(folder / "DOAP.mat").read_bytes()
    (folder / "DOAP.mat").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RecipeError, match=r"DOAP\.mat: is no DagNN model of DOAP, or damaged"):
        DoapFeatures(folder)
    (folder / "DOAP.pth").touch()
    with pytest.raises(RecipeError, match=r"needs one of DOAP\.mat, .*, and has 2"):
        DoapFeatures(folder)
