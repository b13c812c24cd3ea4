"""Two pictures and what verification found between them, as inline SVG."""

import base64
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resight.images.image import Image
from resight.images.read import thumbnail_jpeg
from resight.search.html import escape
from resight.search.ranking import Evidence

SIDE = 480  # the longest side of a picture, in drawing units and at most in pixels
LINES = 40  # more would hide the pictures
GAP = 8

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Pane:
    """A picture's place in a drawing, its longest side `SIDE` drawing units.

    key: the id of the element with its pixels. size: (width, height) of the upright original.
    gone: why there are no pixels to show, or None.
    """

    key: str
    size: tuple[int, int]
    gone: str | None = None

    @property
    def scale(self) -> float:
        """Drawing units to a pixel of the original."""
        return SIDE / max(self.size)

    @property
    def width(self) -> float:
        return self.size[0] * self.scale

    @property
    def height(self) -> float:
        return self.size[1] * self.scale

    def place(self, xy: NDArray[np.float32]) -> NDArray[np.float64]:
        """Keypoints (pixel centres at whole numbers) as drawing units (pixel corners at whole numbers)."""
        return (np.asarray(xy, np.float64) + 0.5) * self.scale

    def use(self) -> str:
        """SVG that shows the pixels, or in their place why there are none."""
        if self.gone is None:
            return f'<use href="#{self.key}"/>'
        return (
            f'<rect class="gone" width="{self.width:.1f}" height="{self.height:.1f}"/>'
            f'<text class="gone-text" x="{self.width / 2:.1f}" y="{self.height / 2:.1f}">'
            f"{escape(self.gone)}</text>"
        )


def define(pane: Pane, picture: Image) -> str:
    """The picture's pixels, once in the page and unseen; `Pane.use` shows them."""
    jpeg = base64.b64encode(thumbnail_jpeg(picture, SIDE)).decode("ascii")
    return (
        f'<svg class="hidden" aria-hidden="true"><defs><image id="{pane.key}" width="{pane.width:.1f}" '
        f'height="{pane.height:.1f}" preserveAspectRatio="none" '
        f'href="data:image/jpeg;base64,{jpeg}"/></defs></svg>\n'
    )


def pair(query: Pane, pane: Pane, box: Box | None, evidence: Evidence | None, origin: str) -> str:
    """Query and result side by side, with box, the outline of each instance, and lines between points that agree.

    The lines are in the drawing's frame; box and outline are in their own picture's, cut off at its edge.
    """
    left = np.array([0.0, max(pane.height - query.height, 0) / 2])
    right = np.array([query.width + GAP, max(query.height - pane.height, 0) / 2])
    outline = lines = ""
    for instance in () if evidence is None else (evidence, *evidence.others):
        if instance.outline is not None:
            points = " ".join(f"{x:.1f},{y:.1f}" for x, y in pane.place(instance.outline))
            outline += f'<polygon class="outline" points="{points}"/>'
    if evidence is not None and len(evidence.query_xy) and not (query.gone or pane.gone):
        lines = _lines(query.place(evidence.query_xy) + left, pane.place(evidence.result_xy) + right)
    return (
        f'<svg class="pair" viewBox="0 0 {right[0] + pane.width:.1f} {max(query.height, pane.height):.1f}" '
        f'role="img" aria-label="The query beside {escape(origin)}">\n'
        f"{_nested(left, query, query.use() + query_box(query, box))}\n"
        f"{_nested(right, pane, pane.use() + outline)}\n{lines}</svg>"
    )


def _nested(at: NDArray[np.float64], pane: Pane, content: str) -> str:
    """`content` in the pane's own frame, cut off at its edge."""
    frame = f'x="{at[0]:.1f}" y="{at[1]:.1f}" width="{pane.width:.1f}" height="{pane.height:.1f}"'
    return f"<svg {frame}>{content}</svg>"


def _lines(start: NDArray[np.float64], end: NDArray[np.float64]) -> str:
    """At most `LINES` of the pairs, evenly from left to right of the query, in the order of the hues."""
    order = np.lexsort((start[:, 1], start[:, 0]))
    if len(order) > LINES:
        order = order[np.linspace(0, len(order) - 1, LINES).round().astype(int)]
    drawn = [
        f'<g style="--hue:{330 * rank / len(order):.0f}">'
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'
        f'<circle cx="{x1:.1f}" cy="{y1:.1f}" r="3"/><circle cx="{x2:.1f}" cy="{y2:.1f}" r="3"/></g>\n'
        for rank, ((x1, y1), (x2, y2)) in enumerate(zip(start[order], end[order], strict=True))
    ]
    return f'<g class="lines">\n{"".join(drawn)}</g>\n'


def query_box(query: Pane, box: Box | None) -> str:
    """The box (x1, y1, x2, y2; the original's pixels) as a rectangle in the query's own frame."""
    if box is None:
        return ""
    x1, y1, x2, y2 = (v * query.scale for v in box)
    return f'<rect class="box" x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}"/>'


def overlay(query: Pane, pane: Pane, box: Box | None, evidence: Evidence | None) -> str:
    """The result with the query (or its box) laid over it by the homography, as a CSS transform.

    Empty where there is no homography, or no pixels to lay.
    """
    if evidence is None or evidence.homography is None or query.gone or pane.gone:
        return ""
    to_query = np.diag([1 / query.scale, 1 / query.scale, 1.0])
    to_query[:2, 2] = -0.5  # drawing units → keypoint pixels
    to_drawing = np.diag([pane.scale, pane.scale, 1.0])
    to_drawing[:2, 2] = 0.5 * pane.scale
    (a, b, c), (d, e, f), (g, h, i) = to_drawing @ evidence.homography @ to_query
    matrix = ",".join(f"{v:.9g}" for v in (a, d, 0, g, b, e, 0, h, 0, 0, 1, 0, c, f, 0, i))
    x1, y1, x2, y2 = (0, 0, *query.size) if box is None else box
    cut = (y1, query.size[0] - x2, query.size[1] - y2, x1)
    inset = " ".join(f"{v * query.scale:.1f}px" for v in cut)
    return (
        '<div class="over"><div class="stage" tabindex="0" role="img" '
        'aria-label="The query laid over the result">'
        f'<svg width="{pane.width:.1f}" height="{pane.height:.1f}">{pane.use()}</svg>'
        f'<svg class="warp" width="{query.width:.1f}" height="{query.height:.1f}" '
        f'style="transform:matrix3d({matrix});clip-path:inset({inset})">{query.use()}</svg></div></div>\n'
    )
