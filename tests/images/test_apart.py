"""Reading in a process of its own: what it gives is the same, and what would end this process ends that one."""

import multiprocessing
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL.Image
import pytest

from resight.errors import ImageError, QueryError
from resight.geometry.boxes import check_box
from resight.images.apart import Apart, decode_apart, listing_apart, read_at_once, read_image_apart, run_apart
from resight.images.limits import Limits
from resight.images.read import read_image


@pytest.fixture(scope="module")
def apart():
    processes = Apart(1)
    yield processes
    processes.close()


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)
    PIL.Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_what_is_read_apart_is_what_is_read(photo):
    wanted = read_image(photo, max_side=20)
    for image in (read_image_apart(photo, max_side=20), decode_apart(photo.read_bytes(), str(photo), max_side=20)):
        np.testing.assert_array_equal(image.pixels, wanted.pixels)
        assert (image.size, image.origin) == (wanted.size, wanted.origin)
    assert read_image_apart(wanted) is wanted


def test_what_is_wrong_is_said_as_it_is_here(photo, tmp_path):
    with pytest.raises(ImageError, match="does not exist"):
        read_image_apart(tmp_path / "absent.png")
    with pytest.raises(ImageError, match="more than the limit of 100"):
        read_image_apart(photo, limits=Limits(pixels=100))
    with pytest.raises(QueryError, match="is empty"):
        run_apart(check_box, (1, 1, 1, 1), (5, 5), "a picture")
    os.mkfifo(tmp_path / "pipe.zip")
    with pytest.raises(ImageError, match="not a regular file"):
        listing_apart(str(tmp_path / "pipe.zip"))


def test_as_many_files_are_read_at_once_as_a_program_asks_for(tmp_path, monkeypatch):
    monkeypatch.setattr("resight.images.apart._at_once", 1)
    read_at_once(2)
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor() as threads:  # each waits for the other at the pipe
        ends = [threads.submit(run_apart, os.open, str(tmp_path / "pipe"), way) for way in (os.O_RDONLY, os.O_WRONLY)]
        assert all(end.result() > 2 for end in ends)


def test_relative_paths_are_those_of_the_moment(photo, tmp_path, monkeypatch):
    read_image_apart(photo)
    (tmp_path / "deeper").mkdir()
    photo.rename(tmp_path / "deeper" / "b.png")
    monkeypatch.chdir(tmp_path / "deeper")
    image = read_image_apart("b.png")
    assert image.size == (40, 30) and image.origin == "b.png"


def test_a_daemonic_process_reads_by_itself(photo):
    context = multiprocessing.get_context("fork")
    with context.Pool(1) as pool:
        assert pool.apply(read_image_apart, (photo,)).size == (40, 30)


_IN_PROCESSES = """
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from resight.images.apart import read_image_apart

if __name__ == "__main__":
    with ProcessPoolExecutor(1, get_context("spawn")) as processes:
        print(processes.submit(read_image_apart, sys.argv[1]).result().size)
"""


def test_a_process_that_is_no_daemon_ends_with_its_work(photo, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(_IN_PROCESSES)
    done = subprocess.run([sys.executable, str(script), str(photo)], capture_output=True, text=True, timeout=120)
    assert done.stdout == "(40, 30)\n", done.stderr


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda apart: apart.run(9, os.abort), "killed the process that read it"),
        (lambda apart: apart.run(0.2, time.sleep, 60), "took longer than 0 s"),
        (lambda apart: apart.run(9, divmod, 1, 0), "unforeseen way.*ZeroDivisionError"),
        (lambda apart: apart.run(9, bytearray, 5 * 2**30), "needs more than 4 GiB of memory"),
    ],
)
def test_harm_is_named_and_the_next_file_is_read(apart, photo, harm, said):
    with pytest.raises(ImageError, match=said):
        harm(apart)
    assert apart.decode(photo.read_bytes(), "a").size == (40, 30)
