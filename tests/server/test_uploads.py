"""Kept queries: which go when there is no room, what makes two the same, and that an id names nothing else."""

import io
import json
import os

import numpy as np
import PIL.Image
import pytest

from resight.images.apart import Apart
from resight.images.limits import Limits
from resight.server.problems import Refused
from resight.server.uploads import Uploads


def noise(seed: int, height: int = 100, width: int = 120) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def apart():
    processes = Apart(1)
    yield processes
    processes.close()


def test_what_a_search_has_yet_to_read_is_kept_however_old(tmp_path, apart):
    uploads = Uploads(tmp_path, Limits(), 100_000, apart)  # room for two of 36 kB
    first, _ = uploads.keep(png(noise(0)))
    uploads.in_use = lambda: {first}
    others = [uploads.keep(png(noise(seed)))[0] for seed in range(1, 5)]
    assert {path.stem for path in tmp_path.glob("q*.png")} == {first, others[-1]}
    np.testing.assert_array_equal(Uploads(tmp_path, Limits(), 100_000, apart).image(first).pixels, noise(0))


def test_reading_a_query_from_the_disk_is_using_it(tmp_path, apart):
    uploads = Uploads(tmp_path, Limits(), 100_000, apart)
    one, two = (uploads.keep(png(noise(seed)))[0] for seed in range(2))
    for long_ago, name in enumerate((one, two)):
        os.utime(tmp_path / f"{name}.json", (long_ago, long_ago))
    Uploads(tmp_path, Limits(), 100_000, apart).image(one)
    three, _ = uploads.keep(png(noise(2)))
    assert {path.stem for path in tmp_path.glob("q*.png")} == {one, three}


@pytest.mark.parametrize("use", [lambda u, name: u.image(name), lambda u, name: u.keep(png(noise(0)))])
def test_so_is_reading_it_from_memory_and_sending_it_again(tmp_path, use, apart):
    uploads = Uploads(tmp_path, Limits(), 100_000, apart)
    one, two = (uploads.keep(png(noise(seed)))[0] for seed in range(2))
    for long_ago, name in enumerate((one, two)):
        os.utime(tmp_path / f"{name}.json", (long_ago, long_ago))
    use(uploads, one)
    three, _ = uploads.keep(png(noise(2)))
    assert {path.stem for path in tmp_path.glob("q*.png")} == {one, three}


def test_the_same_bytes_in_another_shape_are_another_picture(tmp_path, apart):
    uploads, tall = Uploads(tmp_path, Limits(), 10**9, apart), noise(0, 60, 40)
    wide = tall.reshape(40, 60, 3)
    ids = [uploads.keep(png(pixels))[0] for pixels in (tall, wide, tall)]
    assert ids[0] == ids[2] != ids[1]
    assert uploads.image(ids[0]).size == (40, 60) and uploads.image(ids[1]).size == (60, 40)


def test_a_name_that_is_no_id_leads_to_no_other_file(tmp_path, apart):
    PIL.Image.fromarray(noise(0)).save(tmp_path / "outside.png")
    (tmp_path / "outside.json").write_text(json.dumps({"size": [120, 100]}))
    uploads = Uploads(tmp_path / "queries", Limits(), 10**9, apart)
    for name in ("../outside", str(tmp_path / "outside")):
        with pytest.raises(Refused, match="no such query"):
            uploads.image(name)


def test_many_tiny_pictures_are_as_bounded_as_large_ones(tmp_path, apart):
    uploads = Uploads(tmp_path, Limits(), 200_000, apart)  # of two files and 70 bytes each
    for number in range(60):
        uploads.keep(png(np.full((1, 1, 3), number, np.uint8)))
        assert sum(-(-path.stat().st_size // 4096) * 4096 for path in tmp_path.glob("q*")) <= 200_000


def test_services_that_share_a_folder_make_room_in_it_together(tmp_path, apart):
    both = [Uploads(tmp_path, Limits(), 100_000, apart) for _ in range(2)]
    names = [both[seed % 2].keep(png(noise(seed)))[0] for seed in range(12)]
    assert 1 <= len(list(tmp_path.glob("q*.png"))) <= 5  # two each, and what one has not seen yet
    assert both[0].image(names[-1]).size == (120, 100)


def in_the_middle(data: bytes) -> bytes:
    """What Pillow calls a SyntaxError, once it decodes."""
    first, *others = data.split(b"IDAT")
    return first + b"IDAT" + b"I\0\1T".join(others)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:50], lambda data: b"", lambda data: b"no picture", lambda data: b"[1]", in_the_middle]
)
@pytest.mark.parametrize("kind", ["png", "json"])
def test_one_that_is_no_longer_whole_is_no_longer_there(tmp_path, apart, kind, damage):
    name, _ = Uploads(tmp_path, Limits(), 10**9, apart).keep(png(noise(0)))
    path = tmp_path / f"{name}.{kind}"
    path.write_bytes(damage(path.read_bytes())[: 3 if kind == "json" else None])
    with pytest.raises(Refused, match="no such query"):
        Uploads(tmp_path, Limits(), 10**9, apart).image(name)


@pytest.mark.parametrize("suffix", [".png", ".json"])
def test_what_was_damaged_on_the_disk_is_kept_anew_when_it_is_sent_again(tmp_path, apart, suffix):
    name, _ = Uploads(tmp_path, Limits(), 100_000, apart).keep(png(noise(0)))
    file = tmp_path / f"{name}{suffix}"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    uploads = Uploads(tmp_path, Limits(), 100_000, apart)
    with pytest.raises(Refused, match="give its picture again"):
        uploads.image(name)
    assert uploads.keep(png(noise(0)))[0] == name
    np.testing.assert_array_equal(Uploads(tmp_path, Limits(), 100_000, apart).image(name).pixels, noise(0))
