"""URLs: which text is one, what is shown and stored of it, and what it is called."""

import os
import posixpath
import re
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

#: pathlib turns `s3://bucket/x` into `s3:/bucket/x`, so a `Path` of a URL has one slash. Drives have one letter.
_URL = re.compile(r"([a-z][a-z0-9+.-]+):(//)?(.*)", re.IGNORECASE | re.DOTALL)

_USER = re.compile(r"(?<=://)[^/?#\s]*@")
_QUERY = re.compile(r"(\w://[^\s?'\"]*)\?([^\s#'\"]*)")

#: Names of what signs a request or is a password; the last two lines are the fields of Azure's signatures.
_SECRET = re.compile(
    r"x-(amz|goog|oss|ms)-.*|.*(signature|token|secret|passw|pwd|sign|h?mac|session|credential|accesskey|api_?key|jwt).*|auth.*|expires|policy"
    r"|(.*[-_])?key([-_].*)?|sig|s[eiprtvs]|s[pr]r|srt|sip|sk\w+",
    re.IGNORECASE,
)


def find_url(path: str | os.PathLike[str]) -> str:
    """Return the URL that a path spells; empty for a local path, and for a `file:` URL, which is one (`find_path`)."""
    url = spell_url(path)
    return "" if url.startswith("file:") else url


def spell_url(path: str | os.PathLike[str]) -> str:
    """Return the URL that a path spells, `file:` URLs among them; empty for a local path."""
    found = _URL.fullmatch(os.fspath(path))
    if isinstance(path, str):
        return f"{found[1].lower()}://{found[3]}" if found and found[2] else ""
    if not found or not re.match(r"[/\\]", found[3]):
        return ""
    scheme, rest = found[1].lower(), path.as_posix() if isinstance(path, Path) else os.fspath(path)
    rest = rest[len(scheme) + 1 :].lstrip("/")
    return f"{scheme}://{'/' if scheme == 'file' else ''}{rest}"


def find_writable_url(path: str | os.PathLike[str]) -> str:
    """Return the URL that a path spells, `file:` URLs among them; empty if files cannot be written to it."""
    url = spell_url(path)
    return "" if url.startswith(("http:", "https:")) else url


def find_path(path: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """Return the local path of a `file:` URL, and anything else as it is."""
    url = spell_url(path)
    return url2pathname(urlsplit(url).path) if url.startswith("file:") else path


def hide_secrets(text: str) -> str:
    """Return a text in which URLs have no user, no password and no signature."""
    return _QUERY.sub(_clean_query, _USER.sub("", text))


def _clean_query(found: re.Match[str]) -> str:
    kept = [part for part in found[2].split("&") if not _SECRET.fullmatch(part.partition("=")[0])]
    return f"{found[1]}?{'&'.join(kept)}" if kept else found[1]


def name_file(url: str) -> str:
    """Return the last part of a URL's path, without its query."""
    return url.partition("://")[2].partition("?")[0].rstrip("/").rpartition("/")[2]


def find_parent(path: str | os.PathLike[str]) -> str:
    """Return the folder, or the URL without a query, that a file is in."""
    url = find_url(path)
    return url.partition("?")[0].rpartition("/")[0] if url else str(Path(find_path(path)).parent)


def make_remote_id(path: str, base: str) -> str:
    """Return the id of an item at a URL: relative to the base if it lies below that, otherwise the URL without secrets.

    Args:
        path: A URL, or a path relative to the base.
        base: A URL.
    """
    start = hide_secrets(base).rstrip("/") + "/"
    scheme, _, rest = start.partition("://")
    url = hide_secrets(find_url(path)) or f"{scheme}://{posixpath.normpath(rest + path)}"
    return url.removeprefix(start)
