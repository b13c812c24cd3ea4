"""Why two pictures are alike to a recipe: what a search knows of the pair, and where its global descriptors agree."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from numpy.typing import NDArray

from resight.describe.describer import Describer
from resight.errors import CollectionError, ImageError, QueryError, RecipeError
from resight.features.fusion import fuse
from resight.files import output_file
from resight.geometry.boxes import Box
from resight.images.apart import read_image_apart
from resight.images.image import Image
from resight.search.drawing import GAP, SIDE, Pane, define, pair
from resight.search.html import escape, head
from resight.search.ranking import Evidence, Ranking

if TYPE_CHECKING:
    from resight.describe.locate import Located
    from resight.search.collection import Collection

_OPACITY = 0.75  # of the colour where the heat is greatest; it falls with the heat, so that cold places show the photo
_LINE = 20  # pixels from one line of text to the next


@dataclass(frozen=True, eq=False)
class Side:
    """One of two pictures, and where in it their similarity comes from.

    picture: the upright whole, its longest side at most ``drawing.SIDE`` pixels. box: what of it was described, in
    pixels of the original, or None for the whole. heat: float32 for each pixel of `picture`, 0 outside the box.
    """

    picture: Image
    box: Box | None
    located: "Located"
    heat: NDArray[np.float32]

    @property
    def lines(self) -> tuple[str, ...]:
        """The similarity and its parts, for people."""
        found = self.located
        return (
            f"similarity {found.similarity:.3f}, of which",
            f"{found.gain:+.3f} from places that speak for it",
            f"{found.loss:+.3f} from places that speak against it",
            f"{found.constant:+.3f} from no place (the whitening's mean)",
        )

    def tinted(self) -> Image:
        """The picture under its heat, as far as that is above 0: from black over red to yellow at its greatest."""
        positive = np.maximum(self.heat, 0)
        share = positive / max(float(positive.max()), np.finfo(np.float32).tiny)
        colours = cv2.applyColorMap((share * 255).round().astype(np.uint8), cv2.COLORMAP_INFERNO)[:, :, ::-1]
        weight = _OPACITY * share[:, :, None]
        mixed = self.picture.pixels * (1 - weight) + colours * weight
        return Image(mixed.round().astype(np.uint8), self.picture.size, self.picture.origin)


def locate_pair(
    collection: "Collection", query: str | Path | int, result: int, *, box: Box | None = None
) -> list[Side]:
    """The query and an image of the collection, each with the places of its similarity to the other.

    query: a path, or the id of an image of the collection. box: what of it was asked for, in its upright pixels.
    Both files are read and described anew. Raises RecipeError where the recipe's descriptors have no places,
    QueryError for an unknown id, a picture that cannot be read or has changed, and CollectionError where weights or
    learned parts are not those of the collection.
    """
    if collection.recipe.global_ is None:
        raise RecipeError(
            f"recipe {collection.recipe.name} has no global descriptor to show the places of; `resight search --html` "
            "shows the points that agree"
        )
    describer = Describer(collection.recipe)
    network = describer.network
    if network is None or describer.fingerprint != collection.fingerprint:
        raise CollectionError(
            f"the collection was made with other weights or learned parts than recipe {collection.recipe.name} has "
            "now; restore those files, or index into a new collection"
        )
    from resight.describe.locate import locate

    seen = [_read(collection, describer, query, box), _read(collection, describer, result, None)]
    vectors = [network.describe(part.pixels) for _, part, _ in seen]
    sides = []
    for (picture, part, corner), other, drawn in zip(seen, vectors[::-1], (box, None), strict=True):
        located = locate(network, part.pixels, other)
        sides.append(Side(picture, drawn, located, _placed(located, picture, part, corner)))
    return sides


def _read(
    collection: "Collection", describer: Describer, query: str | Path | int, box: Box | None
) -> tuple[Image, Image, tuple[float, float]]:
    """The whole picture, small; what of it is described; and that one's corner in the upright original."""
    entry = collection.entry(query) if isinstance(query, int) else None
    origin = entry.origin if entry else str(query)
    try:
        part, corner, size = describer.read(origin, box)
        picture = read_image_apart(part if box is None else origin, max_side=SIDE)
    except ImageError as error:
        raise QueryError(f"{origin}: {error.reason}") from error
    if entry and entry.size != size:
        raise QueryError(f"{origin}: the file has changed since it was indexed; run `resight index` again")
    return picture, part, corner


def _placed(located: "Located", picture: Image, part: Image, corner: tuple[float, float]) -> NDArray[np.float32]:
    """The heat of a part of a picture, on the pixels of the whole."""
    height, width = picture.pixels.shape[:2]
    ends = np.array([corner, np.add(corner, part.size)]) * picture.scale
    (left, top), (right, bottom) = ends.round().astype(int)
    left, top = min(left, width - 1), min(top, height - 1)
    right, bottom = np.clip((right, bottom), (left + 1, top + 1), (width, height))
    heat = np.zeros((height, width), np.float32)
    heat[top:bottom, left:right] = located.over(right - left, bottom - top)
    return heat


def known_similarity(
    collection: "Collection", query: str | Path | int, result: int, ranking: Ranking, *, box: Box | None = None
) -> float | None:
    """What the recipe's filter says of the pair; None where the search keeps only the probability made of it.

    ranking: of the query, over the whole collection.
    """
    stage = collection.recipe.global_
    if not ranking.calibrated:
        return float(ranking.scores[ranking.ids == result][0])
    if collection.recipe.filter != "global" or stage is None:
        return None
    ids, cosines = collection.branch_similarities(query, box=box)
    fused = fuse(cosines, [branch.weight for branch in stage.branches], stage.late) if stage.late else cosines[:, 0]
    return float(fused[ids == result][0])


def write_explanation(path: str | Path, sides: list[Side], evidence: Evidence | None = None) -> None:
    """Both pictures under their heat, side by side, as a PNG, or as an HTML file that needs nothing else.

    evidence: points that agree, shown in HTML without the heat. Raises QueryError for another suffix than .png or
    .html, ResightError where the file cannot be written.
    """
    path = check_target(path)
    data = _png(sides) if path.suffix.lower() == ".png" else "".join(_page(sides, evidence)).encode(errors="replace")
    with output_file(path) as partial:
        partial.write_bytes(data)


def check_target(path: str | Path) -> Path:
    """The path, if its suffix says what ``write_explanation`` should write; else QueryError."""
    path = Path(path)
    if path.suffix.lower() not in (".png", ".html"):
        raise QueryError(f"{path}: an explanation is a picture or a page; name a file that ends in .png or .html")
    return path


def _png(sides: list[Side]) -> bytes:
    font = PIL.ImageFont.load_default(size=15)
    pictures = [_framed(side) for side in sides]
    widths = [
        max(picture.width, *(round(font.getlength(line)) for line in side.lines))
        for picture, side in zip(pictures, sides, strict=True)
    ]
    height = max(picture.height for picture in pictures)
    canvas = PIL.Image.new("RGB", (sum(widths) + 3 * GAP, height + 3 * GAP + 4 * _LINE), "white")
    draw = PIL.ImageDraw.Draw(canvas)
    left = GAP
    for picture, side, width in zip(pictures, sides, widths, strict=True):
        canvas.paste(picture, (left, GAP + (height - picture.height) // 2))
        for number, line in enumerate(side.lines):
            draw.text((left, height + 2 * GAP + number * _LINE), line, fill="black", font=font)
        left += width + GAP
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG")
    return buffer.getvalue()


def _framed(side: Side) -> PIL.Image.Image:
    """The tinted picture with its box."""
    picture = PIL.Image.fromarray(side.tinted().pixels)
    if side.box is not None:
        corners = (np.reshape(side.box, (2, 2)) * side.picture.scale).ravel().tolist()
        PIL.ImageDraw.Draw(picture).rectangle(corners, outline=(0, 224, 255), width=2)
    return picture


def _page(sides: list[Side], evidence: Evidence | None) -> Iterator[str]:
    own = (
        ".places { display: grid; grid-template-columns: 1fr 1fr; gap: 0 1rem; }\n"
        "body:has(#show-heat:checked) .photos, body:has(#show-heat:not(:checked)) .heat { display: none; }\n"
    )
    first, second = (side.picture.origin for side in sides)
    yield head(f"{first} and {second}", "resight.search", own) + (
        '<header class="bar"><h1>Where the similarity comes from</h1>\n'
        '<fieldset><legend class="hidden">Show</legend>\n'
        '<label><input type="checkbox" id="show-heat" checked> heat</label>\n</fieldset></header>\n<main><section>\n'
    )
    hot, plain = ([Pane(f"{kind}{n}", s.picture.size) for n, s in enumerate(sides)] for kind in ("heat", "photo"))
    for over, bare, side in zip(hot, plain, sides, strict=True):
        yield define(over, side.tinted()) + define(bare, side.picture)
    box, origin = sides[0].box, sides[1].picture.origin
    yield f'<div class="card">\n<div class="heat">{pair(hot[0], hot[1], box, None, origin)}</div>\n'
    yield f'<div class="photos">{pair(plain[0], plain[1], box, evidence, origin)}</div>\n<div class="places">\n'
    for side in sides:
        text = "".join(f"<li>{escape(line)}</li>" for line in side.lines[1:])
        name = escape(side.picture.origin)
        yield f'<div><p class="path">{name}</p>\n<p>{escape(side.lines[0])}</p>\n<ul>{text}</ul></div>\n'
    yield "</div>\n</div>\n</section></main>\n</body>\n</html>\n"
