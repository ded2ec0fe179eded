# SPDX-License-Identifier: GPL-2.0-or-later
"""Results as JUnit XML, for continuous integration."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from mlxtrace.validate.plan import section
from mlxtrace.validate.results import Result, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# What XML 1.0 cannot hold, whatever a kernel says.
_FORBIDDEN = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


_NOT_FINISHED = "it did not finish: it was killed, or it still runs"
_RUN = "Run"
"""The suite that is there only if the run did not come to its end."""


def begin(path: Path) -> None:
    """Make ``path`` say that the run did not finish, until :func:`write` says what came of it.

    What an earlier run left there would be taken for this one's, if this one is killed.

    Raises:
        OSError: it cannot be written.
    """
    path.open("ab").close()
    if path.is_file():
        write(path, [], {}, _NOT_FINISHED)


def write(
    path: Path, results: Iterable[Result], properties: Mapping[str, str], stopped: str = ""
) -> None:
    """Write ``results`` to ``path``: a suite for each section.

    Whatever failed, of any level, is a failure; what is known to fail, is not offered or was not
    run counts as skipped, and its message says why. ``stopped`` is why the run did not come to its
    end, which is an error. A file is there as a whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    suites = ElementTree.Element("testsuites", name="mlxtrace validate")
    by_section: dict[str, list[Result]] = {}
    for result in results:
        by_section.setdefault(section(result.check), []).append(result)
    for title, members in by_section.items():
        verdicts = [each.verdict for each in members]
        failed, passed = verdicts.count(Verdict.FAILED), verdicts.count(Verdict.PASSED)
        suite = ElementTree.SubElement(
            suites,
            "testsuite",
            name=title,
            tests=str(len(members)),
            failures=str(failed),
            errors="0",
            skipped=str(len(members) - failed - passed),
            time=_seconds(sum(each.duration_ms for each in members)),
        )
        described = ElementTree.SubElement(suite, "properties")
        for name, value in properties.items():
            ElementTree.SubElement(described, "property", name=name, value=_text(value))
        for result in members:
            _case(suite, result, title)
    if stopped:
        _stopped(suites, stopped)
    ElementTree.indent(suites)
    _publish(path, ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True))


def _stopped(suites: ElementTree.Element, why: str) -> None:
    """Add a case with an error: what reads the file may not know the exit status."""
    counts = {"tests": "1", "failures": "0", "errors": "1", "skipped": "0", "time": "0.000"}
    suite = ElementTree.SubElement(suites, "testsuite", {"name": _RUN, **counts})
    case = ElementTree.SubElement(
        suite, "testcase", name="to its end", classname=f"mlxtrace.validate.{_RUN}", time="0.000"
    )
    message = _text(f"not run to the end: {why}")
    ElementTree.SubElement(case, "error", type="stopped", message=message)


def _publish(path: Path, content: bytes) -> None:
    """Write a file beside ``path`` and rename it, or write ``path`` itself where that cannot be."""
    path = path.resolve()
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    try:
        fd, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    except OSError:
        path.write_bytes(content)
        return
    beside = Path(name)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
        beside.chmod(path.stat().st_mode & 0o7777 if path.exists() else 0o644)
        with contextlib.suppress(OSError):
            beside.replace(path)
            return
        # A file that is a mount of its own, say.
        path.write_bytes(content)
    finally:
        beside.unlink(missing_ok=True)


def _case(suite: ElementTree.Element, result: Result, title: str) -> None:
    name = result.check.id if result.repeat == 1 else f"{result.check.id}[{result.repeat}]"
    case = ElementTree.SubElement(
        suite,
        "testcase",
        name=name,
        classname=f"mlxtrace.validate.{title}",
        time=_seconds(result.duration_ms),
    )
    if result.verdict is Verdict.FAILED:
        failure = ElementTree.SubElement(
            case, "failure", type=result.check.level, message=_text(result.reason)
        )
        failure.text = _text("\n".join([result.check.rule, *map(str, result.steps)]))
    elif result.verdict is not Verdict.PASSED:
        why = result.known.reason if result.known else result.reason
        ElementTree.SubElement(case, "skipped", message=_text(f"{result.verdict}: {why}"))
    if result.remark or result.verdict is Verdict.KNOWN_DEVIATION:
        output = ElementTree.SubElement(case, "system-out")
        output.text = _text("\n".join(filter(None, [result.remark, result.reason])))


def _seconds(milliseconds: float) -> str:
    return f"{milliseconds / 1000:.3f}"


def _text(text: str) -> str:
    return _FORBIDDEN.sub("?", text)
