"""Finding a finished fit in an output."""

from __future__ import annotations

from ecif.errors import UsageError
from ecif.layout import META, Layout
from ecif.storage import Storage


def find_fit(url: str, storage: Storage) -> tuple[Layout, str]:
    """Layout and key of the fit that `--extend` names: an output, or a fit inside one.

    Raises:
        UsageError: there is none, or there are several.
    """
    root, _, rest = url.rstrip("/").partition(f"/{META}/fit/")
    layout = Layout(root)
    marks = [info.url for info in storage.list(layout.fits(), "/meta.json")]
    keys = [mark.split("/")[-2] for mark in marks]
    if rest:
        keys = [key for key in keys if key == rest]
    if not keys:
        raise UsageError(f"--extend {url}: there is no finished fit")
    if len(keys) > 1:
        names = ", ".join(sorted(keys))
        raise UsageError(f"--extend {url}: it holds several fits; name one as {root}/{META}/fit/KEY, of {names}")
    return layout, keys[0]
