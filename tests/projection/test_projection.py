"""What every projection does: transform, save and load with its provenance, and refuse other files."""

import subprocess
import sys

import numpy as np
import pytest

from resight.artefact import artefact_fingerprint, save_artefact
from resight.errors import RecipeError
from resight.fitted import PhotoSketch
from resight.projection.projection import Projection

MEAN = np.float32([1, 2, 3])
MATRIX = np.float32([[1, 0, 1], [0, 2, 0]])
SKETCH = PhotoSketch.of(["ab" * 16, "cd" * 16])


def make(kind="pca", **facts):
    defaults = {"mean": MEAN, "matrix": MATRIX, "n": 300, "fitted_on": "noise", "descriptor": "d"}
    return Projection(kind=kind, **(defaults | facts))


def test_worked_by_hand():
    out = make().transform([[[2, 4, 5]], [[1, 2, 3]]])  # centred (1, 2, 2) → (3, 4) → (0.6, 0.8); the mean → 0
    assert out.dtype == np.float32 and out.shape == (2, 1, 2)
    np.testing.assert_allclose(out[:, 0], [[0.6, 0.8], [0, 0]], atol=1e-7)
    np.testing.assert_array_equal(make().transform([2, 4, 5]), out[0, 0])


def test_vectors_and_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="3 entries"):
        make().transform(np.zeros((2, 4)))
    with pytest.raises(ValueError, match="K×D"):
        make(matrix=MATRIX[:, :2])


@pytest.mark.parametrize("kind", ["pca", "pca-whitening", "learned-whitening"])
@pytest.mark.parametrize("photos", [None, SKETCH])
def test_save_and_load(tmp_path, kind, photos):
    made = make(kind, photos=photos)
    fingerprint = made.save(tmp_path / "p.safetensors")
    loaded = Projection.load(tmp_path / "p.safetensors")
    np.testing.assert_array_equal(loaded.mean, MEAN)
    np.testing.assert_array_equal(loaded.matrix, MATRIX)
    facts = (loaded.kind, loaded.n, loaded.fitted_on, loaded.descriptor, loaded.dimension, loaded.photos)
    assert facts == (kind, 300, "noise", "d", 2, photos)
    assert loaded.fingerprint == made.fingerprint == fingerprint


def test_whitenings_of_earlier_versions_keep_their_fingerprint(tmp_path):
    tensors = {"mean": MEAN, "projection": MATRIX}
    meta = {"n": 300, "fitted_on": "noise", "dimension": 2, "descriptor": "d"}
    save_artefact(tmp_path / "w.safetensors", "pca-whitening", tensors, meta)
    loaded = Projection.load(tmp_path / "w.safetensors")
    assert loaded.fingerprint == artefact_fingerprint("pca-whitening", tensors)
    assert (loaded.kind, loaded.photos) == ("pca-whitening", None)


def test_fingerprint_is_of_kind_and_values_alone():
    same = make(n=2, fitted_on="else", descriptor="e", photos=SKETCH)
    assert same.fingerprint == make().fingerprint
    assert len({make().fingerprint, make("pca-whitening").fingerprint, make(mean=MEAN + 1).fingerprint}) == 3


def test_artefacts_that_are_no_projection(tmp_path):
    path = tmp_path / "w.safetensors"
    facts = {"n": 3, "fitted_on": "", "descriptor": ""}
    save_artefact(path, "codebook", {"mean": MEAN, "projection": MATRIX}, facts)
    with pytest.raises(RecipeError, match=r"holds a codebook .* where a pca or pca-whitening or learned-whitening"):
        Projection.load(path)
    save_artefact(path, "pca-whitening", {"mean": MEAN}, {})
    with pytest.raises(RecipeError, match=r"w\.safetensors: not a projection"):
        Projection.load(path)
    save_artefact(path, "pca", {"mean": MEAN, "projection": MATRIX[:, :2]}, facts)
    with pytest.raises(RecipeError, match="K×D"):
        Projection.load(path)
    save_artefact(path, "pca", {"mean": MEAN, "projection": MATRIX}, {**facts, "photos": {"count": 1, "smallest": []}})
    with pytest.raises(RecipeError, match="not a projection"):
        Projection.load(path)


def test_needs_no_torch():
    code = "import sys, resight.projection.learned_whitening; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
