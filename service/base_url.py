"""What comes in front of the paths of this program in the URLs of an answer. `public_urls.py` decides it."""

from contextvars import ContextVar
from urllib.parse import urlsplit

BASE: ContextVar[str] = ContextVar("BASE", default="")  # such as https://api.example/bulk, /bulk, or nothing


def public_url(path: str) -> str:
    """Return the URL of a path of this program, for the client that is being answered."""
    return f"{BASE.get()}{path}"


def root_path() -> str:
    """Return what comes in front of a path on the same server, such as /bulk. Pages link to each other with it."""
    return urlsplit(BASE.get()).path
