"""What resight itself reads, broken in many ways: read, and right where a checksum can tell, or refused by name."""

import io
import json
import pickle
import random
import shutil
import zipfile

import numpy as np
import own_files
import pytest
import safetensors.numpy
import torch
from mutate import edited
from mutate_own import mutated
from survive import survive

from resight.artefact import load_artefact
from resight.errors import ResightError
from resight.evaluation.datasets.groundtruth import read_gnd
from resight.images import Image, read_image
from resight.networks.weights import read_checkpoint
from resight.search.collection import Collection
from resight.search.rerank.vectors import read_vectors
from resight.store.catalogue import Entry

KINDS = own_files.kinds()
EVERY = [15, pytest.param(2000, marks=pytest.mark.torture)]


@pytest.mark.parametrize("tried", EVERY)
@pytest.mark.parametrize("word", KINDS)
def test_broken_files_are_refused_by_name(tmp_path, count, word, tried):
    kind = KINDS[word]
    path = tmp_path / kind.name
    kind.sound(path)
    data, right = path.read_bytes(), repr(kind.read(path))

    def attempt(seed: int) -> bool:
        path.write_bytes(mutated(random.Random(f"{word} {seed}"), kind.name, data))
        try:
            read = kind.read(path)
        except ResightError as error:
            assert path.name in str(error)
            return False
        assert not kind.exact or repr(read) == right
        return True

    outcome = survive(range(tried), attempt)
    assert outcome.found == []
    assert outcome.sound < tried
    count(f"{tried:,} broken: {outcome.sound:,} read, {tried - outcome.sound:,} refused")


def test_planted_code_is_not_run(tmp_path):
    mark = tmp_path / "ran"
    planted = own_files.Planted(mark)
    for protocol in range(6):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps({**own_files.GND, "more": planted}, protocol))
        with pytest.raises(ResightError, match="refused"):
            read_gnd(tmp_path / "a.pkl", ("ok",))
        for zipped in (False, True):
            torch.save({"state_dict": {}, "more": planted}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
            with pytest.raises(ResightError, match=r"a\.pth: holds more"):
                read_checkpoint(tmp_path / "a.pth")
    objects = np.array([planted], object)
    for read in (read_checkpoint, read_vectors):
        np.savez(tmp_path / "a.npz", ids=objects, vectors=objects)
        with pytest.raises(ResightError, match=r"a\.npz"):
            read(tmp_path / "a.npz")
    (tmp_path / "a.npy").write_bytes(b"".join([_header(objects), pickle.dumps(objects)]))
    (tmp_path / "a.npz").write_bytes(_zipped({"ids.npy": pickle.dumps(planted)}))
    for name in ("a.npy", "a.npz"):
        with pytest.raises(ResightError, match=name):
            read_vectors(tmp_path / name)
    assert not mark.exists()
    assert pickle.loads(pickle.dumps(planted)) == 0 and mark.exists()  # it would have


def test_changed_facts_of_an_artefact_are_found(tmp_path):
    path = tmp_path / "a.safetensors"
    KINDS["artefact"].sound(path)
    with safetensors.safe_open(path, "numpy") as file:
        header = json.loads(file.metadata()["resight"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    header["meta"]["scale"] = 0.5
    safetensors.numpy.save_file(tensors, path, {"resight": json.dumps(header)})
    with pytest.raises(ResightError, match=r"a\.safetensors: its facts are not those"):
        load_artefact(path, "pca")
    del header["sum"]  # as earlier versions wrote it
    safetensors.numpy.save_file(tensors, path, {"resight": json.dumps(header)})
    assert load_artefact(path, "pca")[1]["scale"] == 0.5


@pytest.mark.parametrize("tried", [12, pytest.param(1200, marks=pytest.mark.torture)])
def test_a_broken_collection_is_right_or_refused_or_found_by_verify(tmp_path, photos, tiny, count, tried):
    """One file of it is changed at a time; what a search then says must be what it said before, or be found wrong."""
    sound, broken = tmp_path / "sound", tmp_path / "broken"
    asked = [read_image(photos / name) for name in ("coffee-1.png", "rocket-1.png")]
    with Collection.create(sound, tiny) as collection:
        collection.add([photos], workers=1)
        right = _answers(collection, asked)
    files = sorted(path.relative_to(sound) for path in sound.rglob("*") if path.is_file() and path.stat().st_size)
    shutil.copytree(sound, broken)

    def attempt(seed: int) -> bool:
        rng = random.Random(seed)
        name = files[seed % len(files)]
        data = (sound / name).read_bytes()
        cut = data[: rng.randrange(len(data))] if rng.random() < 0.2 else edited(rng, data)
        (broken / name).write_bytes(cut)
        try:
            with Collection.open(broken) as collection:
                problems = collection.verify()
                answers = _answers(collection, asked)
        except ResightError as error:
            assert str(broken) in str(error), error
            return False
        finally:
            shutil.rmtree(broken)
            shutil.copytree(sound, broken)
        assert answers == right or problems, f"{name}: a wrong answer, and `resight verify` finds nothing"
        return not problems

    outcome = survive(range(tried), attempt)
    assert outcome.found == []
    count(
        f"{tried:,} broken collections: {outcome.sound:,} sound to verify, {tried - outcome.sound:,} refused or found"
    )


def _answers(collection: Collection, asked: list[Image]) -> list[tuple[list[float], list[Entry]]]:
    found = [collection.search(image) for image in asked]
    return [
        (ranking.scores.round(5).tolist(), [collection.entry(i) for i in ranking.ids.tolist()]) for ranking in found
    ]


def _header(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, np.lib.format.header_data_from_array_1_0(array))
    return buffer.getvalue()


def _zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as box:
        for name, data in members.items():
            box.writestr(name, data)
    return buffer.getvalue()
