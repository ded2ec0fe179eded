# SPDX-License-Identifier: GPL-2.0-or-later
"""Headers that others leave it to their users to include, by what they declare.

Only names whose home is the same on every architecture are here: a guess would be a wrong number.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from genbindings.errors import Error

if TYPE_CHECKING:
    from collections.abc import Collection

    from genbindings.compiler import Diagnostic

_HOMES = tuple(
    (re.compile(f"(?:{pattern})$"), header)
    for pattern, header in (
        (r"O_[A-Z]+|F_[A-Z_]+", "asm/fcntl.h"),
        (r"u?int(8|16|32|64)_t|uintptr_t", "stdint.h"),
        (r"bool|true|false", "stdbool.h"),
        (r"U?(CHAR|SHRT|INT|LONG|LLONG)_(MAX|MIN)", "limits.h"),
        (r"(PATH|NAME|ARG|PIPE)_(MAX|BUF)", "linux/limits.h"),
        (r"SIOC(DEV|PROTO)PRIVATE", "linux/sockios.h"),
        (r"FIO[A-Z]+|TIOC[A-Z]+", "asm/ioctls.h"),
        (r"_IO[CRW]*(_[A-Z]+)?", "linux/ioctl.h"),
        (r"IFNAMSIZ|IFALIASZ", "linux/if.h"),
        (r"USB_(DIR|TYPE|RECIP)_[A-Z]+", "linux/usb/ch9.h"),
        (r"HZ", "asm/param.h"),
        (r"NLA_[A-Z_]+|NLMSG_[A-Z_]+", "linux/netlink.h"),
        (r"RTNH_[A-Z_]+|RTM_[A-Z_]+", "linux/rtnetlink.h"),
        (r"NF_[A-Z_]+", "linux/netfilter.h"),
        (r"V4L2_[A-Z0-9_]+|BASE_VIDIOC_PRIVATE", "linux/videodev2.h"),
        (r"FS_IOC_[A-Z]+|BLOCK_SIZE", "linux/fs.h"),
        (r"E[A-Z0-9]{2,}", "linux/errno.h"),
    )
)
_NAME = re.compile(
    r"(?:unknown type name|use of undeclared identifier|implicit declaration of function)? ?"
    r"'(?:struct )?(\w+)'(?: undeclared)?"
)


class MissingNameError(Error):
    """The header uses a name that ``home``, a header in angle brackets, declares."""

    def __init__(self, name: str, home: str, where: str) -> None:
        super().__init__(f"{where}: {name} is undeclared, and <{home}>, its home, does not help")
        self.name = name
        self.home = home


def undeclared(diagnostic: Diagnostic) -> str | None:
    """Return the name that nothing declares, if that is what ``diagnostic`` is about."""
    about = ("undeclared", "unknown type name", "implicit declaration")
    if not any(words in diagnostic.message for words in about):
        return None
    name = _NAME.search(diagnostic.message)
    return name[1] if name else None


def home(name: str, included: Collection[str]) -> str | None:
    """Return the header that declares ``name``, unless it is unknown or among ``included``."""
    for pattern, header in _HOMES:
        if pattern.match(name):
            return header if header not in included else None
    return None
