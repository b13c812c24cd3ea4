"""Pictures of photos: the right part at the right size, decided by the seed alone, and unreadable files found first."""

import threading

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from resight.errors import GroundTruthError, ResightError
from resight.images.read import read_image
from resight.learning.datasets.augment import NONE, Augmentation
from resight.learning.datasets.photos import Photo, TrainingSet
from resight.learning.datasets.pictures import Pictures, check_readable, numbered

STRONG = Augmentation(scale=(0.3, 0.9), flip=0.5, rotation=10, blur=0.3, erase=0.3)


@pytest.fixture
def photos(pictures, save, tmp_path):
    """Two photos of each of four things, of different sizes."""
    found = []
    for label, (name, pixels) in enumerate(list(pictures.items())[:4]):
        for number, part in enumerate((pixels, pixels[20:, 30:])):
            found.append(Photo(save(tmp_path / name / f"{number}.png", np.ascontiguousarray(part)), label))
    return found


def taken(batches):
    return [[picture.clone() for picture in batch] for batch in batches]


def same(left, right):
    return [len(b) for b in left] == [len(b) for b in right] and all(
        torch.equal(a, b) for one, other in zip(left, right, strict=True) for a, b in zip(one, other, strict=True)
    )


def test_a_square_is_the_whole_picture_bent(photos, pictures):
    made = Pictures(photos, side=64).picture(0, 0)
    assert (made.shape, made.dtype) == ((3, 64, 64), torch.uint8)
    assert made.is_contiguous()
    first = next(iter(pictures.values()))
    expected = cv2.resize(first, (64, 64), interpolation=cv2.INTER_AREA).transpose(2, 0, 1)
    assert np.abs(made.numpy().astype(int) - expected).mean() < 4


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (500, 20), (31, 30), (64, 64), (640, 641)])
@pytest.mark.parametrize("multiple", [1, 16])
def test_its_own_aspect_is_kept_to_the_nearest_multiple(tmp_path, size, multiple):
    path = tmp_path / "a.png"
    Image.new("RGB", size, (200, 10, 60)).save(path)
    made = Pictures([Photo(path, 0)], side=96, multiple=multiple, fit="aspect").picture(0, 0)
    height, width = made.shape[1:]
    assert max(height, width) == 96
    assert height % multiple == width % multiple == 0
    for side, original in ((height, size[1]), (width, size[0])):
        assert abs(side - 96 * original / max(size)) <= max(multiple / 2, multiple - 96 * original / max(size))
    assert (made == torch.tensor([200, 10, 60], dtype=torch.uint8)[:, None, None]).all()


def test_the_box_is_the_picture(tmp_path):
    pixels = np.full((80, 120, 3), 20, np.uint8)
    pixels[30:60, 40:100] = (250, 120, 0)
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    made = Pictures([Photo(path, 0, (40, 30, 100, 60))], side=32, fit="aspect").picture(0, 0)
    assert made.shape == (3, 16, 32)
    assert (made == torch.tensor([250, 120, 0], dtype=torch.uint8)[:, None, None]).all()


def test_photos_are_upright_before_they_are_cut(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "a.jpg"
    Image.new("RGB", (120, 60)).save(path, exif=exif)
    assert Pictures([Photo(path, 0)], side=32, fit="aspect").picture(0, 0).shape == (3, 32, 16)


def test_a_crop_comes_from_where_it_was_drawn(tmp_path):
    """Of a picture whose colours are its coordinates, a crop shows between which it lies."""
    rows, columns = np.mgrid[:256, :256]
    path = tmp_path / "a.png"
    Image.fromarray(np.stack([columns, rows, np.zeros_like(rows)], axis=2).astype(np.uint8)).save(path)
    stage = Augmentation(scale=(0.2, 0.4), aspect=(1, 1), brightness=0, contrast=0, saturation=0)
    source = Pictures([Photo(path, 0)], side=64, augment=stage, seed=1)
    corners = set()
    for epoch in range(10):
        made = source.picture(0, epoch).double()
        across = made[0, :, -4].mean() - made[0, :, 3].mean()
        down = made[1, -4].mean() - made[1, 3].mean()
        assert across == pytest.approx(float(down), abs=3)
        assert 0.2 * 0.9 < float(across * 64 / 57 / 256) ** 2 < 0.4 * 1.1
        corners.add((round(float(made[0, :, 0].mean())), round(float(made[1, 0].mean()))))
    assert len(corners) > 5


def test_a_picture_follows_from_seed_epoch_place_and_copy_alone(photos):
    def made(place, epoch, copy=0, seed=1, **more):
        return Pictures(photos, side=48, augment=STRONG, seed=seed, **more).picture(place, epoch, copy)

    state = torch.random.get_rng_state()
    first = made(3, 2)
    assert torch.equal(torch.random.get_rng_state(), state)
    used = Pictures(photos, side=48, augment=STRONG, seed=1)
    for place in (0, 3, 5, 3):
        used.picture(place, 0)
    assert torch.equal(used.picture(3, 2), first)
    assert torch.equal(made(3, 2, budget=0), first)
    for other in (made(3, 3), made(3, 2, copy=1), made(3, 2, seed=2), made(2, 2)):
        assert not torch.equal(other, first)


def test_unchanged_pictures_are_the_same_in_all_epochs(photos):
    source = Pictures(photos, side=48, augment=NONE)
    assert torch.equal(source.picture(1, 0), source.picture(1, 7))


@pytest.mark.parametrize("fit", ["square", "aspect"])
def test_batches_do_not_depend_on_workers(photos, fit):
    places = [np.array(batch) for batch in ([0, 3, 5], [7], [], [1, 1, 2, 6], [4, 0])]

    def run(workers, budget=1 << 30):
        source = Pictures(photos, side=48, multiple=8, fit=fit, augment=STRONG, seed=3, budget=budget)
        return taken(source.batches(places, 4, workers))

    alone = run(1)
    assert [len(batch) for batch in alone] == [3, 1, 0, 4, 2]
    assert same(run(4), alone)
    assert same(run(3, budget=0), alone)
    one = Pictures(photos, side=48, multiple=8, fit=fit, augment=STRONG, seed=3)
    assert torch.equal(alone[3][0], one.picture(1, 4))
    assert torch.equal(alone[3][1], one.picture(1, 4, 1))  # a photo twice in a batch: two pictures
    assert not torch.equal(alone[3][0], alone[3][1])
    # A batch in chunks is the batch: its photos are numbered before it is cut.
    copies = numbered(places[3])
    assert copies == [(1, 0), (1, 1), (2, 0), (6, 0)]
    first, rest = one.made([copies[:1], copies[1:]], 4, workers=2)
    assert same([first + rest], [alone[3]])


def test_batches_are_made_only_a_little_ahead(photos):
    asked = []

    def places():
        for number in range(20):
            asked.append(number)
            yield np.array([number % 8])

    before = threading.active_count()
    coming = Pictures(photos, side=16).batches(places(), 0, workers=2)
    next(coming)
    assert len(asked) <= 2
    next(coming)
    assert len(asked) <= 3
    coming.close()
    assert threading.active_count() == before


def test_what_is_kept_is_bounded_and_read_once(photos):
    budget = 2 * 48 * 48 * 3
    source = Pictures(photos, side=48, budget=budget)
    sizes = [read_image(photo.path, max_side=48).pixels.nbytes for photo in photos]
    first = [source.picture(place, 0) for place in range(len(photos))]
    for photo in photos:
        photo.path.write_bytes(b"gone")
    readable = []
    for place, before in enumerate(first):
        try:
            assert torch.equal(source.picture(place, 1), before)
            readable.append(place)
        except ResightError:
            pass
    assert 0 < len(readable) < len(photos)
    assert sum(sizes[place] for place in readable) <= budget


def test_a_photo_that_breaks_later_names_its_file(photos):
    photos[2].path.write_bytes(photos[2].path.read_bytes()[:500])
    source = Pictures(photos, side=16)
    coming = source.batches([np.array([0, 1]), np.array([2, 3])], 0, workers=2)
    assert len(next(coming)) == 2
    with pytest.raises(ResightError, match=f"{photos[2].path}: damaged or truncated"):
        next(coming)


def whole_set(photos, tmp_path):
    return TrainingSet("set", tuple(photos), ("a", "b", "c", "d"), tmp_path / "gt.json", selection="some")


def test_what_cannot_be_read_is_listed_before_training(photos, tmp_path):
    photos[6] = Photo(photos[6].path, 3, (0, 0, 9999, 50))
    photos[4].path.unlink()
    photos[0].path.write_bytes(b"text")
    photos[1].path.write_bytes(photos[1].path.read_bytes()[:-4000])
    given = whole_set(photos, tmp_path)
    with pytest.raises(GroundTruthError) as caught:
        check_readable(given, workers=2)
    first, *listed = str(caught.value).splitlines()
    assert first.startswith(f"{tmp_path / 'gt.json'}: 4 of 8 photos cannot be read")
    assert [line.split(": ")[0] for line in listed] == [str(photos[place].path) for place in (0, 1, 4, 6)]
    assert "leaves the image" in listed[3]


def test_unreadable_photos_can_be_skipped_with_classes_that_lose_their_pairs(photos, tmp_path):
    photos[2].path.write_bytes(b"")
    photos[6] = Photo(photos[6].path, 0)
    photos[7] = Photo(photos[7].path, 3)
    photos.append(Photo(photos[5].path, 3, (0, 0, 20, 20)))
    photos[6].path.write_bytes(b"")
    kept = check_readable(whole_set(photos, tmp_path), workers=2, skip=True)
    assert kept.classes == ("a", "c", "d")
    assert [(photo.path, kept.classes[photo.label]) for photo in kept.photos] == [
        (photos[place].path, name) for place, name in ((0, "a"), (1, "a"), (4, "c"), (5, "c"), (7, "d"), (8, "d"))
    ]
    assert kept.selection == "some; without 2 unreadable photos and the 1 objects left with fewer than two"


def test_a_readable_set_is_given_back(photos, tmp_path):
    given = whole_set(photos, tmp_path)
    assert check_readable(given) is given


@pytest.mark.parametrize(("side", "multiple", "seed"), [(100, 16, 0), (0, 1, 0), (8, 16, 0), (32, 0, 0), (32, 16, -1)])
def test_sizes_that_do_not_fit_are_refused(side, multiple, seed):
    with pytest.raises(ValueError, match="side must be a multiple"):
        Pictures([], side=side, multiple=multiple, seed=seed)
