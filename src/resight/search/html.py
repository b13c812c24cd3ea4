"""What the pages that resight writes are made of: each is one HTML file that needs nothing else."""

import base64
import html
from collections.abc import Iterable, Sequence
from importlib import resources

from resight.images.image import Image
from resight.images.read import thumbnail_jpeg


def escape(text: str) -> str:
    """`text` for HTML, in attributes too."""
    return html.escape(text, quote=True)


def head(title: str, package: str, more: str = "") -> str:
    """A page up to its body, which may load nothing and run nothing; its style is ``page.css`` of a package, and more.

    title: as it is to be read.
    """
    css = resources.files(package).joinpath("page.css").read_text("utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)} – resight</title>\n<style>\n{css}{more}</style>\n</head>\n<body>\n"
    )


def table(rows: Sequence[Sequence[str]], label: str) -> str:
    """A table whose first row is its head, and each other row's first cell that row's."""
    top, *rest = rows
    cells = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in top)
    body = ""
    for name, *figures in rest:
        values = "".join(f"<td>{escape(figure)}</td>" for figure in figures)
        body += f'<tr><th scope="row">{escape(name)}</th>{values}</tr>\n'
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table>\n'
        f"<thead><tr>{cells}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>\n"
    )


def pairs(facts: Iterable[Sequence[str]]) -> str:
    """Names and what is said of them."""
    return f"<dl>\n{''.join(f'<dt>{escape(name)}</dt><dd>{escape(value)}</dd>' for name, value in facts)}\n</dl>\n"


def picture(image: Image, side: int, alt: str, *, quality: int = 80, over: str = "") -> str:
    """A picture no longer than ``side`` pixels, in the page itself. over: HTML that lies on it."""
    height, width = image.pixels.shape[:2]
    data = base64.b64encode(thumbnail_jpeg(image, side, quality=quality)).decode("ascii")
    return (
        f'<div class="picture"><img src="data:image/jpeg;base64,{data}" width="{width}" height="{height}" '
        f'alt="{escape(alt)}">{over}</div>'
    )


def gone(reason: str) -> str:
    """In place of a picture that cannot be read."""
    return f'<div class="picture"><p class="gone">{escape(reason)}</p></div>'
