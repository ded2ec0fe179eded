# SPDX-License-Identifier: GPL-2.0-or-later
"""Results as JUnit XML, for continuous integration."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from mlxtrace.validate.plan import section
from mlxtrace.validate.results import Result, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

# What XML 1.0 cannot hold, whatever a kernel says.
_FORBIDDEN = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write(path: Path, results: Iterable[Result], properties: Mapping[str, str]) -> None:
    """Write ``results`` to ``path``: a suite for each section.

    Whatever failed, of any level, is a failure; what is known to fail, is not offered or was not
    run counts as skipped, and its message says why.

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
    tree = ElementTree.ElementTree(suites)
    ElementTree.indent(tree)
    tree.write(path, encoding="utf-8", xml_declaration=True)


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
