"""Every kind of damage is found, and a collection at work is not called damaged."""

import numpy as np
import pytest

from resight.errors import CollectionError
from resight.store.check import problems
from resight.store.inverted import Segment
from resight.store.store import Store


def check(folder) -> list[str]:
    with Store(folder, write=False) as store:
        return problems(store, lambda _: None)


@pytest.fixture
def folder(filled):
    filled.close()
    return filled.folder


def test_a_sound_collection_has_no_problems(folder):
    assert check(folder) == []


@pytest.mark.parametrize("log", ["features.log", "words-1.log"])
def test_a_flipped_bit_of_a_record_is_found_and_its_image_named(folder, flip, log):
    flip(folder / log, (folder / log).stat().st_size - 1)
    (found,) = check(folder)
    what, help = {
        "features.log": ("description is", "makes it again from the photo"),
        "words-1.log": ("visual words are", "assigns them again"),
    }[log]
    assert found == f"id:6 /5: its {what} damaged; `resight repair` {help}"


def test_a_cut_off_log_is_found(folder):
    data = (folder / "features.log").read_bytes()
    (folder / "features.log").write_bytes(data[: len(data) // 2])
    found = check(folder)
    assert [line.split(":")[1].split()[0] for line in found] == ["5", "6"]
    (folder / "words-1.log").unlink()
    assert [line.split(":")[1].split()[0] for line in check(folder)] == ["1", "3", "4", "5", "6"]  # the second has none


@pytest.mark.parametrize("kind", ["words", "offsets", "images", "codes"])
def test_a_flipped_bit_of_the_inverted_file_is_found(folder, flip, kind):
    segment = sorted(folder.glob("inverted-*"))[1]
    flip(segment / kind, 2)
    assert check(folder) == [f"{segment}: is damaged; `resight refit` rebuilds it"]
    (segment / kind).unlink()
    assert check(folder) == [f"{segment}: is damaged; `resight refit` rebuilds it"]


def test_a_flipped_bit_of_the_codebook_is_found(folder, flip):
    codebook = folder / "codebook-1.safetensors"
    flip(codebook, codebook.stat().st_size - 1)
    (found,) = check(folder)
    assert found.startswith(f"{codebook}: ") and found.endswith("`resight refit` learns a new one")


def test_a_damaged_page_of_the_catalogue_is_found(folder):
    catalogue = folder / "catalogue.sqlite"
    data = catalogue.read_bytes()
    at = data.index(b"digest of /3")
    page = at - at % 4096
    catalogue.write_bytes(data[:page] + b"\xff" * 4096 + data[page + 4096 :])
    try:
        assert any("catalogue.sqlite" in line for line in check(folder))
    except CollectionError as error:
        assert "catalogue.sqlite" in str(error)  # either way it is said


def test_a_check_is_not_confused_by_a_writer_that_goes_on(filled, new, made_up, codebook, monkeypatch):
    """After each page, what was read is encoded anew, merged and swept."""
    with Store(filled.folder, write=False) as reading:
        monkeypatch.setattr("resight.store.check._IMAGES", 2)

        def write(_: object) -> None:
            filled.start_generation(codebook, {"words": 32})
            assert list(filled.encode_pending(batch=4)) != []

        assert problems(reading, write) == []
        opened = Segment.open

        def late(folder) -> Segment:
            write(None)
            return opened(folder)

        monkeypatch.setattr("resight.store.check.Segment.open", late)
        assert problems(reading, lambda _: None) == []


def test_progress_counts_every_image(filled, new, made_up, codebook, monkeypatch):
    monkeypatch.setattr("resight.store.check._IMAGES", 4)
    seen = []
    assert problems(filled, seen.append) == []
    assert [(p.done, p.total) for p in seen] == [(4, 6), (6, 6)]
    assert np.diff([p.done for p in seen]).min() > 0
