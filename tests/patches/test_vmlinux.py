# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel inside a bootable image, and the BTF that modules get from it."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest

from genbindings.errors import Error
from mlxpatch import vmlinux

if TYPE_CHECKING:
    from pathlib import Path

_ELF = b"\x7fELF" + bytes(5000)


def image(folder: Path, payload: bytes, size: int = len(_ELF), magic: bytes = b"HdrS") -> Path:
    """Return a bzImage with 3 setup sectors whose payload is ``payload`` and the size of it."""
    setup = bytearray(4 * 512)
    setup[0x1F1] = 3
    setup[0x202:0x206] = magic
    struct.pack_into("<II", setup, 0x248, 100, len(payload) + 4)
    path = folder / "vmlinuz"
    path.write_bytes(bytes(setup) + bytes(100) + payload + struct.pack("<I", size) + b"tail")
    return path


@pytest.mark.parametrize(
    "compress", [lzma.compress, gzip.compress, bz2.compress], ids=["xz", "gzip", "bzip2"]
)
def test_the_kernel_is_found_in_its_image(tmp_path: Path, compress) -> None:  # type: ignore[no-untyped-def]
    assert vmlinux.extract(image(tmp_path, compress(_ELF))) == _ELF


def test_a_tool_decompresses_what_python_cannot(tmp_path: Path) -> None:
    if shutil.which("zstd") is None:
        with pytest.raises(Error, match="zstd is missing"):
            vmlinux.extract(image(tmp_path, b"\x28\xb5\x2f\xfd" + bytes(10)))
        return
    done = subprocess.run(["zstd", "-c"], input=_ELF, capture_output=True, check=True)
    assert vmlinux.extract(image(tmp_path, done.stdout)) == _ELF


@pytest.mark.parametrize(
    ("payload", "magic", "words"),
    [
        (lzma.compress(_ELF), b"none", "not a bzImage"),
        (b"\xfd7zXZ" + bytes(50), b"HdrS", "cannot be decompressed"),
        (gzip.compress(b"text", mtime=0), b"HdrS", "no ELF file"),
        (b"????", b"HdrS", "unknown compression"),
    ],
)
def test_what_is_no_image_is_said(tmp_path: Path, payload: bytes, magic: bytes, words: str) -> None:
    with pytest.raises(Error, match=words):
        vmlinux.extract(image(tmp_path, payload, magic=magic))


def test_headers_without_a_vmlinux_stay_as_they_are(tmp_path: Path) -> None:
    vmlinux.provide(image(tmp_path, b"????"), tmp_path)
    assert (tmp_path / vmlinux.NAME).read_bytes() == b""
    before = (tmp_path / vmlinux.NAME).stat().st_mtime_ns
    vmlinux.provide(tmp_path / "not even there", tmp_path)
    assert (tmp_path / vmlinux.NAME).stat().st_mtime_ns == before
