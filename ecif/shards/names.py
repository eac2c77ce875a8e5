"""WebDataset's rule for member names: which sample a member belongs to.

The rule is the one of `webdataset.tariterators` (1.0), taken over to the letter, oddities included: a shard has to
hold the same samples here as in the loaders that train on it.
"""

from __future__ import annotations

import re

_NAME = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
_METADATA = re.compile(r"__[^/]*__($|/)")


def split(name: str) -> tuple[str, str] | None:
    """Key and extension of a regular member's name, or None when it belongs to no sample.

    The key is all up to the first dot of the basename, directories included; the extension is the rest, in lower
    case. Names without a dot and metadata (`__*__`, at the top or as the first directory) belong to no sample.
    """
    if name.startswith("__") and (_METADATA.match(name) or ("/" not in name and name.endswith("__"))):
        return None
    match = _NAME.match(name)
    return (match.group(1), match.group(2).lower()) if match else None
