"""A study of attacks as one HTML file that needs nothing else: figures, plots, and queries before and after."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resight.errors import ImageError
from resight.files import output_file
from resight.images.apart import read_image_apart
from resight.images.read import read_image
from resight.robustness.attack_study import AttackStudy, Shown
from resight.search.html import escape, gone, head, pairs, picture, table

_SIDE = 240  # the longest side of a picture in pixels
_GAIN = 16  # how often the altered part of a picture is shown enlarged about middle grey


def write_attack_page(study: AttackStudy, path: Path) -> None:
    """Write the page, replacing what is there. Raises ResightError where it cannot be written."""
    with output_file(path) as partial:
        partial.write_text("".join(_page(study)), encoding="utf-8", errors="replace")


def _page(study: AttackStudy) -> Iterator[str]:
    yield head("Attacks", "resight.evaluation", "svg { max-width: 100%; height: auto; }\n")
    yield "<header><h1>Queries under attack</h1></header>\n<main>\n"
    for warning in study.warnings:
        yield f"<p><b>{escape(warning)}</b></p>\n"
    yield "<h2>mAP, per cent</h2>\n"
    yield from (table(grid, grid[0][2]) for grid in study.grids)
    yield (
        '<p class="soft">ε: by how much a value of a pixel may change, of 255. Flagged: share of queries whose '
        "verified matches all stand low in the first ranking; of the clean ones it is a false alarm.</p>\n"
    )
    for attack, drawing in study.plots().items():
        yield f"<h2>{escape(attack)}</h2>\n{drawing}"
    if study.shown:
        yield f"<h2>Some of the queries</h2>\n<p class='soft'>What was altered, {_GAIN} times enlarged.</p>\n"
    for query in dict.fromkeys(each.query for each in study.shown):
        yield from _article([each for each in study.shown if each.query == query])
    facts = [(name, str(value)) for name, value in study.protocol.items()]
    yield f"<h2>Protocol</h2>\n{pairs(facts)}</main>\n</body>\n</html>\n"


def _article(shown: list[Shown]) -> Iterator[str]:
    clean = shown[0]  # of each query the clean one comes first
    yield (
        f'<article>\n<figure class="asked">{_picture(clean.picture, clean.query)}'
        f"<figcaption><h3>{escape(clean.query)}</h3></figcaption></figure>\n<div>\n"
        '<ol class="results">\n'
    )
    for each in shown:
        altered = ""
        if each is not clean:
            moved = _GAIN * (each.picture.astype(np.int16) - clean.picture) + 128
            altered = _picture(each.picture, each.attack) + _picture(np.clip(moved, 0, 255).astype(np.uint8), "altered")
        name = each.attack if each is clean else f"{each.attack} {each.epsilon}/255"
        yield (
            f'<li class="{"positive" if each.result == clean.result else "wrong"}"><figure>{altered}'
            f"{_found(each.result)}<figcaption><b>{escape(name)}</b><br>found first: "
            f"{escape(Path(each.result).name)}</figcaption></figure></li>\n"
        )
    yield "</ol>\n</div>\n</article>\n"


def _found(path: str) -> str:
    try:
        return _picture(read_image_apart(path, max_side=_SIDE).pixels, path)
    except ImageError as error:
        return gone(error.reason)


def _picture(pixels: NDArray[np.uint8], alt: str) -> str:
    return picture(read_image(pixels, max_side=_SIDE), _SIDE, alt, quality=95)
