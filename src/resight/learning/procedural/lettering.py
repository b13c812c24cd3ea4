"""Words drawn with OpenCV's Hershey fonts."""

import cv2
import numpy as np

from resight.learning.procedural.colours import Pixels

_FONTS = (
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_COMPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
    cv2.FONT_HERSHEY_SCRIPT_COMPLEX,
    cv2.FONT_HERSHEY_SCRIPT_SIMPLEX,
)
Box = tuple[int, int, int, int]
Ink = tuple[int, int, int]


def _vocabulary(count: int) -> list[str]:
    rng = np.random.default_rng(0)
    letters = (np.array(list("aeiouy")), np.array(list("bcdfghjklmnprstvwxz")))
    words = []
    for number in range(count):
        if number % 8 == 0:
            words.append("".join(rng.choice(list("0123456789"), int(rng.integers(1, 5)))))
            continue
        begin = int(rng.integers(2))
        text = "".join(str(rng.choice(letters[(begin + i) % 2])) for i in range(int(rng.integers(2, 10))))
        words.append((text, text.upper(), text.capitalize())[int(rng.integers(3))])
    return words


_WORDS = _vocabulary(2048)


def word(rng: np.random.Generator) -> str:
    """Something like a word, in any case, or a number."""
    return _WORDS[int(rng.integers(len(_WORDS)))]


def fitted(picture: Pixels, box: Box, text: str, rng: np.random.Generator, ink: Ink, edge: Ink | None = None) -> None:
    """Writes one line into a box, as large as it fits, in a font and weight drawn; upon ``picture``.

    edge: a second colour round the letters.
    """
    x1, y1, x2, y2 = box
    font = _FONTS[int(rng.integers(len(_FONTS)))] | (cv2.FONT_ITALIC if rng.random() < 0.2 else 0)
    bold = rng.uniform(0.5, 5.0)
    (width, height), below = cv2.getTextSize(text, font, 1.0, 1)
    scale = min((x2 - x1) / max(width, 1), (y2 - y1) / (height + below))
    if scale <= 0.1:
        return
    thickness = max(1, round(bold * scale))
    left = round(x1 + (x2 - x1 - scale * width) / 2)
    base = round(y1 + (y2 - y1 + scale * (height - below)) / 2)
    if edge is not None:
        cv2.putText(picture, text, (left, base), font, scale, edge, thickness + max(2, round(2 * scale)), cv2.LINE_AA)
    cv2.putText(picture, text, (left, base), font, scale, ink, thickness, cv2.LINE_AA)


def lines(picture: Pixels, box: Box, rng: np.random.Generator, ink: Ink, height: int) -> None:
    """Fills a box with lines of small words, of so many pixels each; upon ``picture``."""
    x1, y1, x2, y2 = box
    font, scale = _FONTS[int(rng.integers(len(_FONTS)))], height / 34
    part = np.ascontiguousarray(picture[y1:y2, x1:x2])
    for base in range(round(height * 0.75), part.shape[0], height):
        # About 20 units a letter at scale 1: some lines are short, others end at the box.
        letters = int((x2 - x1) / (20 * scale) * rng.uniform(0.7, 1.2))
        first = int(rng.integers(len(_WORDS) - 40))
        cv2.putText(part, " ".join(_WORDS[first : first + 40])[:letters], (0, base), font, scale, ink, 1, cv2.LINE_AA)
    picture[y1:y2, x1:x2] = part
