# SPDX-License-Identifier: GPL-2.0-or-later
"""What is not exactly right is refused before anything is written, and named."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genbindings.errors import Error
from mlxpatch import apply, series, udiff

if TYPE_CHECKING:
    from pathlib import Path

OLD = "".join(f"line {number}\n" for number in range(1, 31))
PATCH = """\
diff --git a/a/one.c b/a/one.c
index {old}..{new} 100644
--- a/a/one.c
+++ b/a/one.c
@@ -4,3 +4,4 @@
 line 4
-line 5
+line five
+line five and a half
 line 6
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    (folder / "a").mkdir(parents=True)
    (folder / "a/one.c").write_text(OLD)
    return folder


def result(tree: Path, text: str, *, exact: bool = False) -> apply.Overlay:
    patch = series.make("one.patch", text.encode("utf-8", "surrogateescape"))
    one = series.Series(tree, (patch,))
    return apply.applied(one, tree, exact=exact)


def new_file(path: str, mode: str = "100644") -> str:
    return (
        f"diff --git a/{path} b/{path}\nnew file mode {mode}\n--- /dev/null\n+++ b/{path}\n"
        "@@ -0,0 +1 @@\n+evil\n"
    )


HOSTILE = {
    "dots": new_file("../../evil"),
    "dots-inside": new_file("a/../../evil"),
    "absolute": "--- /dev/null\n+++ /etc/evil\n@@ -0,0 +1 @@\n+evil\n",
    "absolute-git": "diff --git /etc/evil /etc/evil\nnew file mode 100644\n--- /dev/null\n"
    "+++ /etc/evil\n@@ -0,0 +1 @@\n+evil\n",
    "double-slash": new_file("/etc/evil"),
    "quoted": 'diff --git "a/\\056\\056/evil" "b/\\056\\056/evil"\nnew file mode 100644\n'
    '--- /dev/null\n+++ "b/\\056\\056/evil"\n@@ -0,0 +1 @@\n+evil\n',
    "plain-dots": "--- /dev/null\n+++ b/../evil\n@@ -0,0 +1 @@\n+evil\n",
    "first-dots": "--- /dev/null\n+++ ../evil\n@@ -0,0 +1 @@\n+evil\n",
    "link": new_file("a/link", "120000"),
    "link-by-index": "diff --git a/a/one.c b/a/one.c\nindex 1..2 120000\n",
    "link-by-mode": "diff --git a/a/one.c b/a/one.c\nold mode 100644\nnew mode 120000\n",
    "submodule": new_file("a/sub", "160000"),
    "setuid": new_file("a/tool", "104755"),
    "rename-out": "diff --git a/a/one.c b/../evil\nsimilarity index 100%\n"
    "rename from a/one.c\nrename to ../evil\n",
    "copy-out": "diff --git a/a/one.c b/x\nsimilarity index 100%\n"
    "copy from a/one.c\ncopy to /etc/evil\n",
    "copy-in": "diff --git a/x b/a/two.c\nsimilarity index 100%\n"
    "copy from ../../../../etc/passwd\ncopy to a/two.c\n",
    "git": new_file(".git/hooks/post-commit"),
    "git-case": new_file("a/.GIT/config"),
    "names-differ": "diff --git a/a/one.c b/a/one.c\n--- a/a/one.c\n+++ b/a/two.c\n"
    "@@ -1,1 +1,1 @@\n-line 1\n+evil\n",
    "backslash": new_file("a\\..\\evil"),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_patch_is_refused_when_it_is_read(tree: Path, text: str) -> None:
    before = sorted(tree.parent.rglob("*"))
    with pytest.raises(Error, match=r"patch one\.patch, line \d+: "):
        result(tree, text).write()
    assert sorted(tree.parent.rglob("*")) == before


@pytest.mark.parametrize("where", ["link/evil", "link"])
def test_a_link_in_the_tree_is_not_followed(tree: Path, tmp_path: Path, where: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tree / "link").symlink_to(outside)
    with pytest.raises(Error, match="link is a symbolic link, and a patch may not go through it"):
        result(tree, new_file(where)).write()
    assert not list(outside.iterdir())


def test_a_device_is_no_file(tree: Path) -> None:
    subprocess.run(["mkfifo", tree / "a/pipe"], check=True)
    with pytest.raises(Error, match="a/pipe is not a plain file"):
        result(tree, PATCH.replace("one.c", "pipe"))


def test_a_later_failure_leaves_the_tree_as_it_was(tree: Path) -> None:
    good = series.make("good.patch", PATCH.encode())
    bad = series.make("bad.patch", PATCH.replace("line 4", "line four").encode())
    with pytest.raises(Error, match=r"bad\.patch does not apply: a/one\.c, hunk #1 at line 4"):
        apply.apply(series.Series(tree, (good, bad)), tree)
    assert (tree / "a/one.c").read_text() == OLD


def test_white_space_is_exact(tree: Path) -> None:
    with pytest.raises(Error, match=r"line 4 is 'line 4', not 'line  4' \(only white space"):
        result(tree, PATCH.replace(" line 4", " line  4"))


def test_moved_lines_are_found_unless_the_base_is_pinned(tree: Path) -> None:
    moved = PATCH.replace("-4,3 +4,4", "-9,3 +9,4")
    assert result(tree, moved).files == result(tree, PATCH).files
    with pytest.raises(Error, match="hunk #1 at line 9"):
        result(tree, moved, exact=True)


def test_a_pinned_base_must_have_the_blob_of_the_index_line(tree: Path) -> None:
    blob = apply.blob(OLD.encode())
    asked = subprocess.run(
        ["git", "hash-object", tree / "a/one.c"], capture_output=True, text=True, check=True
    )
    assert blob == asked.stdout.strip()
    result(tree, PATCH.format(old=blob, new="0" * 40), exact=True)
    other = PATCH.format(old="1" * 40, new="0" * 40)
    result(tree, other)
    with pytest.raises(Error, match="is not the file that the patch was made for"):
        result(tree, other, exact=True)


DAMAGED = {
    "cut": (PATCH.removesuffix(" line 6\n"), "hunk #1 ends in the middle: the patch is cut"),
    "wrapped": (
        PATCH.replace("+line five and a half", "+line five and\na half"),
        "a/one.c, hunk #1: 'a half' is no line of a hunk",
    ),
    "more": (PATCH + "+and more\n", "hunk #1 has more lines than it announces"),
    "counts": (PATCH.replace("-4,3", "-4,2"), "hunk #1"),
    "crlf": (PATCH.replace("\n", "\r\n"), "its lines end in CR LF"),
    "binary": (
        "diff --git a/a/x b/a/x\nnew file mode 100644\nGIT binary patch\nliteral 3\n",
        "binary file",
    ),
    "no-file": (f"{PATCH}junk\n@@ -20 +21 @@\n-line 20\n+b\n", "a hunk that belongs to no file"),
}


@pytest.mark.parametrize(("text", "said"), DAMAGED.values(), ids=DAMAGED.keys())
def test_damage_is_named(tree: Path, text: str, said: str) -> None:
    with pytest.raises(Error, match=re.escape(said)) as caught:
        result(tree, text)
    assert caught.value.hint


LINES = st.lists(st.sampled_from(["a", "b", "", "\tc", "-- d", "+++ e", "\xff"]), max_size=12)


def join(lines: list[str], ended: bool) -> bytes:
    text = "\n".join(lines) + ("\n" if ended and lines else "")
    return text.encode("latin-1")


@settings(max_examples=40, deadline=None)
@given(old=LINES, new=LINES, ends=st.tuples(st.booleans(), st.booleans()))
def test_what_git_writes_is_applied_as_git_would(
    tmp_path_factory: pytest.TempPathFactory,
    old: list[str],
    new: list[str],
    ends: tuple[bool, bool],
) -> None:
    folder = tmp_path_factory.mktemp("git")
    before, after = join(old, ends[0]), join(new, ends[1])
    for side, data in (("a", before), ("b", after)):
        (folder / side / "d").mkdir(parents=True)
        (folder / side / "d/f").write_bytes(data)
    done = subprocess.run(
        ["git", "diff", "--no-index", "--text", "--full-index", "a/d/f", "b/d/f"],
        cwd=folder,
        capture_output=True,
    )
    if before == after:
        assert not done.stdout
        return
    text = (
        done.stdout.decode("utf-8", "surrogateescape").replace("a/a/", "a/").replace("b/b/", "b/")
    )
    overlay = apply.Overlay(folder / "a")
    apply.apply_patch(
        series.make("x.patch", text.encode("utf-8", "surrogateescape")), overlay, exact=True
    )
    assert overlay.files == {"d/f": after}
    assert apply.blob(after) == udiff.parse(text, "x")[0].new_blob
