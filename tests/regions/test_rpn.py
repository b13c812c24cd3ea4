"""The region proposal network against torchvision's own forward pass, with random weights in a real checkpoint."""

import json
import re

import numpy as np
import pytest

torch = pytest.importorskip("torch")
save_file = pytest.importorskip("safetensors.torch").save_file

from resight.errors import RecipeError  # noqa: E402
from resight.networks.torchvision_ops import ensure_torchvision  # noqa: E402
from resight.networks.weights import set_batchnorm_eps  # noqa: E402
from resight.regions.rpn import Rpn  # noqa: E402

SMALL = {"min_size": 96, "max_size": 160}


@pytest.fixture(scope="module")
def model():
    """A Faster R-CNN for three classes whose random RPN and batch normalisations have opinions."""
    ensure_torchvision()
    from torchvision.models.detection import fasterrcnn_resnet50_fpn

    torch.manual_seed(0)
    network = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3, **SMALL)
    for parameter in network.rpn.head.parameters():
        torch.nn.init.normal_(parameter, std=0.005)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    set_batchnorm_eps(network, 0.0)  # as torchvision does for its published weights
    return network.eval()


@pytest.fixture(scope="module")
def weights(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("rpn") / "detector.safetensors"
    save_file({name: tensor for name, tensor in model.state_dict().items() if "roi_heads" not in name}, path)
    return path


@pytest.fixture(scope="module")
def rpn(weights):
    return Rpn(weights, **SMALL)


@pytest.fixture(scope="module")
def image(pictures):
    return pictures["coffee"]


def by_hand(model, image):
    """torchvision's own composition, with the scores caught on their way."""
    caught = []
    filter_proposals = model.rpn.filter_proposals
    model.rpn.filter_proposals = lambda *args: caught.append(filter_proposals(*args)) or caught[-1]
    try:
        with torch.no_grad():
            images, _ = model.transform([torch.from_numpy(image).permute(2, 0, 1) / 255])
            boxes = model.rpn(images, model.backbone(images.tensors))[0]
    finally:
        del model.rpn.filter_proposals
    found = [{"boxes": boxes[0], "scores": caught[0][1][0], "labels": torch.zeros(len(boxes[0]))}]
    return model.transform.postprocess(found, images.image_sizes, [image.shape[:2]])[0]


def test_proposals_are_those_of_torchvision_in_the_images_pixels(model, rpn, image):
    boxes, scores = rpn(image, 1000)
    expected = by_hand(model, image)
    assert boxes.dtype == scores.dtype == np.float32
    assert boxes.shape == (len(scores), 4) and len(scores) > 50
    np.testing.assert_allclose(boxes, expected["boxes"].numpy(), atol=2e-3)
    np.testing.assert_allclose(scores, expected["scores"].numpy(), atol=1e-5)


def test_proposals_are_inside_descending_and_the_same_twice(rpn, image):
    boxes, scores = rpn(image, 300)
    height, width = image.shape[:2]
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= (width, height)).all()
    assert boxes[:, 2].max() > 0.9 * width and boxes[:, 3].max() > 0.9 * height
    assert (np.diff(scores) <= 0).all() and len(np.unique(scores)) > 1
    for first, second in zip((boxes[:7], scores[:7]), rpn(image, 7), strict=True):
        np.testing.assert_array_equal(first, second)


def test_older_names_and_a_meta_json_with_epsilon_are_read(model, rpn, image, tmp_path):
    def older(name):
        return re.sub(r"(rpn\.head\.conv)\.0\.0|(backbone\.fpn\.\w+_blocks\.\d)\.0", r"\1\2", name)

    state = {older(name): tensor for name, tensor in model.state_dict().items() if "num_batches" not in name}
    assert {"rpn.head.conv.weight", "backbone.fpn.inner_blocks.0.bias"} <= state.keys()
    assert not model.load_state_dict(state, strict=False).unexpected_keys  # torchvision knows these names itself
    save_file(state, tmp_path / "published.safetensors")
    (tmp_path / "meta.json").write_text(json.dumps({"bn_eps": 0.5}))
    boxes, scores = Rpn(tmp_path / "published.safetensors", **SMALL)(image, 1000)
    set_batchnorm_eps(model, 0.5)
    try:
        expected = by_hand(model, image)
    finally:
        set_batchnorm_eps(model, 0.0)
    np.testing.assert_allclose(boxes, expected["boxes"].numpy(), atol=2e-3)
    np.testing.assert_allclose(scores, expected["scores"].numpy(), atol=1e-5)
    assert np.abs(scores[:20] - rpn(image, 20)[1]).max() > 1e-3


def test_what_does_not_fit_is_named(weights, rpn, image, tmp_path):
    with pytest.raises(RecipeError, match=r"detector\.safetensors: does not fit the network: missing"):
        Rpn(weights, name="fasterrcnn_resnet50_fpn_v2", **SMALL)
    with pytest.raises(RecipeError, match=r"none\.pth: no such weights file"):
        Rpn(tmp_path / "none.pth")
    with pytest.raises(RecipeError, match=r"region proposal network is of \w+ or \w+, not 'ssd'"):
        Rpn(weights, name="ssd")
    with pytest.raises(RecipeError, match="top must be at least 1"):
        rpn(image, 0)
    with pytest.raises(ValueError, match="H×W×3 uint8"):
        rpn(image[:, :, 0], 5)
