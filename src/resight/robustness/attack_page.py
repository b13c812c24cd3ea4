"""A study of attacks as one HTML file that needs nothing else: figures, plots, and queries before and after."""

import base64
import html
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resight.errors import ImageError, ResightError
from resight.images.apart import read_image_apart
from resight.images.read import read_image, thumbnail_jpeg
from resight.robustness.attack_study import AttackStudy, Shown

_SIDE = 240  # the longest side of a picture in pixels
_GAIN = 16  # how often the altered part of a picture is shown enlarged about middle grey


def write_attack_page(study: AttackStudy, path: Path) -> None:
    """Write the page, replacing what is there. Raises ResightError where it cannot be written."""
    try:
        path.write_text("".join(_page(study)), encoding="utf-8", errors="replace")
    except OSError as error:
        raise ResightError(f"cannot write {path}: {error.strerror}; name a folder that can be written to") from error


def _page(study: AttackStudy) -> Iterator[str]:
    css = resources.files("resight.evaluation").joinpath("page.css").read_text("utf-8")
    yield (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>Attacks – resight</title>\n<style>\n{css}svg {{ max-width: 100%; height: auto; }}\n</style>\n"
        "</head>\n<body>\n<header><h1>Queries under attack</h1></header>\n<main>\n"
    )
    for warning in study.warnings:
        yield f"<p><b>{_text(warning)}</b></p>\n"
    yield f'<h2>mAP, per cent</h2>\n<div class="scroll" tabindex="0">{_tables(study.table())}</div>\n'
    yield (
        '<p class="soft">ε: by how much a value of a pixel may change, of 255. Flagged: share of queries whose '
        "verified matches all stand low in the first ranking; of the clean ones it is a false alarm.</p>\n"
    )
    for attack, drawing in study.plots().items():
        yield f"<h2>{_text(attack)}</h2>\n{drawing}"
    if study.shown:
        yield f"<h2>Some of the queries</h2>\n<p class='soft'>What was altered, {_GAIN} times enlarged.</p>\n"
    for query in dict.fromkeys(each.query for each in study.shown):
        yield from _article([each for each in study.shown if each.query == query])
    facts = "".join(f"<dt>{_text(name)}</dt><dd>{_text(str(value))}</dd>\n" for name, value in study.protocol.items())
    yield f"<h2>Protocol</h2>\n<dl>\n{facts}</dl>\n</main>\n</body>\n</html>\n"


def _tables(markdown: str) -> str:
    """The study's own Markdown tables as HTML."""
    made = []
    for block in markdown.split("\n\n"):
        head, _, *rows = ([_text(cell.strip()) for cell in line.strip("|").split(" | ")] for line in block.splitlines())
        cells = "".join(f'<th scope="col">{cell}</th>' for cell in head)
        body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>\n" for row in rows)
        made.append(f"<table>\n<thead><tr>{cells}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n")
    return "<br>\n".join(made)


def _article(shown: list[Shown]) -> Iterator[str]:
    clean = shown[0]  # of each query the clean one comes first
    yield (
        f'<article>\n<figure class="asked">{_picture(clean.picture, clean.query)}'
        f"<figcaption><h3>{_text(clean.query)}</h3></figcaption></figure>\n<div>\n"
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
            f"{_found(each.result)}<figcaption><b>{_text(name)}</b><br>found first: "
            f"{_text(Path(each.result).name)}</figcaption></figure></li>\n"
        )
    yield "</ol>\n</div>\n</article>\n"


def _found(path: str) -> str:
    try:
        return _picture(read_image_apart(path, max_side=_SIDE).pixels, path)
    except ImageError as error:
        return f'<div class="picture"><p class="gone">{_text(error.reason)}</p></div>'


def _picture(pixels: NDArray[np.uint8], alt: str) -> str:
    image = read_image(pixels, max_side=_SIDE)
    height, width = image.pixels.shape[:2]
    data = base64.b64encode(thumbnail_jpeg(image, _SIDE, quality=95)).decode("ascii")
    return (
        f'<div class="picture"><img src="data:image/jpeg;base64,{data}" width="{width}" height="{height}" '
        f'alt="{_text(alt)}"></div>'
    )


def _text(value: str) -> str:
    return html.escape(value, quote=True)
