"""The cookie in which a browser keeps the key of a person who uses the console.

Scripts cannot read it, other sites cannot let a browser send it, and browsers send it to the console only.
"""

from aiohttp import web

from penstock.api_key import DAY_SECONDS
from penstock.service.base_url import BASE, root_path

NAME = "penstock_key"
PATH = "/console"
KEPT_SECONDS = 7 * DAY_SECONDS


def key_in(request: web.Request) -> str | None:
    return request.cookies.get(NAME) or None


def is_sent_to(path: str) -> bool:
    """Return True if browsers send the cookie to this path of the program."""
    return path == PATH or path.startswith(f"{PATH}/")


def keep_key(request: web.Request, answer: web.Response, key: str) -> None:
    """Let the browser keep a key."""
    answer.set_cookie(
        NAME,
        key,
        max_age=KEPT_SECONDS,
        path=root_path() + PATH,
        secure=_is_encrypted(request),
        httponly=True,
        samesite="Strict",
    )


def forget_key(request: web.Request, answer: web.Response) -> None:
    answer.del_cookie(NAME, path=root_path() + PATH, secure=_is_encrypted(request), httponly=True, samesite="Strict")


def _is_encrypted(request: web.Request) -> bool:
    """Return True if the browser used HTTPS. A load balancer usually decrypts, and says so in a header."""
    given = request.headers.get("X-Forwarded-Proto", "").partition(",")[0]
    return request.secure or given.strip().lower() == "https" or BASE.get().startswith("https:")
