"""What decoders, and those who unpack archives, do with damaged bytes."""

import struct
import zlib

import PIL.Image

DECODER_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    LookupError,
    TypeError,
    RuntimeError,
    AssertionError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    struct.error,
    zlib.error,
    PIL.Image.DecompressionBombError,
)
"""What Pillow's decoders raise on damaged input. They validate late, hence TypeError, LookupError and the like."""


def unforeseen(error: Exception) -> str:
    """The reason of a file that made its reader raise what nothing here expects: it must not cost the others."""
    said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return f"its reader failed in an unforeseen way; please report it ({said})"
