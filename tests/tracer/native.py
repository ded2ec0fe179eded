# SPDX-License-Identifier: GPL-2.0-or-later
"""The BPF program as a library of this process, called as the kernel's probes would call it.

What is tested so is what the program makes of calls; neither the verifier nor bcc take part.
"""

from __future__ import annotations

import ctypes
import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from mlxtrace import catalogue, program, records
from mlxtrace.counters import Counters
from mlxtrace.decoder import Decoder
from mlxtrace.layout import Layouts
from mlxtrace.mailbox import STATES, Opcode
from mlxuapi import vfio as uapi

if TYPE_CHECKING:
    from mlxtrace.records import Raw

    from .raw_records import SomeEvent

HEADER = Path(__file__).with_name("native_bpf.h")
KERNEL = 1 << 63
"""In the address of a struct that a function returns: else it is taken for an error."""
# Made up: no two of one struct overlap.
MLX5 = {
    "OFF_VDEV": 64,
    "OFF_VDEV_DEV": 0,
    "OFF_DEVICE_NAME": 8,
    "OFF_MVDEV_MDEV": 160,
    "OFF_MVDEV_VHCA": 168,
    "OFF_MVDEV_STATE": 172,
    "OFF_MVDEV_SAVING": 176,
    "OFF_MVDEV_RESUMING": 184,
    "OFF_FILE_PRIVATE": 8,
    "OFF_FILE_POS": 16,
    "OFF_MIGF_MVDEV": 0,
    "OFF_MIGF_POSITION": 8,
    "OFF_MIGF_WORK": 64,
    "OFF_WORK_OUT": 24,
    "OFF_CORE_VDEV": 64,
    "OFF_PCI_DRVDATA": 8,
}
BUFFERS = {
    "OFF_BUFFER_START": 0,
    "OFF_BUFFER_LENGTH": 8,
    "OFF_BUFFER_ALLOCATED": 16,
    "OFF_BUFFER_MIGF": 24,
    "OFF_INFO_INITIAL": 8,
    "OFF_INFO_DIRTY": 16,
}
CORE = {
    "OFF_VDEV_DEV": 0,
    "OFF_DEVICE_NAME": 8,
    "OFF_FILE_PRIVATE": 8,
    "OFF_FILE_POS": 16,
    "OFF_INFO_INITIAL": 8,
    "OFF_INFO_DIRTY": 16,
}

# As the tracer does when the program is attached.
_ARM = """
__attribute__((constructor)) static void arm(void)
{
	control_leaves[0].armed_ns = 1;
}
"""
_UNOWNED = """
u64 native_unowned(u32 process)
{
	u64 *found = unowned.lookup(&process);

	return found ? *found : 0;
}
"""
_ASKED = """
void native_asked(u64 *to)
{
	struct device *device = &devices_leaves[0];

	memcpy(to, device->asked, sizeof(device->asked));
	to[BUCKETS] = device->asked_longest;
}
"""
_SAMPLES = """
u64 native_samples(int direction)
{
	return devices_leaves[0].content[direction].samples;
}
"""


class _Registers(ctypes.Structure):
    _fields_ = [
        ("argument", ctypes.c_uint64 * 4),
        ("result", ctypes.c_uint64),
        ("stack", ctypes.c_uint64),
    ]


class Memory:
    """A struct, or bytes of a user; ``memory[offset]`` is the u64 there."""

    def __init__(self, size: int = 256) -> None:
        self._data = ctypes.create_string_buffer(size)
        self.address = ctypes.addressof(self._data)

    def __getitem__(self, offset: int) -> int:
        value: int = struct.unpack_from("<Q", self._data, offset)[0]
        return value

    def __setitem__(self, offset: int, value: int) -> None:
        struct.pack_into("<Q", self._data, offset, value)

    def fill(self, data: bytes) -> None:
        """Let it begin with ``data``, and be 0 from there on."""
        self._data.raw = data.ljust(len(self._data), b"\0")


class Native:
    """The program, loaded anew.

    Args:
        folder: where to compile it.
        offsets: of the layouts; those of :data:`CORE` make it the one for any driver.
        content: whether it looks at the streams' bytes.
        armed: whether the trace has begun; before, its probes are there but tell of nothing.
        without: names of probes that are left out.
    """

    def __init__(
        self,
        folder: Path,
        offsets: dict[str, int],
        *,
        content: bool = False,
        armed: bool = True,
        without: tuple[str, ...] = (),
    ) -> None:
        generic = "OFF_VDEV" not in offsets
        probes = catalogue.select(without, generic=generic)
        text = program.render(
            probes, Layouts("a test", offsets, generic), content=content, machine="x86_64"
        )
        source, header = folder / "program.c", folder / "uapi/linux/ptrace.h"
        header.parent.mkdir(parents=True)
        header.write_text(HEADER.read_text())
        source.write_text(text + _ARM * armed + _UNOWNED + _ASKED + _SAMPLES * content)
        library = folder / "program.so"
        subprocess.run(
            ["gcc", "-w", "-shared", "-fPIC", f"-I{folder}", source, "-o", library], check=True
        )
        self._library = ctypes.CDLL(str(library))
        self._user = Memory(1 << 16)

    def call(self, name: str, *arguments: int, result: int = 0, stack: int = 0) -> None:
        """Call the handler ``name`` with the registers of a function's entry or return."""
        registers = _Registers((ctypes.c_uint64 * 4)(*arguments), result, stack)
        self._library[name](ctypes.byref(registers))

    def as_task(self, number: int) -> None:
        """What is called from now on is called by this task."""
        ctypes.c_uint64.in_dll(self._library, "native_task").value = number << 32 | number

    def pass_time(self, duration_ns: int) -> None:
        """Let the clock go on."""
        ctypes.c_uint64.in_dll(self._library, "native_now").value += duration_ns

    def asked(self) -> tuple[list[int], int]:
        """How often the first device was asked for its state, by powers of two; the longest."""
        found = Memory(8 * (records.BUCKETS + 1))
        self._library.native_asked(ctypes.c_uint64(found.address))
        *counts, longest = (found[8 * number] for number in range(records.BUCKETS + 1))
        return counts, longest

    def made(self) -> list[Raw]:
        """The records so far."""
        used = ctypes.c_uint64.in_dll(self._library, "native_used").value
        ring = (ctypes.c_char * used).in_dll(self._library, "native_ring")
        return list(records.unpack_all(ring.raw))

    def events(self, kind: type[SomeEvent]) -> list[SomeEvent]:
        """Return the events of one kind that the records decode to, with those of the end."""
        decoder = Decoder()
        found = list(decoder.feed(b"".join(map(records.pack, self.made()))))
        found += decoder.finish(Counters())
        return [event for event in found if isinstance(event, kind)]

    def samples(self, direction: int) -> int:
        """How many bytes of the first device's streams were looked at: 0 of reads, 1 of writes."""
        return int(self._library.native_samples(direction))

    def unowned(self, process: int) -> int:
        """How many calls on files that nobody is known to own ``process`` has made."""
        return int(self._library.native_unowned(process))

    def read(self, file: Memory, result: int) -> None:
        """A read() of the data file ``file`` returns ``result``."""
        self.call("enter_save_read", file.address, self._user.address, max(result, 4096))
        file[MLX5["OFF_FILE_POS"]] += max(result, 0)
        self.call("leave_save_read", result=result)

    def write(self, file: Memory, result: int) -> None:
        """A write() to the data file ``file`` returns ``result``."""
        self.call("enter_resume_write", file.address, self._user.address, max(result, 4096))
        file[MLX5["OFF_FILE_POS"]] += max(result, 0)
        self.call("leave_resume_write", result=result)


class Vf:
    """A VF of mlx5_vfio_pci.

    Args:
        native: the program.
        name: its BDF.
        vhca: its number for the firmware.
        at: where its struct is; in memory of its own if None.
    """

    def __init__(self, native: Native, name: str, vhca: int = 7, at: Memory | None = None) -> None:
        self.native = native
        self.memory = at or Memory()
        self.vhca = vhca
        self._name, self._device, self._pci = Memory(64), Memory(), Memory()
        self._name.fill(name.encode())
        self._device[MLX5["OFF_DEVICE_NAME"]] = self._name.address
        self._pci[MLX5["OFF_PCI_DRVDATA"]] = self.memory.address
        self.memory.fill(b"")
        self.memory[MLX5["OFF_VDEV"] + MLX5["OFF_VDEV_DEV"]] = self._device.address
        self.memory[MLX5["OFF_MVDEV_MDEV"]] = 0x9000
        self.memory[MLX5["OFF_MVDEV_VHCA"]] = vhca
        self._files: dict[int, tuple[Memory, Memory]] = {}
        self._out = Memory()

    @property
    def vdev(self) -> int:
        """What the kernel's VFIO core knows it by."""
        return self.memory.address + MLX5["OFF_VDEV"]

    def file(self, at: Memory | None = None, *, says_whose: bool = True) -> Memory:
        """Return a new data file, at ``at`` if given; before Linux 6.2 it need not say whose."""
        file, migf = at or Memory(), Memory()
        file.fill(b"")
        file[MLX5["OFF_FILE_PRIVATE"]] = migf.address
        migf[MLX5["OFF_MIGF_MVDEV"]] = self.memory.address if says_whose else 0
        # Both stay where they are for as long as this does.
        self._files[file.address] = file, migf
        return file

    def migf(self, file: Memory) -> Memory:
        """What the driver has of a data file."""
        return self._files[file.address][1]

    def go(self, old: str, new: str, file: Memory | None = None) -> None:
        """A SET_STATE of one arc, which returns ``file``."""
        states, next_state = (STATES.index(old), STATES.index(new)), Memory()
        next_state[0] = states[1]
        self.native.call("enter_set_state", self.vdev, states[1])
        self.native.call("enter_next_state", self.vdev, *states, next_state.address)
        self.native.call("leave_next_state")
        self.native.call("leave_set_state", result=file.address | KERNEL if file else 0)

    def save(self, file: Memory, size: int, flags: int = 0, *, late: bool = True) -> None:
        """A SAVE from its issue until its image, with a header, is in the stream.

        Unless it is ``late``, it completes on another CPU before its issue has returned.
        """
        self.issue(file, flags)
        if late:
            self.issued()
        self.complete(file, size)
        if not late:
            self.issued()

    def issue(self, file: Memory, flags: int = 0, opcode: int = Opcode.SAVE_VHCA_STATE) -> None:
        """A SAVE, or another command with a callback, is on its way to mlx5_core."""
        mailbox, stack = Memory(), Memory()
        mailbox.fill(struct.pack(">HxxxxxxBxH", opcode, flags, self.vhca))
        stack[8] = self.migf(file).address + MLX5["OFF_MIGF_WORK"]
        self.native.call("enter_cmd_exec_cb", 0, mailbox.address, stack=stack.address)

    def issued(self, result: int = 0) -> None:
        """mlx5_core has taken the command, or refuses it."""
        self.native.call("leave_save_refused", result=result)

    def complete(self, file: Memory, size: int) -> None:
        """The callback of a SAVE runs, and puts an image with a header into the stream."""
        migf = self.migf(file)
        self._out.fill(struct.pack(">8xI", size))
        migf[MLX5["OFF_MIGF_WORK"] + MLX5["OFF_WORK_OUT"]] = self._out.address
        work = migf.address + MLX5["OFF_MIGF_WORK"]
        self.native.call("enter_save_callback", 0, work)
        migf[MLX5["OFF_MIGF_POSITION"]] += size + 16

    def estimate(self, size: int) -> None:
        """The driver is asked what a stop-copy would be."""
        answer = Memory()
        answer[0] = size
        self.native.call("enter_data_size", self.vdev, answer.address)
        self.native.call("leave_data_size")

    def asked(self, took_ns: int) -> None:
        """The driver is asked for the state, and answers after that time."""
        self.native.call("enter_get_state", self.vdev, Memory().address)
        self.native.pass_time(took_ns)
        self.native.call("leave_get_state")

    def reset(self) -> None:
        """A reset of the function is done."""
        self.native.call("enter_reset", self._pci.address)


class CoreVf:
    """A device of any driver, seen from VFIO's core; its struct is at ``at`` if given."""

    def __init__(self, native: Native, name: str, at: Memory | None = None) -> None:
        self.native = native
        self.memory = at or Memory()
        self._device, self._name, self._file = (Memory() for _ in range(3))
        self._name.fill(name.encode())
        self._device[CORE["OFF_DEVICE_NAME"]] = self._name.address
        self.memory[CORE["OFF_VDEV_DEV"]] = self._device.address
        self._file[CORE["OFF_FILE_PRIVATE"]] = self.memory.address

    def go(self, old: str, new: str, file: Memory | None = None) -> None:
        """A SET_STATE of one arc, which installs ``file`` as descriptor 5."""
        states, next_state, user = (STATES.index(old), STATES.index(new)), Memory(), Memory()
        next_state[0] = states[1]
        flags = uapi.VFIO_DEVICE_FEATURE_SET | uapi.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE
        user.fill(struct.pack("<IIIi", 16, flags, states[1], -1))
        request = int(uapi.VFIO_DEVICE_FEATURE)
        self.native.call("enter_device_ioctl", self._file.address, request, user.address)
        self.native.call("enter_next_state", self.memory.address, *states, next_state.address)
        self.native.call("leave_next_state")
        if file is not None:
            self.native.call("enter_data_file", 5, file.address)
            user.fill(struct.pack("<IIIi", 16, flags, states[1], 5))
        self.native.call("leave_device_ioctl")

    def estimate(self, size: int) -> None:
        """The driver is asked what a stop-copy would be."""
        flags = uapi.VFIO_DEVICE_FEATURE_GET | uapi.VFIO_DEVICE_FEATURE_MIG_DATA_SIZE
        user = Memory()
        user.fill(struct.pack("<IIQ", 16, flags, size))
        request = int(uapi.VFIO_DEVICE_FEATURE)
        self.native.call("enter_device_ioctl", self._file.address, request, user.address)
        self.native.call("leave_device_ioctl")
