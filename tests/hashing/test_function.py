"""What every hash function does: project, encode, save and load with its provenance, and refuse what does not fit."""

import numpy as np
import pytest

from resight.artefact import save_artefact
from resight.errors import RecipeError
from resight.fitted import PhotoSketch
from resight.hashing.codes import unpack
from resight.hashing.function import HashFunction, Layer

SKETCH = PhotoSketch.of(["ab" * 16, "cd" * 16])


def layer(outputs, inputs, activation="linear", seed=0):
    rng = np.random.default_rng(seed)
    weight, bias = rng.normal(size=(outputs, inputs)), rng.normal(size=outputs)
    return Layer(weight.astype(np.float32), bias.astype(np.float32), activation)


def make(*layers, **facts):
    return HashFunction(layers or (layer(16, 3),), **{"kind": "lsh", "n": 9, "fitted_on": "noise"} | facts)


@pytest.mark.parametrize(
    ("activation", "curve"),
    [
        ("linear", lambda x: x),
        ("sigmoid", lambda x: 1 / (1 + np.exp(-x))),
        ("tanh", lambda x: (np.exp(x) - np.exp(-x)) / (np.exp(x) + np.exp(-x))),
        ("relu", lambda x: x * (x > 0)),
    ],
)
def test_layers_one_vector_at_a_time(activation, curve):
    first, last = layer(5, 3, activation), layer(16, 5, seed=1)
    function, x = make(first, last), np.random.default_rng(2).normal(size=(7, 3))
    wanted = [last.weight @ curve(first.weight @ v + first.bias) + last.bias for v in x]
    found = function.project(x)
    assert found.dtype == np.float32 and (function.bits, function.dimension) == (16, 3)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    np.testing.assert_array_equal(unpack(function.encode(x)), np.array(wanted) > 0)


def test_sigmoid_does_not_overflow():
    steep = Layer(np.full((1, 1), 1e4, np.float32), np.zeros(1, np.float32), "sigmoid")
    with np.errstate(all="raise"):
        np.testing.assert_allclose(steep(np.float32([[-1], [0], [1]])), [[0], [0.5], [1]])


def test_zero_is_no_set_bit():
    flat = Layer(np.eye(8, dtype=np.float32), np.zeros(8, np.float32))
    np.testing.assert_array_equal(make(flat).encode(np.zeros((1, 8))), [[0]])


@pytest.mark.parametrize("photos", [None, SKETCH])
def test_save_and_load(tmp_path, photos):
    made = make(layer(5, 3, "tanh"), layer(16, 5), kind="autoencoder", descriptor="d", photos=photos)
    fingerprint = made.save(tmp_path / "h.safetensors")
    loaded = HashFunction.load(tmp_path / "h.safetensors")
    x = np.random.default_rng(1).normal(size=(4, 3))
    np.testing.assert_array_equal(loaded.project(x), made.project(x))
    facts = (loaded.kind, loaded.n, loaded.fitted_on, loaded.descriptor, loaded.photos)
    assert facts == ("autoencoder", 9, "noise", "d", photos)
    assert loaded.fingerprint == made.fingerprint == fingerprint


def test_the_fingerprint_is_of_kind_and_values_alone():
    same = {make().fingerprint, make(n=8, fitted_on="else", descriptor="e", photos=SKETCH).fingerprint}
    others = {make(kind="itq").fingerprint, make(layer(16, 3, seed=1)).fingerprint, make(layer(8, 3)).fingerprint}
    assert len(same) == 1 and len(same | others) == 4


def test_files_that_are_refused(tmp_path):
    file = tmp_path / "h.safetensors"
    with pytest.raises(RecipeError, match="no such file"):
        HashFunction.load(file)
    make().save(file)
    whole = file.read_bytes()
    for damaged in (whole[:-4], whole[:-1] + bytes([whole[-1] ^ 1]), b"", b"not safetensors at all"):
        file.write_bytes(damaged)
        with pytest.raises(RecipeError, match=r"h\.safetensors"):
            HashFunction.load(file)
    save_artefact(file, "pca", {"x": np.zeros(3)}, {})
    with pytest.raises(RecipeError, match="holds a pca artefact"):
        HashFunction.load(file)
    tensors = {"weight.0": np.zeros((8, 3), np.float32), "bias.0": np.zeros(8, np.float32)}
    meta = {"n": 1, "fitted_on": "", "descriptor": "", "activations": ["linear"]}
    for change in ({"activations": ["step"]}, {"activations": ["linear", "linear"]}, {"n": "many"}, {"photos": {}}):
        save_artefact(file, "hash-lsh", tensors, meta | change)
        with pytest.raises(RecipeError, match="not a hash function that this version can use"):
            HashFunction.load(file)
    save_artefact(file, "hash-lsh", tensors, meta)
    assert HashFunction.load(file).bits == 8


def test_functions_that_are_refused():
    with pytest.raises(ValueError, match="the last of which is linear"):
        make(layer(16, 3, "tanh"))
    with pytest.raises(ValueError, match="4 outputs feeds one of 5 inputs"):
        make(layer(4, 3), layer(16, 5))
    for outputs in (0, 12):
        with pytest.raises(ValueError, match=f"multiple of 8 bits, not {outputs}"):
            make(layer(outputs, 3))
    with pytest.raises(ValueError, match="finite"):
        Layer(np.full((8, 2), np.nan, np.float32), np.zeros(8, np.float32))
    with pytest.raises(ValueError, match="K biases"):
        Layer(np.zeros((8, 2), np.float32), np.zeros(2, np.float32))
    with pytest.raises(ValueError, match="N×3"):
        make().project(np.zeros((2, 4)))
