"""What branches learn says which photos it was learned from, in their files and to an evaluation."""

import json

import pytest

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402
import tomli_w  # noqa: E402

from resight.artefact import add_meta, load_artefact, read_meta, save_artefact  # noqa: E402
from resight.describe.embedding import Embedder  # noqa: E402
from resight.describe.fit import fit_recipe  # noqa: E402
from resight.describe.global_descriptor import GlobalDescriber  # noqa: E402
from resight.describe.pooling import ChannelStatistics  # noqa: E402
from resight.errors import RecipeError  # noqa: E402
from resight.evaluation import evaluate  # noqa: E402
from resight.fitted import PhotoSketch  # noqa: E402
from resight.images import digest  # noqa: E402
from resight.networks.architectures import create_network  # noqa: E402
from resight.recipes import load_recipe  # noqa: E402
from resight.recipes.network_stages import BowStage  # noqa: E402

STAGE = {"network": "resnet10t", "layer": "layer3", "max_side": 96, "dimensions": 4}
SBA = {"pooling": {"kind": "sba", "parts": 2}}
VLAD = {"pooling": "gem", "embedding": {"kind": "vlad", "words": 2, "reduce": 4}}
BOW = {"pooling": "gem", "embedding": {"kind": "bow", "words": 4}}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory, photos):
    """A fitted recipe of three branches that all learn, of seven of twelve photos."""
    folder = tmp_path_factory.mktemp("learn")
    torch.manual_seed(0)
    safetensors.torch.save_file(create_network("resnet10t").state_dict(), folder / "w.safetensors")
    stage = STAGE | SBA | {"also": [VLAD, BOW]}
    table = {"name": "x", "title": "", "source": "", "filter": "global", "global": stage}
    (folder / "r.toml").write_text(tomli_w.dumps(table))
    into = folder / "fitted"
    return fit_recipe(folder / "r.toml", [photos], weights=folder / "w.safetensors", into=into, sample=7)


def test_each_file_knows_its_photos(fitted, photos):
    describer = GlobalDescriber(load_recipe(fitted).global_, None)
    assert list(describer.fitted) == ["pooling", "embedding 2", "reduction 2", "embedding 3", "whitening"]
    everything = [digest(file.read_bytes()) for file in photos.iterdir() if file.suffix in (".png", ".jpg")]
    for part in describer.fitted.values():
        assert part.photos.count == 7 and part.photos.share_in(everything) == pytest.approx(7 / 12)
        assert part.fitted_on == f"7 photos of {photos} (seed 0)"
    assert len({part.photos for part in describer.fitted.values()}) == 1
    assert ChannelStatistics.load(fitted / "channels.safetensors").photos == describer.fitted["pooling"].photos


def test_an_evaluation_warns_of_them(fitted, photos, tmp_path):
    names = sorted(file.name for file in photos.iterdir() if file.suffix in (".png", ".jpg"))
    queries = {name: {"positives": [n for n in names if n[:4] == name[:4] and n != name]} for name in names[:2]}
    folder = tmp_path / "set"
    folder.mkdir()
    for name in names:
        (folder / name).symlink_to(photos / name)
    (folder / "gt.json").write_text(json.dumps({"name": "views", "database": names, "queries": queries}))
    report = evaluate(folder, fitted, workers=1)
    share = dict.fromkeys(["pooling", "embedding 2", "reduction 2", "embedding 3", "whitening"], pytest.approx(7 / 12))
    assert report.protocol.fitted_share == share and report.protocol.fitted_on.keys() == share.keys()
    for part in share:
        assert any(part in warning and "58 %" in warning for warning in report.warnings)


def test_a_file_may_not_know_its_photos_but_must_not_say_it_wrongly(fitted, tmp_path):
    known = fitted / "embedding-3.safetensors"
    stage = BowStage(kind="bow")
    kind, sketch = "bag-of-words", read_meta(known)["photos"]
    tensors, meta = load_artefact(known, kind)
    silent = {key: value for key, value in meta.items() if key != "photos"}
    file = tmp_path / "e.safetensors"
    save_artefact(file, kind, tensors, silent)
    assert Embedder.load(stage, file, None).photos is None
    add_meta(file, {"photos": sketch})
    assert Embedder.load(stage, file, None).photos == PhotoSketch.from_json(sketch)
    assert file.read_bytes() == known.read_bytes()
    add_meta(file, {"photos": {"count": 3}})
    with pytest.raises(RecipeError, match=r"e\.safetensors: does not say"):
        Embedder.load(stage, file, None)
