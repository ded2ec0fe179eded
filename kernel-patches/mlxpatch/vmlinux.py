# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel inside a bootable image, for its BTF: what a module's own BTF is built on.

A bzImage says where its compressed payload is (Documentation/arch/x86/boot.rst, payload_offset and
payload_length); the payload is the stripped vmlinux, whose .BTF section survives stripping. The
headers of Debian's 6.1 come without a vmlinux, so that their build system makes no module BTF.
"""

from __future__ import annotations

import bz2
import lzma
import shutil
import struct
import subprocess
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from genbindings.errors import Error
from mlxpatch import cache

if TYPE_CHECKING:
    from collections.abc import Sequence

# Beside the headers' own files. Not `vmlinux`: the kernel's build system would want tools to go
# with it that the headers do not have.
NAME = "vmlinux.btf"

_SECTORS = 0x1F1
_MAGIC, _PAYLOAD = 0x202, 0x248
_SECTOR_BYTES = 512
_TOOLS = {b"\x28\xb5\x2f\xfd": "zstd", b"\x02\x21\x4c\x18": "lz4", b"\x89LZO": "lzop"}


def extract(image: Path) -> bytes:
    """Return the vmlinux, an ELF file, inside the bzImage ``image``.

    Raises:
        Error: it is no bzImage, or is compressed in a way that nothing here can undo.
    """
    data = image.read_bytes()
    if data[_MAGIC : _MAGIC + 4] != b"HdrS":
        raise Error(f"{image} is not a bzImage")
    offset, length = struct.unpack_from("<II", data, _PAYLOAD)
    start = (data[_SECTORS] or 4) * _SECTOR_BYTES + _SECTOR_BYTES + offset
    payload = data[start : start + length]
    try:
        vmlinux = _decompressed(payload)
    except (OSError, EOFError, zlib.error, lzma.LZMAError, subprocess.CalledProcessError) as error:
        raise Error(f"{image}: its kernel cannot be decompressed: {error}") from None
    if not vmlinux.startswith(b"\x7fELF"):
        raise Error(f"{image}: what is compressed in it is no ELF file")
    return vmlinux


def _decompressed(payload: bytes) -> bytes:
    # The last 4 bytes of the payload are the size of what it holds, which no decompressor knows.
    if payload.startswith(b"\xfd7zXZ"):
        return lzma.LZMADecompressor().decompress(payload)
    if payload.startswith(b"\x1f\x8b"):
        return zlib.decompressobj(wbits=31).decompress(payload)
    if payload.startswith(b"BZh"):
        return bz2.BZ2Decompressor().decompress(payload)
    tool = _TOOLS.get(payload[:4])
    if tool is None or shutil.which(tool) is None:
        raise OSError(f"{tool} is missing" if tool else "unknown compression")
    done = subprocess.run([tool, "-dc"], input=payload[:-4], capture_output=True, check=True)
    return done.stdout


def keep_btf(image: Path, target: Path) -> None:
    """Write the BTF of the kernel in ``image`` to ``target``, an ELF file with little else.

    Raises:
        Error: see :func:`extract`; or it has no BTF, or objcopy is missing.
    """
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "vmlinux"
        whole.write_bytes(extract(image))
        _run(["objcopy", "--only-section=.BTF", str(whole), str(target)])


def add_btf(modules: Sequence[Path], base: Path) -> None:
    """Add BTF, on top of that in ``base``, to ``modules``, from their DWARF.

    Raises:
        Error: pahole failed.
    """
    for module in modules:
        # The flags of scripts/pahole-flags.sh that matter for a module's structs.
        _run(["pahole", "-J", "--btf_gen_floats", "--btf_base", str(base), str(module)])


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        raise Error(f"{command[0]} is missing") from None
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        raise Error(f"{command[0]} failed: {said[-1] if said else done.returncode}")


def provide(image: Path, headers: Path) -> None:
    """See to it that ``headers`` have their kernel's BTF, if ``image`` has any to give.

    That it cannot be had is no error: modules then carry DWARF only.
    """
    target = headers / NAME
    if (headers / "vmlinux").exists() or target.exists() or not image.exists():
        return
    partial = target.with_name(f".{NAME}.new")
    try:
        keep_btf(image, partial)
        with cache.writing(target):
            partial.replace(target)
    except Error:
        # Remembered by an empty file.
        partial.unlink(missing_ok=True)
        with cache.writing(target):
            target.touch()
