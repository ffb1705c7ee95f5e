"""GET /console/static/{digest}/{name}: the scripts, the styles and the picture of the console.

The URL contains a digest of the content, so browsers and proxies keep each file for good.
"""

import asyncio
import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from aiohttp import hdrs, web

from penstock.service.json_answer import TimedAnswer

FOLDER = Path(__file__).parent / "static"
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_DIGEST_LETTERS = 16


@dataclass(frozen=True, slots=True)
class Asset:
    """A file, and the digest of its content."""

    path: Path
    digest: str

    @property
    def content_type(self) -> str:
        return _TYPES[self.path.suffix]


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
        headers[hdrs.CONTENT_ENCODING] = "gzip"
        content = await asyncio.to_thread(_compressed, asset.path)  # the largest file takes a tenth of a second
    else:
        content = await asyncio.to_thread(_read_once, asset.path)
    return TimedAnswer(body=content, headers=headers, content_type=asset.content_type, charset="utf-8")


def _read(path: Path) -> Asset:
    return Asset(path, hashlib.sha256(path.read_bytes()).hexdigest()[:_DIGEST_LETTERS])


# Kept, because anybody may ask for these files without a key, and read them slowly. All answers have the same copy.
@cache
def _read_once(path: Path) -> bytes:
    return path.read_bytes()


@cache
def _compressed(path: Path) -> bytes:
    return gzip.compress(path.read_bytes(), mtime=0)
