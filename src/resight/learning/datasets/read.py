"""What photos show, read where a file that breaks its decoder does not end the training."""

from resight.errors import ImageError, QueryError, ResightError
from resight.geometry.parts import read_part
from resight.images.apart import SECONDS, own_apart
from resight.images.image import Image
from resight.learning.datasets.photos import Photo


def read_photo(photo: Photo, max_side: int, *, processes: int = 1) -> Image:
    """A photo, or its box, with a longest side of at most ``max_side``; its size is that of the photo or of the box.

    processes: this many threads of this program read at the same time, each in a process of its own.
    Raises ResightError, naming the file, where it cannot be read or the box leaves it.
    """
    try:
        image, _, _ = own_apart(processes).run(SECONDS, read_part, str(photo.path), photo.box, max_side, max_side)
    except ImageError as error:
        raise ResightError(f"{photo.path}: {error.reason}") from error
    except QueryError as error:
        raise ResightError(str(error)) from error
    return image
