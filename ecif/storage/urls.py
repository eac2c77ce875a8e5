"""Which URLs are accepted, and how they are compared.

One spelling per file: `normalise` makes local paths absolute and resolves `.` and `..` everywhere, before
anything is compared or opened, so that an allow-listed prefix cannot be left by `..` and the same file cannot
be named twice. The price: object keys that hold a literal `..` segment cannot be reached.
"""

from __future__ import annotations

import os
import re
from urllib.parse import unquote

from ecif.errors import UsageError

OBJECT_STORES = frozenset({"s3", "gs", "az", "abfs"})
READ_ONLY = frozenset({"http", "https"})
SCHEMES = OBJECT_STORES | READ_ONLY | {"file", "memory"}

# Two letters at least; a local name such as `a:b` can be written `./a:b`.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]+):")


def scheme_of(url: str) -> str:
    """The lower-case scheme; `file` for a plain path. Not checked against the accepted ones."""
    match = _SCHEME.match(url)
    return match.group(1).lower() if match else "file"


def is_remote(url: str) -> bool:
    """Whether `url` is anything but a path of this machine's file system."""
    return scheme_of(url) != "file"


def normalise(url: str) -> str:
    """The one spelling of `url`: an absolute path, or `scheme://authority/path`, without a trailing slash.

    Raises:
        UsageError: a scheme that is not accepted, `pipe:`, fsspec chaining (`::`), `..` above the root,
            or a user name in the URL.
    """
    if not url or "\0" in url:
        raise UsageError(f"{url!r} is not a path or URL")
    if "::" in url:
        raise UsageError(f"{url!r}: chained URLs ('::') are not opened; give each source by itself")
    scheme = scheme_of(url)
    if scheme not in SCHEMES:
        known = ", ".join(sorted(SCHEMES))
        hint = f"; a local file of that name is written './{url}'" if "//" not in url else ""
        raise UsageError(f"{url!r}: scheme {scheme!r} is refused, only {known} and plain paths are accepted{hint}")
    if scheme == "file":
        return os.path.abspath(_plain(url))
    rest = url[len(scheme) + 1 :]
    if not rest.startswith("//"):
        raise UsageError(f"{url!r}: write {scheme}://... with two slashes")
    authority, _, path = rest[2:].partition("/")
    if scheme == "memory":  # it has no authority: memory:///a and memory://a are the same file
        authority, path = "", f"{authority}/{path}".strip("/")
        return "memory://" + "/".join(_resolve(path, url)).lstrip("/")
    if scheme in READ_ONLY:
        authority = authority.lower()
    if not authority or authority in (".", ".."):
        raise UsageError(f"{url!r}: the bucket or host is missing")
    if "@" in authority and scheme != "abfs":
        shown = f"{scheme}://***@{authority.rpartition('@')[2]}/{path}"
        raise UsageError(f"{shown}: no user names or passwords in URLs; use --storage-options or the environment")
    return "/".join((f"{scheme}://{authority}", *_resolve(path, url, decode=scheme in READ_ONLY)))


def _plain(url: str) -> str:
    if not url.lower().startswith("file:"):
        return url
    path = url[len("file:") :]
    if path.startswith("//"):
        path = path[2:].removeprefix("localhost")
        if not path.startswith("/"):
            raise UsageError(f"{url!r}: file:// is followed by an absolute path (three slashes)")
    return path


def _resolve(path: str, url: str, decode: bool = False) -> list[str]:
    # Empty segments inside are kept: `a//b` is an object key of its own.
    out: list[str] = []
    for segment in path.rstrip("/").split("/") if path.rstrip("/") else []:
        plain = unquote(segment) if decode else segment
        if plain != segment and not {".", ".."}.isdisjoint(re.split(r"[/\\]", plain)):
            raise UsageError(f"{url!r}: encoded '.' and '..' are refused")
        if segment == "..":
            if not out:
                raise UsageError(f"{url!r}: '..' leads above the bucket or host")
            out.pop()
        elif segment != ".":
            out.append(segment)
    while out and not out[-1]:  # what stood behind it was resolved away
        out.pop()
    return out


def join(root: str, *parts: str) -> str:
    """`root` and `parts` with exactly one slash between them."""
    head = root if root.endswith("://") else root.rstrip("/") + "/"
    return head + "/".join(part.strip("/") for part in parts)


def folder_of(url: str) -> str:
    """The directory of a normalised URL."""
    if not is_remote(url):
        return os.path.dirname(url)
    scheme, _, path = url.partition("://")
    return f"{scheme}://{path.rpartition('/')[0]}"


def is_inside(url: str, root: str) -> bool:
    """Whether `url` is `root` or lies below it. Local paths are compared with symbolic links resolved.

    Raises:
        UsageError: one of them is not an accepted URL.
    """
    return _below(resolved(url), resolved(root))


def resolved(url: str) -> str:
    """`normalise`, and local symbolic links followed: what comparisons are made on."""
    normal = normalise(url)
    return normal if is_remote(normal) else os.path.realpath(normal)


def _below(url: str, root: str) -> bool:
    # The slash at the end keeps s3://b/raw from admitting s3://b/raw-private.
    return url == root or url.startswith(root if root.endswith("/") else root + "/")


def is_allowed(url: str, roots: tuple[str, ...]) -> bool:
    """Whether `url` lies below one of `roots`, which `resolved` returned."""
    place = resolved(url)
    return any(_below(place, root) for root in roots)
