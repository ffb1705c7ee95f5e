"""An export as JSON: for clients, with URLs to download its files, and as the manifest beside the files. Pure."""

from collections.abc import Mapping
from typing import Any

from penstock.export import Export
from penstock.service.base_url import public_url
from penstock.service.schemas import time_text


def export_url(export: Export) -> str:
    return public_url(f"/batch/{export.batch_id}/exports/{export.id}")


def manifest_of(export: Export) -> dict[str, Any]:
    """Return what stands in the file `manifest.json`: like the export for clients, with the keys of the files."""
    return {
        "batchId": export.batch_id,
        "exportId": export.id,
        "format": export.format,
        "compression": export.compression,
        "outcomes": export.status,
        "rows": export.rows,
        "bytes": export.bytes,
        "createdAt": time_text(export.created_at),
        "expiresAt": time_text(export.expires_at),
        "parts": [
            {"key": part.key, "rows": part.rows, "bytes": part.bytes, "sha256": part.sha256} for part in export.parts
        ],
    }


def export_body(export: Export, urls: Mapping[str, str], urls_expire_at: float | None) -> dict[str, Any]:
    """Return the export for its client. `urls` has those of its files by their keys. It is empty while it is made."""
    manifest = manifest_of(export)
    parts = [{"name": part["key"].rpartition("/")[2], **part} for part in manifest["parts"]]
    return {
        **manifest,
        "status": export.state,
        "total": export.total,
        "error": None if export.error is None else {"title": "Export failed", "detail": export.error},
        "url": export_url(export),
        "parts": [_with_url(part, urls) for part in parts],
        "manifestUrl": urls.get(export.manifest_key),
        "urlsExpireAt": None if urls_expire_at is None else time_text(urls_expire_at),
    }


def _with_url(part: dict[str, Any], urls: Mapping[str, str]) -> dict[str, Any]:
    """Return a part with its URL instead of its key. A URL takes time to make, so an export that runs has none."""
    key = part.pop("key")
    return part | ({"url": urls[key]} if key in urls else {})
