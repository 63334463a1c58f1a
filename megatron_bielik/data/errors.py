"""The error of this folder: bad input or a full disk, told in one line that tools print before they leave.

Every message names the file or option, what was found, what was needed and the way out.
"""

from __future__ import annotations

import errno
from pathlib import Path


class DataError(ValueError):
    """Data, options or files that cannot be used; the message is one line for the user."""


_NO_ROOM = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the quota is used up", errno.EFBIG: "file too large"}


def write_error(path: Path, error: OSError) -> DataError:
    """A failed write as one line; a full disk or a file size limit is named as such. Nothing is left under `path`."""
    full = _NO_ROOM.get(error.errno or 0)
    way_out = "make room and run it again" if full else "check the folder and its permissions"
    reason = full or error.strerror or repr(error)
    return DataError(f"cannot write {path}: {reason}; nothing was left under that name, {way_out}")
