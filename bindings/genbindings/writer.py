# SPDX-License-Identifier: GPL-2.0-or-later
"""Output files: written whole or not at all, and only where their content changes."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from genbindings.errors import Error


def write(path: Path, text: str) -> bool:
    """Write ``text`` to ``path`` if it differs from what is there; return whether it was written.

    Raises:
        Error: the file cannot be written; what was there is untouched.
    """
    content = text.encode()
    temporary = ""
    try:
        if path.is_file() and path.read_bytes() == content:
            return False
        if path.exists() and not path.is_file():
            # A device or a pipe cannot be replaced by renaming.
            path.write_bytes(content)
            return True
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        Path(temporary).chmod(path.stat().st_mode & 0o7777 if path.exists() else 0o666 & ~_umask())
        Path(temporary).replace(path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise Error(f"cannot write {path}: {error.strerror}") from None
    return True


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
