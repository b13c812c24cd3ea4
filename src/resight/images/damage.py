"""What decoders do with damaged bytes."""

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
    OverflowError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
    PIL.Image.DecompressionBombError,
)
"""What Pillow's decoders raise on damaged input. They validate late, hence TypeError and LookupError."""
