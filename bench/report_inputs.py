# SPDX-License-Identifier: GPL-2.0-or-later
"""The same events three times: as a recording, as a CTF 1.8 trace, and as a trace.dat of version 6.

An event is a read() or write() of a migration stream as the tracer tells it: the totals of calls,
bytes, time and ends so far (80 bytes), with its time, device, task and kind. No kernel is needed:
the peers' files are laid out by hand, as their specifications have it.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from mlxtrace import output, records
from mlxtrace.counters import Counters
from mlxtrace.recording import Writer

if TYPE_CHECKING:
    from pathlib import Path

VDEVS = {0xFFFF_8881_0000_1000: "0000:3b:00.2", 0xFFFF_8881_0000_9000: "0000:3b:00.3"}
FIELDS = (
    "calls", "bytes", "busy_ns", "first_ns", "last_ns", "temporary", "final", "again", "errors",
    "last_error",
)  # fmt: skip
START_NS = 1_000_000_000_000
PID, TID, COMM = 8123, 8124, b"qemu-kvm"
_BLOCK = 8192
_PAGE = 4096


def events(first: int, count: int) -> np.ndarray:
    """Return events ``first`` on as u64s: time, device, kind and the ten totals.

    One VF is read, another one written, in turn, with a temporary end in a hundred calls.
    """
    number = np.arange(first, first + count, dtype=np.uint64)
    odd = number & np.uint64(1)
    now = START_NS + 2000 * number
    half = number // 2 + 1
    source, target = VDEVS
    vdev = np.where(odd, np.uint64(target), np.uint64(source))
    kind = records.Kind.READ + odd * (records.Kind.WRITE - records.Kind.READ)
    none = np.zeros_like(number)
    totals = [half, half << 20, 900 * half, now - 1500, now - 600, half // 100, *[none] * 4]
    return np.stack([now, vdev, kind, *totals], axis=1).astype("<u8")


def recording(path: Path, count: int) -> None:
    """Write ``count`` events as a recording."""
    clock = {"boot_ns": START_NS, "monotonic_ns": START_NS, "realtime_ns": START_NS}
    header = output.new_header(
        clock=clock, layout="", offsets={}, names=[], vfs=[*VDEVS.values()], probes=[], command=[]
    )
    writer = Writer(path, header)
    for vdev, name in VDEVS.items():
        named = records.name_values(name)
        writer.write(
            records.pack(
                records.Raw(START_NS, vdev, PID, TID, records.Kind.DEVICE, 0, 0, COMM, named)
            )
        )
    for first in range(0, count, _BLOCK):
        some = events(first, min(_BLOCK, count - first))
        words = np.zeros((len(some), records.SIZE // 8), dtype="<u8")
        words[:, :2] = some[:, :2]
        words[:, 2] = PID | TID << 32
        words[:, 3] = some[:, 2]
        words[:, 4] = int.from_bytes(COMM, "little")
        words[:, 6:] = some[:, 3:]
        writer.write(words.tobytes())
    writer.close({"clock": clock, "counters": Counters().to_json()})


_METADATA = """/* CTF 1.8 */
typealias integer {{ size = 16; align = 8; signed = false; }} := uint16_t;
typealias integer {{ size = 32; align = 8; signed = false; }} := uint32_t;
typealias integer {{ size = 64; align = 8; signed = false; }} := uint64_t;
trace {{
    major = 1; minor = 8; byte_order = le;
    packet.header := struct {{ uint32_t magic; uint32_t stream_id; }};
}};
clock {{ name = boot; freq = 1000000000; }};
typealias integer {{
    size = 64; align = 8; signed = false; map = clock.boot.value;
}} := time_t;
stream {{
    id = 0;
    packet.context := struct {{
        time_t timestamp_begin; time_t timestamp_end; uint64_t content_size; uint64_t packet_size;
    }};
    event.header := struct {{ uint16_t id; time_t timestamp; }};
    event.context := struct {{ uint32_t pid; uint32_t tid; }};
}};
{events}"""
_CTF_EVENT = """event {{
    name = {name}; id = {number}; stream_id = 0;
    fields := struct {{ uint64_t vdev; {fields} }};
}};
"""


def ctf(folder: Path, count: int) -> None:
    """Write ``count`` events as a trace of the Common Trace Format 1.8, of one stream."""
    folder.mkdir(exist_ok=True)
    fields = " ".join(f"uint64_t {name};" for name in FIELDS)
    declared = "".join(
        _CTF_EVENT.format(name=name, number=int(kind), fields=fields)
        for name, kind in (("save_read", records.Kind.READ), ("resume_write", records.Kind.WRITE))
    )
    (folder / "metadata").write_text(_METADATA.format(events=declared))
    event = np.dtype(
        [("id", "<u2"), ("time", "<u8"), ("pid", "<u4"), ("tid", "<u4"), ("rest", "<u8", 11)]
    )
    with (folder / "stream").open("wb") as stream:
        for first in range(0, count, _BLOCK):
            some = events(first, min(_BLOCK, count - first))
            rows = np.zeros(len(some), dtype=event)
            rows["id"], rows["time"] = some[:, 2], some[:, 0]
            rows["pid"], rows["tid"] = PID, TID
            rows["rest"][:, 0], rows["rest"][:, 1:] = some[:, 1], some[:, 3:]
            head = struct.Struct("<IIQQQQ")
            bits = 8 * (head.size + rows.nbytes)
            begin, end = int(some[0, 0]), int(some[-1, 0])
            stream.write(head.pack(0xC1FC1FC1, 0, begin, end, bits, bits) + rows.tobytes())


_HEADER_PAGE = """\
\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;
\tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;
\tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;
\tfield: char data;\toffset:16;\tsize:4080;\tsigned:1;
"""
_HEADER_EVENT = """\
# compressed entry header
\ttype_len    :    5 bits
\ttime_delta  :   27 bits
\tarray       :   32 bits

\tpadding     : type == 29
\ttime_extend : type == 30
\ttime_stamp : type == 31
\tdata max type_len  == 28
"""


def _event_format(name: str, number: int) -> bytes:
    lines = [f"name: {name}", f"ID: {number}", "format:"]
    common = (
        ("unsigned short common_type", 0, 2, 0),
        ("unsigned char common_flags", 2, 1, 0),
        ("unsigned char common_preempt_count", 3, 1, 0),
        ("int common_pid", 4, 4, 1),
    )
    own = [(f"u64 {field}", 8 + 8 * at, 8, 0) for at, field in enumerate(("vdev", *FIELDS))]
    for fields in (common, own):
        for declaration, offset, size, signed in fields:
            lines.append(
                f"\tfield:{declaration};\toffset:{offset};\tsize:{size};\tsigned:{signed};"
            )
        lines.append("")
    text = " ".join(f"{field}=%llu" for field in FIELDS)
    values = ", ".join(f"REC->{field}" for field in ("vdev", *FIELDS))
    lines.append(f'print fmt: "vdev=%llx {text}", {values}')
    return ("\n".join(lines) + "\n").encode()


def trace_dat(path: Path, count: int) -> None:
    """Write ``count`` events as trace.dat of version 6, from one CPU (trace-cmd.dat.v6(5))."""

    def sized(data: bytes) -> bytes:
        return struct.pack("<Q", len(data)) + data

    kinds = (("save_read", int(records.Kind.READ)), ("resume_write", int(records.Kind.WRITE)))
    head = b"\x17\x08\x44tracing6\0" + struct.pack("<BBI", 0, 8, _PAGE)
    head += b"header_page\0" + sized(_HEADER_PAGE.encode())
    head += b"header_event\0" + sized(_HEADER_EVENT.encode())
    head += struct.pack("<II", 0, 1) + b"mlx5\0" + struct.pack("<I", len(kinds))
    # Identifiers below 20 are ftrace's own.
    head += b"".join(sized(_event_format(name, 300 + kind)) for name, kind in kinds)
    head += struct.pack("<II", 0, 0) + sized(b"%d %s\n" % (TID, COMM)) + struct.pack("<I", 1)
    head += b"options  \0" + struct.pack("<H", 0) + b"flyrecord\0"
    begin = -(-(len(head) + 16) // _PAGE) * _PAGE
    event = np.dtype(
        [("head", "<u4"), ("type", "<u2"), ("flags", "<u2"), ("pid", "<i4"), ("rest", "<u8", 11)]
    )
    per_page = (_PAGE - 16) // event.itemsize
    pages = -(-count // per_page)
    with path.open("wb") as stream:
        stream.write(head + struct.pack("<QQ", begin, pages * _PAGE))
        stream.seek(begin)
        for first in range(0, count, per_page):
            some = events(first, min(per_page, count - first))
            rows = np.zeros(len(some), dtype=event)
            delta = np.diff(some[:, 0], prepend=some[0, 0])
            # Five bits of length in words of 32 bits, then the time since the event before.
            rows["head"] = (event.itemsize - 4) // 4 | (delta << np.uint64(5))
            rows["type"], rows["pid"] = some[:, 2] + 300, TID
            rows["rest"][:, 0], rows["rest"][:, 1:] = some[:, 1], some[:, 3:]
            page = struct.pack("<QQ", int(some[0, 0]), rows.nbytes) + rows.tobytes()
            stream.write(page.ljust(_PAGE, b"\0"))
