"""An export as JSON: for clients, with URLs to download its files, and as the manifest beside the files. Pure."""

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


def export_body(export: Export, urls: list[str], manifest_url: str | None, urls_expire_at: float) -> dict[str, Any]:
    """Return the export for its client. `urls` are those of the finished parts."""
    manifest = manifest_of(export)
    parts = [
        {"name": part["key"].rpartition("/")[2], **part, "url": url}
        for part, url in zip(manifest["parts"], urls, strict=True)
    ]
    return {
        **manifest,
        "status": export.state,
        "total": export.total,
        "error": None if export.error is None else {"title": "Export failed", "detail": export.error},
        "url": export_url(export),
        "parts": [{name: value for name, value in part.items() if name != "key"} for part in parts],
        "manifestUrl": manifest_url,
        "urlsExpireAt": time_text(urls_expire_at),
    }
