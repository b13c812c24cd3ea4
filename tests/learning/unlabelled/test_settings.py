"""Settings of a training without labels: where they come from, and what does not go together."""

import pytest

pytest.importorskip("pytorch_metric_learning")

from resight.errors import RecipeError
from resight.learning.settings import load_settings
from resight.learning.unlabelled.settings import load_unlabelled_settings
from resight.learning.unlabelled.stages import KINDS, KmeansStage, MomStage, VerifiedStage

NEEDED = {"kmeans": ["unlabelled.clusters=4"], "colmap": ["unlabelled.model=m"]}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_its_defaults(kind):
    settings = load_unlabelled_settings(None, NEEDED.get(kind, []), mining=kind)
    assert settings.unlabelled.kind == kind and settings.identity["unlabelled.kind"] == kind


def test_a_file_has_a_table_and_changes_come_after_it(tmp_path):
    file = tmp_path / "s.toml"
    file.write_text(
        'epochs = 3\nbatch = 8\n[loss]\nkind = "triplet"\n[unlabelled]\nkind = "mom"\nk = 20\nalpha = 0.9\n'
    )
    settings = load_unlabelled_settings(file, ["unlabelled.k=30", "loss.margin=0.3"], epochs=5)
    assert settings.unlabelled == MomStage(kind="mom", k=30, alpha=0.9)
    assert settings.epochs == 5 and settings.loss.kind == "triplet" and settings.loss.margin == 0.3
    assert settings.batch == 8
    other = load_unlabelled_settings(file, ["unlabelled.clusters=7"], mining="kmeans")
    assert other.unlabelled == KmeansStage(kind="kmeans", clusters=7)  # nothing of another method's table
    assert load_unlabelled_settings(file, mining="mom").unlabelled.k == 20
    assert load_unlabelled_settings().unlabelled == VerifiedStage(kind="verified")
    ready = load_unlabelled_settings("arcface", ["whitening=pca", "unlabelled.clusters=9"], mining="kmeans")
    assert ready.loss.kind == "arcface" and ready.unlabelled.clusters == 9
    assert load_unlabelled_settings("gan-retrieval").unlabelled.kind == "gan"
    with pytest.raises(RecipeError, match="gss: has a table unlabelled, of photos without labels"):
        load_settings("gss")
    with pytest.raises(RecipeError, match='triplet: settings: whitening = "learned" is of labelled pairs'):
        load_unlabelled_settings("triplet")


@pytest.mark.parametrize(
    ("changes", "given", "message"),
    [
        (["unlabelled.kind=magic"], {}, "kind must be one of mom, diffusion"),
        (["unlabelled.neighbours=3"], {}, r"unlabelled\.verified\.neighbours: Extra inputs"),
        ([], {"mining": "kmeans"}, r"unlabelled\.kmeans\.clusters: Field required"),
        ([], {"loss": {"kind": "smooth-ap"}}, "verified gives tuples: loss is one of siamese"),
        (["miner.kind=semi-hard"], {}, "verified chooses what is compared"),
        (["memory.size=100"], {}, "verified chooses what is compared"),
        ([], {"mining": "knn-mean", "loss": {"kind": "triplet"}}, "knn-mean is its own loss"),
        ([], {"mining": "dbscan", "loss": {"kind": "arcface"}}, "arcface is of a fixed one"),
        (["whitening=learned"], {}, "of labelled pairs"),
        (["scheme=delf"], {}, "scheme = delf learns from labels"),
        (["miner.kind=pool"], {"mining": "dbscan"}, "pool is of labels"),
        (["unlabelled.positives=60"], {"mining": "rdp"}, "positives must be at most near"),
        (["unlabelled.positives=60"], {"mining": "sift"}, "positives must be at most near"),
        ([], {"mining": "sift", "loss": {"kind": "quartet"}}, "sift holds on to the network as it was"),
        ([], {"mining": "gan", "loss": {"kind": "triplet"}}, "gan is its own loss"),
        (["unlabelled.form=pairs"], {"mining": "gan"}, 'form = "triplets"'),
        (["memory.size=100"], {"mining": "autoencoder"}, "leave out miner and memory"),
        ([], {"mining": "autoencoder", "loss": {"kind": "triplet"}}, "autoencoder is its own loss"),
        (["unlabelled.side=33"], {"mining": "autoencoder"}, "Input should be 8, 16"),
        ([], {"mining": "gss", "side": 64}, "gss trains no network: leave out side"),
        (["rate=-1"], {}, "rate"),
    ],
)
def test_what_does_not_go_together_is_said(changes, given, message):
    with pytest.raises(RecipeError, match=message):
        load_unlabelled_settings(None, changes, **given)


def test_files_that_do_not_do(tmp_path):
    with pytest.raises(RecipeError, match="cannot be read"):
        load_unlabelled_settings(tmp_path / "nothing.toml")
    (tmp_path / "bad.toml").write_text("a = = 1")
    with pytest.raises(RecipeError, match="not valid TOML"):
        load_unlabelled_settings(tmp_path / "bad.toml")
    (tmp_path / "flat.toml").write_text('unlabelled = "mom"')
    with pytest.raises(RecipeError, match="must be a table"):
        load_unlabelled_settings(tmp_path / "flat.toml")
