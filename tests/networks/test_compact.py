"""The compact network: what its maps are of, folding, its files, and its place among networks by name."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
F = torch.nn.functional

from safetensors import safe_open  # noqa: E402

from resight.artefact import save_artefact  # noqa: E402
from resight.errors import RecipeError  # noqa: E402
from resight.networks import compact  # noqa: E402
from resight.networks.backbone import load_backbone  # noqa: E402
from resight.networks.compact import Compact, compact_weights, load_compact, save_compact  # noqa: E402


@pytest.fixture(scope="module")
def network():
    """Random, with statistics and scales of batch normalisation that differ from a new one's."""
    torch.manual_seed(0)
    made = Compact().eval()
    with torch.no_grad():
        for module in made.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                for tensor, low, high in (
                    (module.weight, 0.5, 1.5),
                    (module.bias, -0.2, 0.2),
                    (module.running_mean, -0.2, 0.2),
                    (module.running_var, 0.3, 1.5),
                ):
                    tensor.uniform_(low, high)
    return made.requires_grad_(False)


def pictures(*shape, seed=1):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def named(maps):
    return {name: getattr(maps, name) for name in ("local", "keypoints", "reliability", "coarse")}


def close(first, second, tolerance=1e-4):
    for name, expected in named(second).items():
        found = named(first)[name]
        assert (found - expected).abs().max() <= tolerance * expected.abs().max(), name


def test_shapes_ranges_and_lengths(network):
    maps = network(pictures(2, 3, 64, 96))
    shapes = {
        "local": (2, 64, 8, 12),
        "keypoints": (2, 65, 8, 12),
        "reliability": (2, 1, 8, 12),
        "coarse": (2, 512, 2, 3),
    }
    assert {name: tuple(each.shape) for name, each in named(maps).items()} == shapes
    assert maps.coarse.min() >= 0 and maps.coarse.max() > 0
    torch.testing.assert_close(maps.local.norm(dim=1), torch.ones(2, 8, 12))
    vectors = network.embed(maps.coarse)
    assert vectors.shape == (2, 256)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))
    for wrong in (pictures(1, 3, 64, 48), pictures(1, 1, 64, 64), pictures(3, 64, 64)):
        with pytest.raises(ValueError, match="multiples of 32"):
            network(wrong)


def test_the_embedding_is_the_generalised_mean_then_the_matrix(network):
    coarse = network(pictures(1, 3, 64, 64)).coarse[0].double()
    cells = coarse.clamp(min=1e-6).flatten(1).numpy()
    pooled = np.array([np.mean([value**3 for value in row]) ** (1 / 3) for row in cells])
    expected = network.embedding.weight.double().numpy() @ pooled + network.embedding.bias.double().numpy()
    found = network.embed(coarse[None].float())[0].numpy()
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=1e-5)


def test_a_picture_moved_by_cells_moves_the_keypoints_and_by_coarse_cells_all(network):
    """Away from the border, whose padding is not moved."""
    scene = pictures(1, 3, 384, 384)
    fixed = network(scene[..., 32:352, 32:352])
    moved = network(scene[..., 40:360, 48:368])  # by 1 and 2 cells of 8
    inner = (..., slice(6, 30), slice(6, 30))
    torch.testing.assert_close(fixed.keypoints[..., 7:31, 8:32], moved.keypoints[inner], atol=1e-4, rtol=1e-4)
    # Descriptors see far: deep in a picture of a size that only tests of one thing can afford, whatever the padding.
    wide = pictures(1, 3, 32, 1984)
    fixed, moved = (network(wide[..., :, start : start + 1920]).local for start in (0, 64))
    torch.testing.assert_close(fixed[..., 108:132], moved[..., 100:124], atol=1e-4, rtol=1e-4)


def test_a_logit_belongs_to_the_pixel_of_its_place_in_the_cell(network):
    """pixel_unshuffle's order, from the definition: the first layer sees pixel (x, y) of a cell in channel 8y + x."""
    seen = {}
    handle = network.cells[0].register_forward_hook(lambda module, given, out: seen.update(x=given[0]))
    picture = pictures(1, 3, 32, 64)
    network(picture)
    handle.remove()
    grey = (picture.mean(dim=1)[0] - 0.5) / 0.25
    for row, column, y, x in ((0, 0, 0, 0), (1, 2, 3, 5), (3, 7, 7, 1)):
        torch.testing.assert_close(seen["x"][0, 8 * y + x, row, column], grey[8 * row + y, 8 * column + x])


def test_folding_and_batches_change_nothing(network):
    batch = pictures(3, 3, 64, 96)
    maps, folded = network(batch), network.folded()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())  # the original is as it was
    close(folded(batch), maps)
    close(folded(batch.contiguous(memory_format=torch.channels_last)), maps)
    for place in range(3):
        alone = network(batch[place : place + 1])
        close(alone, compact.CompactMaps(*(each[place : place + 1] for each in named(maps).values())))
    again = network(batch)
    assert all(torch.equal(named(again)[name], each) for name, each in named(maps).items())


def test_it_learns_from_all_its_outputs():
    torch.manual_seed(0)
    network = Compact()
    maps = network(pictures(2, 3, 64, 64))
    parts = (maps.local**3, maps.keypoints**2, maps.reliability**2, network.embed(maps.coarse) ** 3)
    sum(part.sum() for part in parts).backward()
    without = [name for name, each in network.named_parameters() if each.grad is None or not each.grad.abs().sum()]
    assert not without


def test_a_file_holds_the_network_in_sixteen_bits(network, tmp_path):
    path = tmp_path / "made.safetensors"
    fingerprint = save_compact(network, path, {"seed": 3})
    assert fingerprint == save_compact(network, tmp_path / "again.safetensors", {"seed": 4})
    assert path.stat().st_size < 20e6
    loaded = load_compact(path)
    assert not loaded.training
    for name, value in network.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            expected = value.half().float() if value.ndim > 1 else value
            assert torch.equal(loaded.state_dict()[name], expected), name
    with safe_open(path, "pt") as file:
        assert file.get_tensor("stem.conv.weight").dtype == torch.float16
    batch = pictures(1, 3, 64, 64)
    close(loaded(batch), network(batch), 0.02)
    other = load_compact(path)
    other.p.data += 1
    assert save_compact(other, tmp_path / "other.safetensors", {}) != fingerprint


def test_wrong_files_are_refused_by_name(network, tmp_path):
    with pytest.raises(RecipeError, match=r"none\.safetensors: no such weights file"):
        load_compact(tmp_path / "none.safetensors")
    save_artefact(tmp_path / "pca.safetensors", "pca", {"mean": np.zeros(2)}, {})
    with pytest.raises(RecipeError, match=r"pca\.safetensors: holds a pca artefact where a compact is needed"):
        load_compact(tmp_path / "pca.safetensors")
    save_artefact(tmp_path / "part.safetensors", "compact", {"p": np.zeros((), np.float32)}, {})
    with pytest.raises(RecipeError, match=r"part\.safetensors: does not fit the network: .*missing"):
        load_compact(tmp_path / "part.safetensors")
    path = tmp_path / "made.safetensors"
    save_compact(network, path, {})
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(RecipeError, match=r"made\.safetensors: .*do not match its fingerprint"):
        load_compact(path)
    save_compact(network, path, {})
    diverged = load_compact(path)
    diverged.embedding.weight.data[0, 0] = 1e5
    with pytest.raises(RecipeError, match=r"not written: embedding\.weight .*not finite in 16 bits"):
        save_compact(diverged, tmp_path / "diverged.safetensors", {})


def test_without_shipped_weights_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(compact.resources, "files", lambda package: tmp_path)
    with pytest.raises(RecipeError, match=r"comes without trained weights .*resight train --procedural"):
        compact_weights()
    with pytest.raises(RecipeError, match="comes without trained weights"):
        load_backbone("compact", weights=None)


def test_shipped_weights_are_the_default_of_the_network_by_name(network, monkeypatch, tmp_path):
    save_compact(network, tmp_path / "compact.safetensors", {})
    monkeypatch.setattr(compact.resources, "files", lambda package: tmp_path)
    shipped = load_backbone("compact", layers=("pooled", "features", "stage2"), weights=None)
    picture = pictures(1, 3, 64, 96)
    vector, features, stage = shipped(picture)
    own = load_compact(tmp_path / "compact.safetensors")
    coarse = own(picture).coarse
    torch.testing.assert_close(features, coarse, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(vector, own.embed(coarse), atol=1e-5, rtol=1e-4)
    assert [(layer.kind, layer.channels, layer.stride) for layer in shipped.layers] == [
        ("vector", 256, None),
        ("map", 512, 32),
        ("map", 64, 8),
    ]
    assert stage.shape == (1, 64, 8, 12)
    given = load_backbone("compact", layers=("pooled", "features", "stage2"), weights=tmp_path / "compact.safetensors")
    assert given.fingerprint == shipped.fingerprint
