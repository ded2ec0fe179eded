# SPDX-License-Identifier: GPL-2.0-or-later
"""Each gate fails for a series that breaks it, and no other gate does."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mlxpatch import kernels, revision, verify
from tests.patches import carried

if TYPE_CHECKING:
    from collections.abc import Callable

SCRIPT = str(Path(sys.executable).parent / "mlxpatch")


@pytest.fixture(scope="module")
def headers() -> Path:
    """Return the headers of the 6.1 kernel, fetched if they are not cached."""
    return kernels.ensure("6.1", carried.PROGRESS)[0].headers


def verdicts(
    folder: Path | str, base: Path | str | None, headers: Path | None = None, *gates: str
) -> dict[str, verify.Outcome]:
    """Return what each gate found."""
    outcomes = verify.run(
        folder, str(base) if base else None, gates, carried.PROGRESS, lambda _: None, headers
    )
    return {outcome.gate: outcome for outcome in outcomes}


def failed(found: dict[str, verify.Outcome]) -> set[str]:
    return {name for name, outcome in found.items() if outcome.verdict == "failed"}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def patch(folder: Path, number: int) -> Path:
    return next(folder.glob(f"{number:04d}-*.patch"))


def unlisted(folder: Path) -> str:
    shutil.copy(patch(folder, 3), folder / "0004-more.patch")
    return "0004-more.patch is there, and not listed"


def missing(folder: Path) -> str:
    patch(folder, 3).unlink()
    return "0003-.*patch is listed, and is not there"


def order(folder: Path) -> str:
    lines = (folder / "series").read_text().splitlines(keepends=True)
    lines[1:3] = lines[2:0:-1]
    (folder / "series").write_text("".join(lines))
    return "is number 1 in 'series', and 2 by name"


def another_base(folder: Path) -> str:
    edit(patch(folder, 2), ' MODULE_DESCRIPTION("tiny");', ' MODULE_DESCRIPTION("small");')
    return r"0002-.*does not apply: drivers/vfio/tiny\.c, hunk #1 at line \d+: line \d+ is"


def signature(folder: Path) -> str:
    with patch(folder, 3).open("a") as stream:
        stream.write("-- \n2.39.5\n")
    return r"0003-.*: line \d+ is '-- '"


def diffstat(folder: Path) -> str:
    edit(folder / "0000-cover-letter.patch", "tiny.c  ", "tony.c  ")
    return r"diffstat is not current: no line ' drivers/vfio/tiny.c"


def subjects(folder: Path) -> str:
    edit(folder / "0000-cover-letter.patch", "vfio: Hold the size of", "vfio: Keep the size of")
    return r"list of patches is not current: no line '  vfio: Hold the size"


def total(folder: Path) -> str:
    edit(folder / "0000-cover-letter.patch", "0/3]", "0/4]")
    return r"the cover letter says 0/4, not 0/3"


def stale(folder: Path) -> str:
    (folder / "checkpatch.allow").write_text("# ours\n0001-* LONG_LINE a table\n")
    return r"checkpatch.allow, line 2: nothing in 0001-\* is a LONG_LINE any more"


def thawed(folder: Path) -> str:
    revision.freeze(folder, None, carried.PROGRESS)
    frozen = patch(folder / "revisions/v1", 1)
    frozen.write_text(frozen.read_text() + "\n")
    return r"revisions/v1/0001-.* was changed"


BROKEN: list[tuple[set[str], Callable[[Path], str]]] = [
    ({"files"}, unlisted),
    ({"files"}, missing),
    ({"apply"}, another_base),
    ({"export"}, signature),
    ({"cover"}, diffstat),
    ({"cover"}, subjects),
    ({"cover"}, total),
    ({"checkpatch"}, stale),
    ({"frozen"}, thawed),
]


@pytest.mark.parametrize(("gates", "breaking"), BROKEN, ids=[one[1].__name__ for one in BROKEN])
def test_a_broken_file_fails_its_gate_alone(
    tmp_path: Path, gates: set[str], breaking: Callable[[Path], str]
) -> None:
    folder, tree = carried.tiny(tmp_path)
    said = breaking(folder)
    # None of these changes what is compiled.
    quick = [name for name in verify.NAMES if name != "build"]
    found = verdicts(folder, tree, None, *quick)
    assert failed(found) == gates
    assert list(found) == quick
    problems = "\n".join(found[next(iter(gates))].result.problems)
    assert re.search(said, problems), problems


def step(position: int, old: str, new: str) -> tuple[carried.Step, ...]:
    return carried.changed(carried.TINY_STEPS, position, old, new)


@pytest.mark.parametrize(
    ("gate", "steps", "said"),
    [
        (
            "uapi",
            step(0, "__aligned_u64 sample_bytes", "s64 sample_bytes"),
            r"0001-.*include/uapi/linux/tiny\.h in C: .*unknown type name .s64",
        ),
        (
            "uapi",
            step(0, "__u32 flags;", "__u32 class;"),
            r"0001-.*include/uapi/linux/tiny\.h in C\+\+: ",
        ),
        (
            "checkpatch",
            step(2, 'MODULE_INFO(samples, "1");\n', 'MODULE_INFO(samples, "1"); \n'),
            r"0003-.*tiny\.c:\d+: ERROR TRAILING_WHITESPACE",
        ),
        (
            "build",
            step(1, "== 16", "== 17"),
            r"(?s)0002-.* does not build: .*static assertion failed.* drivers/vfio/tiny\.c:\d+:",
        ),
        (
            "build",
            step(2, "MODULE_INFO", "static int unused_thing;\nMODULE_INFO"),
            r"0003-.*: new warning in drivers/vfio/tiny\.c:\d+: .unused_thing. defined but",
        ),
        (
            "build",
            step(
                2,
                'MODULE_INFO(samples, "1");\n',
                "void tiny(void)\n{\n\tvfio_missing();\n}\n",
            ),
            r"0003-.*does not build: .*vfio_missing",
        ),
    ],
)
def test_bad_code_fails_its_gate_alone(
    tmp_path: Path, headers: Path, gate: str, steps: tuple[carried.Step, ...], said: str
) -> None:
    folder, tree = carried.tiny(tmp_path, steps)
    found = verdicts(folder, tree, headers)
    assert failed(found) == {gate}
    problems = "\n".join(found[gate].result.problems)
    assert re.search(said, problems), problems


def test_a_patch_that_only_a_later_one_makes_build_is_found(tmp_path: Path, headers: Path) -> None:
    first, second, third = carried.TINY_STEPS
    folder, tree = carried.tiny(tmp_path, (second, first, third))
    found = verdicts(folder, tree, headers, "build")
    (problem,) = found["build"].result.problems
    assert problem.startswith("0001-vfio-Hold-the-size-of-a-sample.patch does not build")


def test_lists_in_the_wrong_order_fail_files_and_apply(tmp_path: Path) -> None:
    folder, tree = carried.tiny(tmp_path)
    said = order(folder)
    found = verdicts(folder, tree, None, "files", "apply", "export")
    assert "files" in failed(found)
    assert said in "\n".join(found["files"].result.problems)


def test_an_allowed_finding_passes_with_its_reason(tmp_path: Path) -> None:
    steps = step(2, 'MODULE_INFO(samples, "1");\n', 'MODULE_INFO(samples, "1"); \n')
    folder, tree = carried.tiny(tmp_path, steps)
    (folder / "checkpatch.allow").write_text("0003-* TRAILING_WHITESPACE it is a test\n")
    assert failed(verdicts(folder, tree, None, "checkpatch")) == set()
    (folder / "checkpatch.allow").write_text("0003-* TRAILING_WHITESPACE\n")
    found = verdicts(folder, tree, None, "checkpatch")
    assert "line 1: not 'PATCH TYPE REASON'" in found["checkpatch"].result.problems[0]


def test_a_changelog_below_the_rule_is_kept_out_of_the_comparison(tmp_path: Path) -> None:
    folder, tree = carried.tiny(tmp_path)
    edit(patch(folder, 2), "\n---\n", "\n---\nv2: said less\n\n")
    assert failed(verdicts(folder, tree, None, "export")) == set()


def test_moved_lines_of_a_base_that_is_not_pinned_pass(tmp_path: Path) -> None:
    folder, tree = carried.tiny(tmp_path)
    edit(tree / carried.TINY, "// SPDX", "// one\n// two\n// SPDX")
    gates = ("apply", "export", "cover")
    assert failed(verdicts(folder, tree, None, *gates)) == set()


def test_nothing_is_left_behind(
    tmp_path: Path, headers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, tree = carried.tiny(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    another_base(folder)
    assert "apply" in failed(verdicts(folder, tree, headers))
    left = [path for path in (tmp_path / "cache/mlxtrace").rglob("*") if path.is_file()]
    assert all(path.suffix == ".lock" or "/uapi/" in str(path) for path in left)
    assert not list((tmp_path / "cache/mlxtrace/scratch").iterdir())
    outside = [path for path in tmp_path.rglob("*") if "cache" not in path.parts]
    assert sorted(outside) == before


def test_the_command_says_each_verdict_and_its_status(tmp_path: Path) -> None:
    folder, tree = carried.tiny(tmp_path)
    quick = [word for name in ("files", "apply", "export") for word in ("--gate", name)]
    command = [SCRIPT, "verify", str(folder), "--base", str(tree), *quick]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[:3] for line in done.stdout.splitlines()] == [
        ["files", "ok", "0"],
        ["apply", "ok", "0"],
        ["export", "ok", "0"],
    ]
    unlisted(folder)
    done = subprocess.run([*command, "--json"], capture_output=True, text=True)
    assert done.returncode == 1
    gates = json.loads(done.stdout)["gates"]
    assert [(gate["gate"], gate["verdict"], gate["exit"]) for gate in gates] == [
        ("files", "failed", 1),
        ("apply", "ok", 0),
        ("export", "ok", 0),
    ]
    assert gates[0]["problems"] == ["0004-more.patch is there, and not listed"]
    assert {"summary", "notes", "hint", "seconds"} <= gates[0].keys()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing"], "there is no series nothing"),
        (["{folder}", "--gate", "none"], "'none' is not one of"),
        (["{folder}"], "nothing says which base"),
        (["{folder}", "--base", "gone"], "there is no base gone"),
    ],
)
def test_usage_errors_exit_with_two(tmp_path: Path, words: list[str], said: str) -> None:
    folder, _ = carried.tiny(tmp_path)
    for file in folder.glob("*.patch"):
        file.write_text(re.sub(r"\nbase-commit: .*", "", file.read_text()))
    command = [SCRIPT, "verify", *(word.format(folder=folder) for word in words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr


def test_sparse_finds_what_the_compiler_does_not(tmp_path: Path, headers: Path) -> None:
    kept = "static __be32 tiny_{0} __used = {0};\n"
    steps = step(2, "MODULE_INFO", f"{kept.format(2)}MODULE_INFO")
    folder, tree = carried.tiny(tmp_path, steps)
    # The base has such a line already, of which nothing is said.
    edit(tree / carried.TINY, "// SPDX", f"#include <linux/types.h>\n{kept.format(1)}// SPDX")
    found = verdicts(folder, tree, headers, "build")["build"].result
    (problem,) = found.problems
    assert problem.startswith("0003-vfio-Say-that-there-are-samples.patch: new warning in ")
    assert re.search(r"/tiny\.c:\d+: .*; expected restricted __be32 .*tiny_2; got int", problem)
    assert "W=1 and sparse" in found.summary


def test_without_sparse_that_is_said(
    tmp_path: Path, headers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda tool: None if tool == "sparse" else which(tool))
    folder, tree = carried.tiny(tmp_path)
    found = verdicts(folder, tree, headers, "build")["build"]
    assert (found.verdict, found.result.summary.rpartition(", ")[2]) == ("ok", "no sparse here")


def test_a_warning_of_the_base_is_not_the_series(tmp_path: Path, headers: Path) -> None:
    folder, tree = carried.tiny(tmp_path)
    edit(tree / carried.TINY, "// SPDX", "static int unused_since_ever;\n// SPDX")
    assert verdicts(folder, tree, headers, "build")["build"].verdict == "ok"


def test_missing_headers_and_compiler_are_named(tmp_path: Path) -> None:
    folder, tree = carried.tiny(tmp_path)
    empty = tmp_path / "headers"
    empty.mkdir()
    found = verdicts(folder, tree, empty, "build")["build"].result
    assert "is not a prepared kernel headers folder: it has no Makefile" in found.problems[0]
    for name in ("Makefile", ".config", "Module.symvers"):
        (empty / name).write_text("")
    (empty / ".kernelvariables").write_text("KERNELRELEASE = 6.1.0\nCC = gcc-99\n")
    found = verdicts(folder, tree, empty, "build")["build"].result
    assert "gcc-99 is missing" in found.problems[0]
    assert found.hint == "run: apt-get install gcc-99 (as root)"


def test_a_hostile_mail_is_refused_by_the_command(tmp_path: Path) -> None:
    _, tree = carried.tiny(tmp_path)
    mail = tmp_path / "evil.eml"
    mail.write_text(
        "From: A <a@b.invalid>\nSubject: [PATCH] vfio: x\n\nText.\n\n---\n x | 1 +\n\n"
        "diff --git a/../../evil b/../../evil\nnew file mode 100644\n--- /dev/null\n"
        "+++ b/../../evil\n@@ -0,0 +1 @@\n+evil\n"
    )
    before = sorted(tmp_path.rglob("*"))
    command = [SCRIPT, "verify", str(mail), "--base", str(tree)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "patch evil.eml, line 9: the path 'a/../../evil' is refused" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_is_ended_while_it_builds_leaves_nothing(
    tmp_path: Path, headers: Path, number: signal.Signals
) -> None:
    folder, tree = carried.tiny(tmp_path)
    edit(
        tree / "drivers/vfio/Makefile", "obj-m", f"$(shell echo x >{tmp_path}/up; sleep 60)\nobj-m"
    )
    command = [SCRIPT, "verify", str(folder), "--gate", "build"]
    command += ["--base", str(tree), "--headers", str(headers)]
    cache = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    # A shell has the commands that it runs in the background ignore SIGINT.
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(command, env=cache, stderr=subprocess.PIPE, text=True) as process:
        signal.signal(signal.SIGINT, ignored)
        while not (tmp_path / "up").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        said = process.communicate()[1]
    assert process.returncode == 128 + number
    assert "Traceback" not in said
    assert not list((tmp_path / "cache/mlxtrace/scratch").iterdir())
