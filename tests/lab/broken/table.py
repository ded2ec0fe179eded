# SPDX-License-Identifier: GPL-2.0-or-later
"""Which checks each mistake makes fail, and no others."""

from __future__ import annotations

from mlxtrace.checks import all_checks

ASSERTIONS = (
    "left_at_exit",
    "pd_busy",
    "resume_incomplete",
    "track_suspended",
    "wrong_order",
)
"""What the firmware has to say of some of the mistakes."""

# The checks that all mistakes in FAILS are asked for.
# fmt: off
ASKED = frozenset({
    "C1", "C2", "C3", "C4", "C5", "C6", "C7", "C8", "C9", "C10", "C11", "C12", "C13", "C13.initial",
    "C14", "C15", "C16", "C17", "C17.once", "C18", "C19", "C20", "C21", "C22", "C23", "C24",
    "C24.compat", "C25", "C26", "C27", "C28", "C29", "C30", "C30.optional", "C31.absent",
    "C31.truncated", "C32", "C32.pointer", "C32.record", "C33", "C34", "C35", "C35.ioctl",
    "C35.unbind", "C36", "C37", "C38", "C39", "C40", "C41", "C42", "C42.race", "C42.reset", "C43",
    "C46",
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
    "refusal-skips": {"C6"},
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
    "reset-crossed": {"C42.reset", "suspend-slow-reset"},
    "pd-leaked": {"C34"},
    "set-aside-leaked": {"C34", "C41"},
    "poll-no-hangup": {"C34", "C35"},
    "ended-is-complete": {"C35", "C42"},
    "size-of-session": {"C36"},
    "wrong-queue": {"C37", "C38", "save-slow"},
    "end-while-saving": {"C37", "C38", "C39"},
    "no-file-errno": {"C40"},
    "info-bars-change": {"C42.race"},
    "tracking-goes-on": {"C43"},
    "file-name": {"C46"},
}

NEAR: dict[str, set[str]] = {
    "open-keeps-state": {"C1.again"},
    "opens-stopped": {"C1", "C1.again"},
    "missing-way": {"C5", "C5.session", "C5.walk"},
    "given-up-goes-on": {"C5.session"},
    "refusal-ends-session": {"C7.session"},
    "refusal-skips": {"C7.session"},
    "same-state-ends-load": {"C8"},
    "empty-read-takes": {"C11.empty"},
    "no-initial-in-p2p": {"C12.peers"},
    "initial-again-in-p2p": {"C14.peers"},
    "blocking-never-ends": {"C19.blocking"},
    "flags-drop-initial": {"C20.given"},
    "feature-argsz-unchecked": {"C24.argsz"},
    "device-ioctl-errno": {"C24.device"},
    "unknown-feature-errno": {"C24.feature"},
    "get-and-set": {"C24.flags"},
    "probe-acts": {"C24.probe"},
    "feature-fault-ignored": {"C25.feature"},
    "fault-takes-all": {"C25.partial"},
    "fault-takes-header": {"C25.read"},
    "fault-keeps-file": {"C25.state"},
    "poll-too-early": {"C27.poll"},
    "unread-dropped": {"C28", "C28.parts"},
    "split-header": {"C30", "C30.bytes", "C30.vector"},
    "short-read-drops": {"C30.reads"},
    "empty-write-ends": {"C30.vector"},
    "grown-loses-pages": {"C30.ahead"},
    "cut-record": {"C31.truncated", "C31.ways"},
    "load-failure-ignored": {"C32.harmed"},
    "load-failure-sticks": {"C33.harmed"},
    "closed-file-stays": {"C35.file", "C39.kill"},
    "signal-fails-info": {"C39"},
    "signal-ends-stream": {"C39"},
    "signal-fails-change": {"C39"},
    "killed-leaks": {"C39.kill"},
    "set-aside-leaked": {"C41", "C41.memory", "C41.open"},
    "pd-leaked": {"C41.open", "C41.resuming"},
    "stop-copy-leaks": {"C41.open", "C41.stop"},
    "pages-leaked": {"C41.memory"},
}
"""More mistakes, and more checks that some of those above make fail.

Each is asked for all checks of the statements concerned: all checks on all mistakes would take
hours.
"""


def beside(mistake: str) -> set[str]:
    """Return the checks of the statements that ``mistake`` concerns, as far as none can hang."""
    statements = {name.partition(".")[0] for name in NEAR[mistake]}
    return {
        check.id
        for check in all_checks()
        if check.statement in statements and not (check.may_hang or check.rebinds)
    }
