"""Turns the URL of an individual request into the path of an operation. Pure."""

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

_SYSTEM = frozenset({"$all", "$crossjoin", "$entity", "$id", "$metadata", "$root"})
_ABSOLUTE = re.compile(r"https?://", re.IGNORECASE)
_KEY = re.compile(r"([^()]+)\((?:\w+=)?('(?:[^']|'')*'|[^'(),=]+)\)")  # such as Orders(5), Users('Ada') or Users(ID=5)


@dataclass(frozen=True, slots=True)
class ServiceRoot:
    """Where clients find the service: the hosts that it has, and what comes in front of the paths of its operations."""

    hosts: frozenset[str]
    prefixes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Target:
    """The path of an operation. With `reference`, it continues the URL of what that request has created or returned."""

    path: str
    reference: str | None = None


def read_url(url: str, root: ServiceRoot) -> Target:
    """Return where a URL leads. Raise ValueError with a sentence if that is not possible here."""
    path = _path_in_service(url, root)
    first, rest = _split_first_segment(path)
    name = unquote(first)
    if not name.startswith("$"):
        return Target(path)
    if name == "$batch":
        raise ValueError("A batch cannot have another batch in it.")
    if name in _SYSTEM:
        raise ValueError(f"The resource {name} is not offered. Use the paths of operations, such as /users.")
    return Target(rest, name.removeprefix("$"))


def with_keys_as_segments(path: str) -> str:
    """Return a path with its keys as segments, which is how handlers have them: /users/5 for /users(5)."""
    plain, mark, query = path.partition("?")
    return "/".join(_key_as_segment(segment) for segment in plain.split("/")) + mark + query


def _path_in_service(url: str, root: ServiceRoot) -> str:
    if "#" in url:
        raise ValueError("The URL has a fragment. Remove it, or write # as %23.")
    if _ABSOLUTE.match(url) or url.startswith("//"):
        return _without_prefix(_path_of_absolute(url, root), root)
    return _without_prefix(url, root) if url.startswith("/") else f"/{url}"


def _path_of_absolute(url: str, root: ServiceRoot) -> str:
    parts = urlsplit(url)
    if parts.netloc.lower() not in root.hosts:
        raise ValueError(f"The URL names another host than this service. Use {' or '.join(sorted(root.hosts))}.")
    path = parts.path or "/"
    return f"{path}?{parts.query}" if parts.query else path


def _without_prefix(path: str, root: ServiceRoot) -> str:
    for prefix in root.prefixes:
        if path.startswith(f"{prefix}/"):
            return path.removeprefix(prefix)
    return path


def _split_first_segment(path: str) -> tuple[str, str]:
    """Split /$1/orders?x=1 into $1 and /orders?x=1."""
    ends = [at for at in (path.find("/", 1), path.find("?", 1)) if at > 0]
    end = min(ends, default=len(path))
    return path[1:end], path[end:]


def _key_as_segment(segment: str) -> str:
    match = _KEY.fullmatch(segment)
    if match is None:
        return segment
    name, key = match.groups()
    return f"{name}/{key[1:-1].replace(chr(39) * 2, chr(39)) if key.startswith(chr(39)) else key}"
