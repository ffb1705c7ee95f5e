"""GET /console/static/{digest}/{name}: the scripts, the styles and the picture of the console.

The URL contains a digest of the content, so browsers and proxies keep each file for good.
"""

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from aiohttp import hdrs, web

FOLDER = Path(__file__).parent / "static"
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_DIGEST_LETTERS = 16


@dataclass(frozen=True, slots=True)
class Asset:
    """A file as it is sent."""

    digest: str
    content_type: str
    compressed: bytes


@cache
def assets() -> dict[str, Asset]:
    """Return all files by their names."""
    return {path.name: _read(path) for path in FOLDER.rglob("*") if path.suffix in _TYPES}


def url_of(name: str) -> str:
    return f"/console/static/{assets()[name].digest}/{name}"


async def static(request: web.Request) -> web.Response:
    asset = assets().get(request.match_info["name"])
    if asset is None or asset.digest != request.match_info["digest"]:
        raise web.HTTPNotFound
    headers = {hdrs.CACHE_CONTROL: "public, max-age=31536000, immutable", hdrs.VARY: hdrs.ACCEPT_ENCODING}
    if "gzip" in request.headers.get(hdrs.ACCEPT_ENCODING, ""):
        content, headers[hdrs.CONTENT_ENCODING] = asset.compressed, "gzip"
    else:
        content = gzip.decompress(asset.compressed)
    return web.Response(body=content, headers=headers, content_type=asset.content_type, charset="utf-8")


def _read(path: Path) -> Asset:
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()[:_DIGEST_LETTERS]
    return Asset(digest, _TYPES[path.suffix], gzip.compress(content, mtime=0))
