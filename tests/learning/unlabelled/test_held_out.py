"""What is learned of photos without labels holds for things that were not among them: altered views rank better."""

import cv2
import numpy as np
import pytest
import tomli_w

torch = pytest.importorskip("torch")

from resight.learning.datasets.augment import Augmentation  # noqa: E402
from resight.learning.datasets.photos import Photo  # noqa: E402
from resight.learning.datasets.pictures import Pictures  # noqa: E402
from resight.learning.log import read_log  # noqa: E402
from resight.learning.unlabelled.run import train_unlabelled  # noqa: E402
from resight.learning.unlabelled.settings import load_unlabelled_settings  # noqa: E402

NETWORK = "test_resnet.r160_in1k"


def thing(seed):
    """96×96 of soft colours with twelve discs and boxes."""
    rng = np.random.default_rng(seed)
    made = cv2.resize(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8), (96, 96), interpolation=cv2.INTER_CUBIC)
    for _ in range(12):
        colour = tuple(map(int, rng.integers(0, 256, 3)))
        x, y, r = (int(v) for v in (*rng.integers(0, 96, 2), rng.integers(4, 17)))
        if rng.random() < 0.5:
            cv2.circle(made, (x, y), r, colour, -1)
        else:
            cv2.rectangle(made, (x, y), (x + r, y + 2 * r), colour, -1)
    return made


@pytest.fixture(scope="module")
def place(tmp_path_factory, save, weights_of):
    """90 photos of 45 things; a labelled set of three altered views of each of 30 others; and a recipe."""
    folder = tmp_path_factory.mktemp("things")
    plain = [Photo(save(folder / "plain" / f"{n:03}.png", thing(n)), 0) for n in range(75)]
    views = Pictures(plain, side=96, augment=Augmentation(), seed=9)
    for n in range(75):
        for v in range(2 if n < 45 else 3):
            name = f"all/{37 * (2 * n + v) % 90:02}.png" if n < 45 else f"set/{n}/{v}.png"
            save(folder / name, views.picture(n, v).permute(1, 2, 0).numpy())
    stage = {"network": NETWORK, "weights": str(weights_of(NETWORK)), "max_side": 64, "dimensions": 32}
    table = {"name": "tiny", "title": "Tiny", "source": "made up", "filter": "global", "global": stage}
    (folder / "tiny.toml").write_text(tomli_w.dumps(table))
    return folder


CHANGES = {
    "autoencoder": ["unlabelled.side=16", "unlabelled.channels=64", "epochs=24"],
    "gan": ["unlabelled.graph=2", "unlabelled.k=20", "unlabelled.lead=20", "epochs=12"],
    "sift": ["unlabelled.positives=2", "unlabelled.near=5", "unlabelled.k=20", "unlabelled.fidelity=0.1", "epochs=6"],
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", CHANGES)
def test_altered_views_of_other_things_rank_better(kind, place, tmp_path):
    settings = load_unlabelled_settings(
        None,
        [*CHANGES[kind], "validate_every=6"],
        mining=kind,
        side=64,
        chunk=32,
        rate=1e-3,
        accelerator="cpu",
        readers=1,
        views=4,
        batch=16,
        learns={"layers": "layer4", "projection": 32, "head_rate": 1.0},
    )
    how = {"settings": settings, "validate": place / "set", "workers": 1}
    train_unlabelled(place / "tiny.toml", [place / "all"], into=tmp_path / "r", **how)
    rows = read_log(tmp_path / "r" / "training" / "unlabelled" / "log.csv")
    figures = [float(row["mAP"]) for row in rows if row["part"] == "validation"]
    losses = [float(row["loss"]) for row in rows if row["part"] == "train"]
    print(kind, figures, losses[:3], losses[-3:])
    assert max(figures[1:]) > figures[0] + 0.05
    if kind == "autoencoder":
        assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[3:6])
