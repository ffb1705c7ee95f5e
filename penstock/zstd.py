"""The zstd module: the one in the standard library from Python 3.14 on, and its backport before that."""

import sys

_LARGEST_WINDOW_LOG = 23
LARGEST_WINDOW_BYTES = 2**_LARGEST_WINDOW_LOG  # the most that Content-Encoding: zstd may ask for (RFC 9659)

if sys.version_info >= (3, 14):
    from compression.zstd import (
        CompressionParameter,
        DecompressionParameter,
        ZstdCompressor,
        ZstdDecompressor,
        ZstdError,
        compress,
        decompress,
    )
else:
    from backports.zstd import (
        CompressionParameter,
        DecompressionParameter,
        ZstdCompressor,
        ZstdDecompressor,
        ZstdError,
        compress,
        decompress,
    )


def content_decompressor() -> ZstdDecompressor:
    """Return a decompressor for one frame of an HTTP body. A frame that asks for a larger window is a ZstdError."""
    return ZstdDecompressor(options={DecompressionParameter.window_log_max: _LARGEST_WINDOW_LOG})


__all__ = [
    "LARGEST_WINDOW_BYTES",
    "CompressionParameter",
    "DecompressionParameter",
    "ZstdCompressor",
    "ZstdDecompressor",
    "ZstdError",
    "compress",
    "content_decompressor",
    "decompress",
]
