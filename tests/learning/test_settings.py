"""Settings come from TOML and the command line, and say what is wrong with them."""

import pickle

import pytest

from resight.errors import RecipeError
from resight.learning.losses.stages import ArcFaceStage, TripletStage
from resight.learning.settings import Training, load_settings


def test_a_file_is_changed_by_keys_and_by_the_command_line(tmp_path):
    file = tmp_path / "s.toml"
    file.write_text('epochs = 7\nrate = 1e-4\n[loss]\nkind = "triplet"\nmargin = 0.3\n[sampling]\neach = 5\n')
    chosen = load_settings(file)
    assert chosen.epochs == 7 and chosen.loss == TripletStage(kind="triplet", margin=0.3) and chosen.sampling.each == 5
    chosen = load_settings(file, ["loss.margin=0.7", "augment.scale = [0.2, 1]", "fit=aspect", "rate=1"], epochs=2)
    assert chosen.loss.margin == 0.7 and chosen.augment.scale == (0.2, 1.0) and chosen.fit == "aspect"
    assert chosen.epochs == 2 and chosen.rate == 1.0
    assert load_settings(file, loss={"kind": "arcface"}).loss == ArcFaceStage(kind="arcface")
    assert load_settings(None, ["loss.margin=0.4"]).loss.margin == 0.4  # of the default
    assert load_settings() == Training()


def test_a_batch_is_classes_times_each(tmp_path):
    assert load_settings(batch=20).sampling.classes == 5 and load_settings(batch=20).batch == 20
    file = tmp_path / "s.toml"
    file.write_text("batch = 24\n[sampling]\neach = 3\n")
    assert load_settings(file).sampling.classes == 8
    file.write_text("[sampling]\nclasses = 4\neach = 3\n")
    assert load_settings(file, batch=9).sampling.classes == 3  # the command line wins
    for given, match in ((21, "multiple of sampling.each = 4"), (4, "two objects"), ("x", "a number")):
        with pytest.raises(RecipeError, match=match):
            load_settings(batch=given)
    file.write_text("batch = 24\n[sampling]\nclasses = 5\n")
    with pytest.raises(RecipeError, match="contradict"):
        load_settings(file)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (["epochs"], "'epochs' is no setting: write KEY=VALUE"),
        (["epocs=3"], "settings: epocs: Extra inputs"),
        (["loss.kind=tripplet"], "loss: Input tag 'tripplet'"),
        (["loss.kind=siamese", "loss.margin=-1"], "loss.siamese.margin: Input should be greater than 0"),
        (["rate.x=1", "rate=2", "rate.y=1"], "rate.y: rate is no table"),
        (["views=2", "fit=aspect"], "views are kept of pictures of one size"),
        (["miner.kind=pool", "memory.size=9"], "memory goes with tuples chosen in the batch"),
    ],
)
def test_what_is_wrong_is_named(changes, match):
    with pytest.raises(RecipeError, match=match):
        load_settings(None, changes)


def test_files_that_are_none_are_named(tmp_path):
    with pytest.raises(RecipeError, match="no settings 'nothing'; there are "):
        load_settings("nothing")
    with pytest.raises(RecipeError, match=r"no\.toml: cannot be read"):
        load_settings(tmp_path / "no.toml")
    (tmp_path / "bad.toml").write_text("epochs = ")
    with pytest.raises(RecipeError, match=r"bad\.toml: not valid TOML"):
        load_settings(tmp_path / "bad.toml")


def test_the_identity_is_of_what_decides():
    plain = load_settings()
    assert plain.identity == load_settings(devices=1, accelerator="cpu", changes=["readers=7", "budget=1"]).identity
    other = load_settings(None, ["loss.margin=0.4"]).identity
    assert {key for key in other if other[key] != plain.identity[key]} == {"loss.margin"}


def test_a_process_of_its_own_gets_them_as_they_are():
    given = load_settings(None, ["loss.kind=arcface", "epochs=3"])
    again = pickle.loads(pickle.dumps(given))
    assert again == given and again.model_fields_set == given.model_fields_set == {"loss", "epochs"}
