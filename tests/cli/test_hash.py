"""`resight hash`: what is written, printed and refused, with a tiny network of random weights."""

import json
import xml.etree.ElementTree as ET

import cv2
import numpy as np
import pytest
import tomli_w
from typer.testing import CliRunner

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402

from resight.cli.main import app  # noqa: E402
from resight.hashing.function import HashFunction  # noqa: E402
from resight.networks.architectures import create_network  # noqa: E402
from resight.search.collection import Collection  # noqa: E402
from resight.search.vectors import read_vectors  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """weights.safetensors; recipe.toml; `set` and `taught`, two things of two views each; `other` with 36 pictures."""
    folder = tmp_path_factory.mktemp("hash")
    torch.manual_seed(0)
    safetensors.torch.save_file(create_network("resnet10t").state_dict(), folder / "weights.safetensors")
    stage = {"network": "resnet10t", "layer": "layer1", "max_side": 64, "whiten": "none", "dimensions": 64}
    recipe = {"name": "tiny", "title": "", "source": "", "filter": "global", "global": stage}
    (folder / "recipe.toml").write_text(tomli_w.dumps(recipe))
    rng = np.random.default_rng(0)
    views = [f"{of}/{view}" for of in ("set/crest", "set/vase", "taught/cup", "taught/urn") for view in (1, 2)]
    for name in (*views, *(f"other/{i}" for i in range(36))):
        file = folder / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), cv2.resize(rng.integers(0, 255, (9, 12, 3), np.uint8), (64, 48)))
    return folder


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"RESIGHT_RECIPE": ""})


@pytest.fixture(scope="module")
def made(folder):
    return "--recipe", folder / "recipe.toml", "--weights", folder / "weights.safetensors"


@pytest.fixture(scope="module")
def collection(folder, made):
    result = run("index", folder / "other", "--into", folder / "collection", *made, "--quiet", "--workers", 1)
    assert result.exit_code == 0, result.stderr
    return folder / "collection"


def test_fit(collection, tmp_path):
    result = run("hash", "fit", collection, "--method", "itq", "--bits", 16, "--into", tmp_path / "h.safetensors")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("itq, 16 bits, learned from 36 photos of ")
    function = HashFunction.load(tmp_path / "h.safetensors")
    vectors = read_vectors(collection)
    with Collection.open(collection) as opened:
        digests = dict(opened.digests())
        assert function.descriptor == vectors.fingerprint == opened.fingerprint
        assert dict(zip(vectors.origins, vectors.digests, strict=True)) == digests
        for image, vector in zip(opened.entries(), vectors.x, strict=True):
            np.testing.assert_allclose(
                opened.branch_similarities(image.id)[1][image.id - 1], vector @ vector, atol=1e-6
            )
    assert (function.kind, function.n, function.bits, function.dimension) == ("itq", 36, 16, 64)
    assert function.photos is not None and function.photos.share_in(digests.values()) == 1
    assert function.encode(vectors.x).shape == (36, 2)
    again = run("hash", "fit", collection, "--bits", 16, "--into", tmp_path / "h.safetensors")
    assert again.exit_code == 2 and "is there already; choose another --into" in again.stderr


def test_fit_on_a_sample(collection, tmp_path):
    made = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        file = tmp_path / f"{name}.safetensors"
        arguments = ("--method", "pca-sign", "--bits", 8, "--sample", 20, "--seed", seed, "--into", file)
        assert run("hash", "fit", collection, *arguments).exit_code == 0
        made.append(HashFunction.load(file))
    assert [function.n for function in made] == [20, 20, 20]
    assert made[0].fingerprint == made[1].fingerprint != made[2].fingerprint
    assert "(seed 1)" in made[2].fitted_on


def test_fit_refuses(collection, folder, tmp_path):
    into = ("--into", tmp_path / "h.safetensors")
    for arguments, message in (
        ((collection, "--method", "sift", *into), "no hashing method is called 'sift'; choose lsh, pca-sign, itq"),
        ((collection, "--bits", 64, *into), "itq makes at most 35 bits of 36 vectors"),
        ((collection, "--bits", 12, *into), "multiple of 8 bits, not 12"),
        ((folder / "other", *into), "no collection here"),
        ((collection, "--into", tmp_path / "none/h.safetensors"), "there is no folder"),
    ):
        result = run("hash", "fit", *arguments)
        assert result.exit_code == 2 and message in result.stderr, result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("method", ["dsth", "rbm", "autoencoder"])
def test_fit_by_other_methods(collection, tmp_path, method):
    into = ("--bits", 16, "--into", tmp_path / "h.safetensors", "--quiet")
    result = run("hash", "fit", collection, "--method", method, *into)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(f"{method}, 16 bits, learned from 36 photos of ")
    assert HashFunction.load(tmp_path / "h.safetensors").kind == method


def test_fit_with_labels_or_views(folder, made, collection, tmp_path):
    both = tmp_path / "both"
    indexed = run("index", folder / "set", folder / "taught", "--into", both, *made, "--quiet", "--workers", 1)
    assert indexed.exit_code == 0, indexed.stderr
    labels = ("--method", "ssdh", "--bits", 8, "--labels", folder / "set", "--quiet")
    result = run("hash", "fit", both, *labels, "--into", tmp_path / "l.safetensors")
    assert result.exit_code == 0, result.stderr
    assert "learned from 4 photos of" in result.stdout and "labelled in set" in result.stdout
    assert HashFunction.load(tmp_path / "l.safetensors").n == 4
    views = ("--method", "deepbit", "--bits", 8, "--angles", "-3,4", "--quiet", "--into", tmp_path / "v.safetensors")
    result = run("hash", "fit", both, *views)
    assert result.exit_code == 0 and "turned by -3°, 4°" in result.stdout, result.stderr
    refused = ("--into", tmp_path / "h.safetensors")
    for arguments, message in (
        ((collection, *labels), "0 of its photos are labelled in set: index the photos of that set into it first"),
        ((both, "--method", "ssdh"), "name a set of them with --labels"),
        ((both, "--labels", folder / "set"), "itq learns without labels: leave --labels out"),
        ((both, "--method", "deepbit", "--angles", "a few"), "--angles a few: give numbers with commas"),
        ((both, "--angles", "1,2"), "itq does not turn photos: leave --angles out, or choose deepbit"),
        ((both, "--method", "sah"), 'embedding = { kind = "gmp" }'),
        ((both, "--method", "regional"), "keeps no regions"),
    ):
        result = run("hash", "fit", *arguments, *refused)
        assert result.exit_code == 2 and message in result.stderr, result.stderr


def test_report_of_methods_that_learn_from_labels(folder, made):
    common = (folder / "set", *made, "--workers", 1, "--bits", 8, "--method", "ssdh", "--json", "--quiet")
    result = run("hash", "report", *common, "--labels", folder / "taught", "--method", "rbm")
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)
    assert [row["method"] for row in facts["rows"]] == ["ssdh", "rbm"]
    assert facts["fitted_share"] == {"hash functions": 1.0, "hash functions by labels": 0.0}
    assert facts["protocol"]["by labels"] == "fitted on 4 labelled photos of taught; seed 0"
    leaked = run("hash", "report", *common, "--labels", folder / "set")
    assert "hash functions by labels fitted on 100 % of these photos" in leaked.stderr


def test_report(folder, made, tmp_path):
    kept = ("--collection", tmp_path / "kept", "--workers", 1)
    more = ("--distractors", folder / "other", "--bits", 16, "--bits", 64, "--plot", tmp_path / "p.svg")
    result = run("hash", "report", folder / "set", *made, *kept, *more)
    assert result.exit_code == 0, result.stderr
    rows = [line.split()[:3] for line in result.stdout.splitlines()[1:5]]
    assert rows == [["lsh", "16", "2"], ["lsh", "64", "8"], ["pca-sign", "16", "2"], ["itq", "16", "2"]]
    assert "36 distractors of set; seed 0" in result.stdout
    assert "pca-sign of 64 bits is left out: pca-sign makes at most 35 bits" in result.stderr
    assert "too good" not in result.stderr
    assert ET.parse(tmp_path / "p.svg").getroot().tag.endswith("svg")
    again = run("hash", "report", folder / "set", *made, *kept, "--method", "lsh", "--bits", 8, "--json", "--quiet")
    facts = json.loads(again.stdout)
    assert [(row["method"], row["bits"]) for row in facts["rows"]] == [("lsh", 8)]
    assert facts["fitted_share"] == {"hash functions": 1.0}
    assert "hash functions fitted on 100 % of these photos" in again.stderr


def test_report_refuses(folder, made, tmp_path):
    for arguments, message in (
        ((folder / "set", *made, "--method", "sift"), "'sift'; choose lsh, pca-sign, itq"),
        ((folder / "set", *made, "--method", "ssdh"), "ssdh learns from labelled photos: name a set of them with --la"),
        ((folder / "set", *made, "--labels", folder / "taught"), "no method here learns from labels"),
        ((folder / "set", *made, "--method", "deepbit"), "deepbit learns from more than vectors, views: learn it with"),
        ((folder / "set", *made, "--bits", 9), "multiple of 8 bits, not 9"),
        ((folder / "set", *made, "--plot", tmp_path / "p.png"), "ends in .svg"),
        ((folder / "set", *made, "--plot", tmp_path / "none/p.svg"), "there is no folder"),
        ((folder / "set",), "rootsift-asmk has no [global] table"),
        ((folder / "nowhere", *made), "no such folder"),
    ):
        result = run("hash", "report", *arguments)
        assert result.exit_code == 2 and message in result.stderr, result.stderr
