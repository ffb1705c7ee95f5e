"""The URLs of the files of completed exports.

To sign one takes almost a millisecond, and an export may have 2,000 files. So the URLs are kept for a few minutes.
"""

from dataclasses import dataclass

from aiohttp import web

from penstock.export import Export
from penstock.latest import Latest
from penstock.service.keys import BACKEND, CLOCK, TURNS

URL_SECONDS = 3_600
KEPT_SECONDS = 600
MOST_KEPT = 4  # exports, whose URLs take up to 1.5 MB each
SIGNED_IN_TURN = 10


@dataclass(frozen=True, slots=True)
class SignedUrls:
    """URLs by the keys of their files."""

    urls: dict[str, str]
    signed_at: float

    @property
    def expire_at(self) -> float:
        return self.signed_at + URL_SECONDS


class ExportUrls:
    def __init__(self, app: web.Application) -> None:
        self._app = app
        self._kept = Latest[tuple[str, str, str], SignedUrls](MOST_KEPT)

    async def of(self, export: Export) -> SignedUrls:
        key, now = (export.batch_id, export.id, export.revision), self._app[CLOCK].now()
        signed = self._kept.get(key)
        if signed is None or now - signed.signed_at >= KEPT_SECONDS:
            signed = SignedUrls(await self._sign(export), now)
        return self._kept.put(key, signed)

    async def _sign(self, export: Export) -> dict[str, str]:
        bucket, urls = self._app[BACKEND].require_bucket(), dict[str, str]()
        for number, key in enumerate([export.manifest_key, *(part.key for part in export.parts)]):
            if number % SIGNED_IN_TURN == 0:
                await self._app[TURNS].next()
            name = f"{export.batch_id}-{key.rpartition('/')[2]}"
            urls[key] = await bucket.offer_download(key, name, URL_SECONDS)
        return urls


EXPORT_URLS = web.AppKey("export_urls", ExportUrls)
