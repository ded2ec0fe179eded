# SPDX-License-Identifier: GPL-2.0-or-later
"""The source's half of a migration: the state changes, and reading until each end."""

from __future__ import annotations

import errno
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlxtrace.migrate_forward import forward
from mlxtrace.migrate_model import (
    READ_BYTES,
    Migratable,
    MigrationError,
    Options,
    Result,
    Round,
    Saving,
    Sink,
    boot_ns,
)
from mlxtrace.migrate_policy import (
    UNKNOWN_STOP_COPY_BYTES,
    Policy,
    Progress,
    RecentBandwidth,
    StopReason,
    reason_to_stop,
)
from mlxtrace.stream import Kind, StreamParser
from mlxtrace.vfio import End, MigrationFlags, PrecopyInfo, State, VfioError

if TYPE_CHECKING:
    from collections.abc import Callable

WAIT_SLICE_S = 0.1
"""How long to sleep in the kernel before looking whether the user wants to stop."""


@dataclass
class SourceRun:
    """Saves a device's state into a sink.

    Attributes:
        device: the source.
        flags: what it offers.
        sink: where the stream goes.
        result: what is counted and timed; updated as it happens.
        parser: follows the stream as it was read.
        check: called often; raises to cancel the migration.
        tell: called with what is read (a kind of image), and the bytes read and announced in the
            current round, for a progress display.
    """

    device: Migratable
    flags: MigrationFlags
    sink: Sink
    options: Options
    result: Result
    parser: StreamParser
    check: Callable[[], None]
    tell: Callable[[str, int, int], None]
    _stream: Saving | None = field(default=None, init=False)
    _asked: float = field(default=0.0, init=False)
    """When the driver was last asked, on the monotonic clock in seconds."""
    _recent: RecentBandwidth = field(default_factory=RecentBandwidth, init=False)
    _unread: int = field(default=0, init=False)
    """Bytes left unread when pre-copy ends, where PRE_COPY_P2P is not there to ask in."""

    def precopy(self) -> None:
        """Enter PRE_COPY and send images until it is time to stop.

        Raises:
            Error: the source or the sink failed, or ``check`` raised.
        """
        began = boot_ns()
        self._stream = self.device.save(State.PRE_COPY)
        if self.options.policy is Policy.IMMEDIATE:
            reason = StopReason.IMMEDIATE
            if MigrationFlags.P2P not in self.flags:
                self._unread = self._precopy_info().pending_bytes
        else:
            reason = self._rounds()
        self.result.stop_reason = reason.value
        self.result.precopy_ns = boot_ns() - began

    def _rounds(self) -> StopReason:
        """Read the initial image and middle ones until it is time to stop, and say why it is."""
        self._round(Kind.INITIAL)
        middle_rounds = idle_reports = 0
        dirty: int | None = None
        while True:
            self.check()
            mean, recent = self._bandwidth(), self._recent.bytes_per_s()
            progress = Progress(middle_rounds, dirty, mean, idle_reports, recent)
            reason = reason_to_stop(
                progress, self.options, self.result.decision, self._stop_copy_bytes
            )
            if reason is not None:
                return reason
            if idle_reports:
                time.sleep(self.options.idle_pause_s)
            dirty = self._round(Kind.MIDDLE)
            if dirty:
                middle_rounds, idle_reports = middle_rounds + 1, 0
            else:
                idle_reports += 1

    def _stop_copy_bytes(self) -> int:
        """Ask what a stop would leave to send, as QEMU does: it takes no answer for much."""
        try:
            return self.device.stop_copy_bytes()
        except VfioError:
            return UNKNOWN_STOP_COPY_BYTES

    def stop_and_copy(self) -> None:
        """Stop the source and send the rest, to the end of the stream.

        Raises:
            Error: the source or the sink failed, or ``check`` raised.
        """
        self.check()
        downtime = self.result.downtime
        began = boot_ns()
        pending = self._quiesce()
        stopping = boot_ns()
        downtime.quiesce_ns = stopping - began
        if self._stream is None:
            self.result.stop_reason = StopReason.NOT_USED.value
            self.device.set_state(State.STOP)
            self._stream = self.device.save(State.STOP_COPY)
        else:
            self.device.set_state(State.STOP_COPY)
        stopped = boot_ns()
        downtime.stop_ns = stopped - stopping
        # What pre-copy left unread still comes first, in order; all after it was made stopped.
        self.parser.final_from = self.parser.offset + pending
        self._drain(Round(Kind.FINAL, None, None), stopped, announced=0)
        # Before anything is started or gets its name: after that the source is given up.
        self.parser.finish_state(self.device.name)
        downtime.final_ns = boot_ns() - stopped

    @property
    def saving(self) -> bool:
        """Whether a saving session was begun."""
        return self._stream is not None

    def close(self) -> None:
        """Close the saving stream."""
        if self._stream is not None:
            self._stream.close()

    def _quiesce(self) -> int:
        """Stop the source from initiating DMA, if it can, and return the unread bytes."""
        if MigrationFlags.P2P not in self.flags:
            return self._unread
        if self._stream is None:
            self.device.set_state(State.RUNNING_P2P)
            return 0
        self.device.set_state(State.PRE_COPY_P2P)
        # Here, unlike in PRE_COPY, the question starts no SAVE: it counts what was not read.
        return self._precopy_info().pending_bytes

    def _round(self, kind: Kind) -> int:
        """Ask what there is, read it, and return the bytes that were announced.

        The question makes mlx5 start the next SAVE. Nothing announced is no round.
        """
        assert self._stream is not None
        began = boot_ns()
        info = self._precopy_info()
        if info.pending_bytes == 0 and kind is Kind.MIDDLE:
            return 0
        this = Round(kind, info.initial_bytes, info.dirty_bytes)
        self._drain(this, began, announced=info.pending_bytes)
        if this.read_bytes == 0:
            self.result.rounds.remove(this)
            return 0
        return info.pending_bytes

    def _precopy_info(self) -> PrecopyInfo:
        """Ask the driver; a signal that does not cancel the migration makes it ask again."""
        assert self._stream is not None
        while True:
            self.check()
            self.result.ioctls += 1
            try:
                info = self._stream.precopy_info()
                self._asked = time.monotonic()
                return info
            except VfioError as error:
                if error.errno != errno.EINTR:
                    raise self._failed(error) from None

    def _drain(self, this: Round, began: int, announced: int) -> None:
        """Read and forward until the end: the final one if ``this`` is the final round.

        Before Linux 7.1 mlx5 answers ENOMSG while the SAVE that it announced is still running,
        so a temporary end counts only when data came, or when nothing is announced any more.
        """
        assert self._stream is not None
        self.result.rounds.append(this)
        try:
            self._read_to_end(this, announced)
        finally:
            this.duration_ns = boot_ns() - began

    def _read_to_end(self, this: Round, announced: int) -> None:
        """Read and forward until the end that ``this`` round has."""
        final = this.kind is Kind.FINAL
        quiet_since = time.monotonic()
        empty_reads = 0
        if announced and not self._await_data(this, quiet_since, 0, announced):
            return
        while True:
            self.check()
            answer = self._read()
            if isinstance(answer, bytes):
                this.read_bytes += len(answer)
                this.images += forward(answer, self.parser, self.sink, self.result, self.check)
                self._recent.add(len(answer))
                self.tell(this.kind.value, this.read_bytes, announced)
                quiet_since, empty_reads = time.monotonic(), 0
            elif answer is End.FINAL and final:
                self.result.final_ends += 1
                break
            elif answer is End.TEMPORARY and final:
                raise MigrationError(
                    f"{self.device.name}: ENOMSG in STOP_COPY, in {self.parser.where()}",
                    "the final SAVE failed, and the driver calls that a temporary end (Linux 6.2 "
                    "to 6.6): dmesg has the firmware's status",
                )
            else:
                if answer is not End.NOT_YET:
                    # Some drivers (hisi, qat, mtty) say 0 where mlx5 and virtio say ENOMSG.
                    self.result.temporary_ends += 1
                    self.parser.end_part()
                    came = this.read_bytes > 0 or announced == 0
                    if came and self.parser.at_boundary:
                        break
                if not self._await_data(this, quiet_since, empty_reads, announced):
                    break
                empty_reads += 1

    def _read(self) -> bytes | End:
        assert self._stream is not None
        try:
            return self._stream.read(READ_BYTES)
        except VfioError as error:
            raise self._failed(error) from None

    def _failed(self, error: VfioError) -> MigrationError:
        """Return ``error`` with the image that it hit."""
        message = f"{error}, in {self.parser.where()}"
        current = self.parser.current
        return MigrationError(message, error.hint, errno=error.errno, record=current)

    def _await_data(
        self, this: Round, quiet_since: float, empty_reads: int, announced: int
    ) -> bool:
        """Sleep until a read may give something; False when nothing will come any more.

        That is so when a middle SAVE failed because the state grew meanwhile: mlx5 then announces
        nothing until STOP_COPY, tells readers ENOMSG, and poll stays silent.

        Raises:
            MigrationError: nothing came for ``data_timeout_s``, though announced.
        """
        assert self._stream is not None
        while True:
            self.check()
            if time.monotonic() - quiet_since > self.options.data_timeout_s:
                said = f" though it reported {announced} bytes" if announced else ""
                raise MigrationError(
                    f"{self.device.name}: no data for {self.options.data_timeout_s:g} s{said}, "
                    f"in {self.parser.where()}",
                    "a SAVE command may hang: dmesg has the commands that timed out",
                )
            if self._stream.wait(WAIT_SLICE_S):
                # A driver whose poll always says "ready" must not make the reader spin.
                time.sleep(min(0.05, 0.0005 * (2 ** min(empty_reads, 8) - 1)))
                ready = True
            else:
                ready = False
            overdue = time.monotonic() - self._asked > self.options.ask_again_s
            if overdue and this.kind is not Kind.FINAL and this.read_bytes == 0:
                # The driver answers when the SAVE is over: then there is data, or none will come.
                return self._precopy_info().pending_bytes > 0
            if ready:
                return True

    def _bandwidth(self) -> float:
        """Return bytes a second over the rounds so far."""
        spent_ns = sum(each.duration_ns for each in self.result.rounds)
        return self.result.read_bytes * 1e9 / max(spent_ns, 1)
