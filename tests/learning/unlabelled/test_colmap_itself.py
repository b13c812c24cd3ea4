"""COLMAP's models as COLMAP writes them, read as it reads them."""

import numpy as np
import pycolmap
import pytest

from resight.learning.unlabelled.colmap import read_model

CAMERAS = {
    "SIMPLE_RADIAL": [1280.0, 512.0, 384.0, 0.05],
    "PINHOLE": [1200.0, 1220.0, 512.0, 384.0],
    "OPENCV_FISHEYE": [900.0, 910.0, 512.0, 384.0, 0.01, 0.0, 0.0, 0.0],
}


@pytest.mark.parametrize("form", ["binary", "text"])
@pytest.mark.parametrize("camera", CAMERAS)
def test_a_model_is_read_as_by_colmap(tmp_path, camera, form):
    options = pycolmap.SyntheticDatasetOptions(
        num_rigs=2, num_frames_per_rig=4, num_points3D=60, track_length=4, camera_params=CAMERAS[camera]
    )
    options.camera_model_id = pycolmap.CameraModelId.__members__[camera]
    pycolmap.set_random_seed(3)
    made = pycolmap.synthesize_dataset(options)
    getattr(made, f"write_{form}")(tmp_path)
    found, truth = read_model(tmp_path), pycolmap.Reconstruction(tmp_path)
    images = {image.name: image for image in truth.images.values()}
    assert [view.name for view in found.views] == sorted(images) and len(images) == 8
    assert found.ids.tolist() == sorted(truth.points3D)
    np.testing.assert_array_equal(found.places(found.ids), [truth.points3D[n].xyz for n in found.ids.tolist()])
    for view in found.views:
        image = images[view.name]
        pose = image.cam_from_world().matrix()
        np.testing.assert_allclose(np.column_stack([view.rotation, view.translation]), pose, atol=1e-12)
        np.testing.assert_allclose(view.centre, image.projection_center(), atol=1e-12)
        assert view.focal == image.camera.params[image.camera.focal_length_idxs()[0]]
        assert view.points.tolist() == sorted({p.point3D_id for p in image.points2D if p.has_point3D()})
        assert len(view.points) > 10
