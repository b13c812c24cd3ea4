"""Class activation maps and their region vectors against loops and small worked maps."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from resight.pooling.cam import CamCrow, cam_crow, cam_crow_regions, class_activation_maps, top_classes  # noqa: E402


@pytest.fixture
def maps():
    return np.random.default_rng(0).standard_normal((2, 3, 4, 5)).clip(0)


@pytest.fixture
def classifier():
    return np.random.default_rng(1).standard_normal((6, 3))


def naive_cam(x, row):
    cam = np.zeros(x.shape[1:])
    for d, weight in enumerate(row):
        cam += weight * x[d]
    cam[cam < 0] = 0
    return cam / cam.max() if cam.max() > 0 else cam


def naive_region(x, cam):
    firing = [np.count_nonzero(channel) / channel.size for channel in x]
    return np.array([math.log(sum(firing) / q) * (cam * channel).sum() for q, channel in zip(firing, x, strict=True)])


def test_maps_equal_the_loop(maps, classifier):
    expected = [[naive_cam(x, classifier[t]) for t in (5, 0)] for x in maps]
    cams = class_activation_maps(torch.from_numpy(maps), torch.from_numpy(classifier), torch.tensor([5, 0]))
    np.testing.assert_allclose(cams, expected, atol=1e-12)
    assert cams.min() == 0 and cams.max() == 1


def test_each_image_has_its_own_classes_online(maps, classifier):
    classes = torch.tensor([[1, 2], [5, 3]])
    cams = class_activation_maps(torch.from_numpy(maps), torch.from_numpy(classifier), classes)
    expected = [[naive_cam(x, classifier[t]) for t in own] for x, own in zip(maps, classes.tolist(), strict=True)]
    np.testing.assert_allclose(cams, expected, atol=1e-12)


def test_map_below_zero_everywhere_is_zero():
    cams = class_activation_maps(torch.ones(1, 1, 2, 2), torch.tensor([[-1.0], [2.0]]), torch.tensor([0, 1]))
    assert cams[0, 0].eq(0).all() and cams[0, 1].eq(1).all()


def test_regions_and_their_sum_equal_the_loop(maps, classifier):
    chosen = [5, 0, 1]
    regions = np.array([[naive_region(x, naive_cam(x, classifier[t])) for t in chosen] for x in maps])
    x, weights, classes = torch.from_numpy(maps), torch.from_numpy(classifier), torch.tensor(chosen)
    np.testing.assert_allclose(cam_crow_regions(x, weights, classes), regions, atol=1e-12)
    norms = np.linalg.norm(regions, axis=2, keepdims=True)
    np.testing.assert_allclose(cam_crow(x, weights, classes), (regions / norms).sum(axis=1), atol=1e-12)
    torch.testing.assert_close(CamCrow(weights, chosen)(x), cam_crow(x, weights, classes))


def test_class_that_is_nowhere_adds_nothing(maps, classifier):
    classifier[2] = -1.0
    x, weights = torch.from_numpy(maps), torch.from_numpy(classifier)
    both, one = (cam_crow(x, weights, torch.tensor(classes)) for classes in ([5, 2], [5]))
    torch.testing.assert_close(both, one)


def test_classifier_of_another_layer(maps, classifier):
    source = np.random.default_rng(2).random((2, 3, 4, 5))
    cam = naive_cam(source[0], classifier[1])
    found = cam_crow_regions(*map(torch.from_numpy, (maps, classifier)), torch.tensor([1]), torch.from_numpy(source))
    np.testing.assert_allclose(found[0, 0], naive_region(maps[0], cam))


def test_top_classes_break_ties_by_class():
    logits = torch.tensor([[1.0, 5.0, 5.0, 2.0], [3.0, 3.0, 3.0, 3.0]])
    assert top_classes(logits, 3).tolist() == [[1, 2, 3], [0, 1, 2]]
    assert top_classes(torch.zeros(1, 1000), 1000)[0].tolist() == list(range(1000))  # short sorts are always stable


def test_module_saves_its_classifier_and_classes(classifier):
    saved = CamCrow(torch.from_numpy(classifier), [1, 2]).state_dict()
    assert saved["classes"].tolist() == [1, 2]
    np.testing.assert_array_equal(saved["classifier"], classifier)


def test_bad_input():
    x, classifier = torch.ones(2, 3, 2, 2), torch.ones(6, 3)
    with pytest.raises(ValueError, match="classifier must be N×3"):
        class_activation_maps(x, torch.ones(6, 4), torch.tensor([0]))
    with pytest.raises(ValueError, match="from 0 to 5"):
        class_activation_maps(x, classifier, torch.tensor([6]))
    with pytest.raises(ValueError, match="from 0 to 5"):
        class_activation_maps(x, classifier, torch.tensor([-1]))
    with pytest.raises(ValueError, match=r"\(T,\) or 2×T"):
        class_activation_maps(x, classifier, torch.tensor([[0]]))
    with pytest.raises(ValueError, match="do not fit"):
        cam_crow_regions(x, classifier, torch.tensor([0]), torch.ones(2, 3, 4, 4))
    with pytest.raises(ValueError, match="top 7"):
        top_classes(torch.ones(1, 6), 7)
