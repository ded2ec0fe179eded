# SPDX-License-Identifier: GPL-2.0-or-later
"""Which checks each mistake makes fail, and no others."""

from __future__ import annotations

ASSERTIONS = ("left_at_exit", "pd_busy")
"""What the firmware has to say of some of the mistakes."""

# The checks that this is about. Of others it is not known here which mistakes they notice.
# fmt: off
ASKED = frozenset({
    "C1", "C2", "C3", "C4", "C5", "C6", "C7", "C8", "C9", "C10", "C11", "C12", "C13", "C13.initial",
    "C14", "C15", "C16", "C17", "C17.once", "C18", "C19", "C20", "C21", "C22", "C23", "C24",
    "C24.compat", "C25", "C26", "C27", "C28", "C29", "C30", "C30.optional", "C31.absent",
    "C31.truncated", "C32", "C32.pointer", "C32.record", "C33", "C34", "C35", "C35.ioctl",
    "C35.unbind", "C36", "C37", "C38", "C39", "C40", "C41", "C42", "C43", "C46",
})
# fmt: on

FAILS: dict[str, set[str]] = {
    "get-state-file": {"C1"},
    "no-stop-copy": {"C2"},
    "no-info-in-p2p": {"C3", "C15", "C22", "C29"},
    "missing-way": {"C5"},
    "second-file": {"C5", "C10", "C38"},
    "same-state-file": {"C5", "C8"},
    "back-to-precopy": {"C6"},
    "unknown-state-errno": {"C7"},
    "failure-file": {"C9", "C31.absent", "C31.truncated", "C32", "C32.record"},
    "no-cloexec": {"C11"},
    "writable-file": {"C11"},
    "no-initial": {"C12", "C13", "C15", "C16", "C28"},
    "initial-twice": {"C13", "C13.initial", "C22", "C29"},
    "dirty-beside-initial": {"C13.initial"},
    "initial-grows": {"C14", "C15"},
    "position-ignored": {"C15", "C22", "C29"},
    "initial-no-header": {"C16", "C22"},
    "announced-only": {"C15", "C17", "C17.once", "C18", "C29"},
    "early-enomsg": {"C17.once"},
    "dirty-twice": {"C18"},
    "poll-when-idle": {"C19"},
    "info-flags": {"C20"},
    "info-in-stop-copy": {"C21"},
    "asks-in-p2p": {"C22"},
    "argsz-unchecked": {"C23"},
    "unknown-ioctl-errno": {"C24"},
    "no-compat": {"C24.compat"},
    "efault-is-count": {"C25"},
    "final-falls-back": {"final-save-state-grew"},
    "poll-not-at-end": {"C27"},
    "unread-dropped": {"C28", "C29"},
    "split-header": {"C30"},
    "optional-refused": {"C30.optional"},
    "nothing-loaded": {"C31.absent"},
    "cut-record": {"C31.truncated"},
    "failure-forgotten": {"C32", "C32.record"},
    "writes-go-on": {"C32.record"},
    "no-limit": {"C32.record"},
    "bad-pointer-ignored": {"C32.pointer"},
    "reset-spares-resuming": {"C33", "C34"},
    "reset-spares-saving": {"C34"},
    "reset-crossed": {"suspend-slow-reset"},
    "pd-leaked": {"C34"},
    "set-aside-leaked": {"C34", "C41"},
    "poll-no-hangup": {"C34", "C35"},
    "ended-is-complete": {"C34", "C35", "C42"},
    "size-of-session": {"C36"},
    "wrong-queue": {"C38", "save-slow"},
    "end-while-saving": {"C38"},
    "no-file-errno": {"C40"},
    "tracking-goes-on": {"C43"},
    "file-name": {"C46"},
}

MAY_FAIL = {
    # Whether its reader is asleep, and not too late for that, is a race without the fault.
    "wrong-queue": {"C37"},
}
"""What a mistake makes fail, or not."""
