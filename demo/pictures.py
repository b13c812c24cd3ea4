"""The demo's photographs: pictures that come with scikit-image, hung on walls and photographed again.

Every photograph is drawn from its own name alone, so the demo is the same on every run.
"""

import io
from dataclasses import dataclass, field
from zlib import crc32

import cv2
import numpy as np
import PIL.Image
import skimage.data
from numpy.typing import NDArray

SIZE = (960, 720)  # of a photograph, in pixels
_FRAMES = ((38, 32, 28), (122, 84, 46), (176, 142, 74), (92, 40, 30), (216, 210, 198))

# Where each picture comes from and who allows its use, in the words of scikit-image's own documentation.
SOURCES = {
    "astronaut": "NASA; public domain",
    "camera": "Lav Varshney; CC0",
    "cell": "Paul Müller and others; CC0",
    "chelsea": "Stefan van der Walt; CC0",
    "coffee": "Rachel Michetti, courtesy of Pikolo Espresso Bar; CC0",
    "coins": "Brooklyn Museum; no known copyright restrictions",
    "grass": "DeviantArt, linolafett; CC0",
    "gravel": "CC0Textures; CC0",
    "hubble_deep_field": "NASA; public domain",
    "immunohistochemistry": "CMMI; no known copyright restrictions",
    "retina": "Mikael Häggström; CC0",
    "rocket": "SpaceX; public domain",
    "stereo_motorcycle": "Middlebury 2014 stereo benchmark (Scharstein and others)",
}

Pixels = NDArray[np.uint8]
Place = tuple[float, float, float, float]


@dataclass(frozen=True)
class View:
    """How one photograph is taken.

    hung: picture → (centre x, centre y, longest side, turn away from the camera in degrees) in the photograph's pixels.
    """

    hung: dict[str, Place]
    light: float = 1.0
    blur: float = 0.6
    noise: float = 3.0
    quality: int = 85
    visitor: float | None = None  # x of someone who stands in front
    shows: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shows", frozenset(name.removesuffix(" right") for name in self.hung))


def picture(name: str) -> Pixels:
    """A picture of scikit-image as H×W×3; "stereo_motorcycle right" is the second camera's view."""
    loaded = getattr(skimage.data, name.removesuffix(" right"))()
    if isinstance(loaded, tuple):
        loaded = loaded[name.endswith(" right")]
    return np.ascontiguousarray(np.dstack([loaded] * 3) if loaded.ndim == 2 else loaded[..., :3])


def photograph(name: str, view: View) -> bytes:
    """The view as a JPEG file. name: seeds wall, colours and noise."""
    rng = np.random.default_rng(crc32(name.encode()))
    scene = _wall(rng)
    for hung, place in view.hung.items():
        _hang(scene, picture(hung), place, rng)
    if view.visitor is not None:
        _stand(scene, view.visitor)
    slope = np.linspace(rng.uniform(0.75, 1), rng.uniform(0.85, 1.1), SIZE[0], dtype=np.float32)
    lit = scene * (view.light * slope[None, :, None] * rng.uniform(0.93, 1.07, 3).astype(np.float32))
    seen = cv2.GaussianBlur(lit, (0, 0), view.blur) + view.noise * rng.standard_normal(scene.shape, np.float32)
    file = io.BytesIO()
    PIL.Image.fromarray(np.clip(seen, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=view.quality)
    return file.getvalue()


def corners(place: Place, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """4×2: where the corners of a picture of a shape (H, W, …) come to lie, clockwise from the top left."""
    x, y, side, turn = place
    height, width = np.array(shape[:2]) * side / max(shape[:2])
    near = np.sin(np.radians(turn)) / 3  # the edge that is nearer to the camera is larger
    half = np.cos(np.radians(turn)) * width / 2
    left, right = height / 2 * (1 + near), height / 2 * (1 - near)
    return np.array([(x - half, y - left), (x + half, y - right), (x + half, y + right), (x - half, y + left)], "f4")


def _wall(rng: np.random.Generator) -> Pixels:
    """Plaster: noise of several grain sizes on a pale colour."""
    width, height = SIZE
    relief = np.zeros((height, width), np.float32)
    for grain in (4, 16, 64):
        coarse = rng.normal(0, 3, (height // grain + 2, width // grain + 2)).astype(np.float32)
        relief += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    colour = rng.uniform(150, 215) + rng.uniform(-18, 18, 3)
    wall = relief[..., None] + colour.astype(np.float32)
    return np.clip(wall, 0, 255).astype(np.uint8)


def _hang(scene: Pixels, pixels: Pixels, place: Place, rng: np.random.Generator) -> None:
    """Draw a picture in a frame of one colour, with its shadow, into the scene."""
    shrink = place[2] / max(pixels.shape[:2])
    if shrink < 1:
        pixels = cv2.resize(pixels, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    edge = max(pixels.shape[:2]) // 25
    colour = _FRAMES[rng.integers(len(_FRAMES))]
    framed = cv2.copyMakeBorder(pixels, edge, edge, edge, edge, cv2.BORDER_CONSTANT, value=colour)
    height, width = framed.shape[:2]
    flat = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32)
    target = corners(place, framed.shape)
    shadow = np.zeros(scene.shape[:2], np.float32)
    cv2.fillConvexPoly(shadow, (target + 10).astype(np.int32), 0.5)
    shadow = cv2.GaussianBlur(shadow, (0, 0), 6)
    scene[:] = (scene * (1 - shadow[..., None])).astype(np.uint8)
    homography = cv2.getPerspectiveTransform(flat, target)
    size = (scene.shape[1], scene.shape[0])
    cv2.warpPerspective(framed, homography, size, scene, cv2.INTER_CUBIC, cv2.BORDER_TRANSPARENT)


def _stand(scene: Pixels, x: float) -> None:
    """Draw someone, from behind, before the scene."""
    height = scene.shape[0]
    for radii, y, colour in (((35, 42), height - 240, (52, 40, 34)), ((75, 165), height - 45, (62, 66, 84))):
        cv2.ellipse(scene, (round(x), y), radii, 0, 0, 360, colour, -1, cv2.LINE_AA)
