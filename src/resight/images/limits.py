"""What one picture may cost, checked against its header and file size before anything is decoded."""

from dataclasses import dataclass

from resight.errors import ImageError


@dataclass(frozen=True)
class Limits:
    """Bounds on one encoded picture.

    pixels: width × height in the header; the default admits a 200-megapixel phone photo. Decoding takes 4 bytes a
        pixel (JPEG; far less where it is reduced) to 16 (WebP), so 1 to 3 GB; ``resight.processes.MEMORY`` ends it.
    bytes: length of the encoded file, also of a member that is read out of an archive.

    There is no bound on frames: of an animation or a multi-page file only the first frame is ever decoded.
    """

    pixels: int = 200_000_000
    bytes: int = 512 * 1024**2

    def check_pixels(self, width: int, height: int) -> None:
        """Raise ImageError where the header promises no pixels or too many."""
        if width < 1 or height < 1:
            raise ImageError(f"the image has no pixels ({width}×{height})")
        if width * height > self.pixels:
            raise ImageError(
                f"{width}×{height} pixels are more than the limit of {self.pixels:,}; "
                "save it smaller or raise the pixel limit"
            )

    def check_bytes(self, length: int) -> None:
        """Raise ImageError where an encoded picture is empty or too long."""
        if length == 0:
            raise ImageError("the file is empty")
        if length > self.bytes:
            raise ImageError(
                f"{length:,} bytes are more than the limit of {self.bytes:,}; save it smaller or raise the byte limit"
            )
