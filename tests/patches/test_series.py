# SPDX-License-Identifier: GPL-2.0-or-later
"""A patch series is applied strictly, and what does not apply is named."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from genbindings.errors import Error, UsageError
from mlxpatch import series

if TYPE_CHECKING:
    from pathlib import Path

LINES = [f"line {number}" for number in range(1, 41)]
ONE = """\
From: nobody
Subject: two changes

--- a/drivers/one.c
+++ b/drivers/one.c
@@ -4,3 +4,3 @@
 line 4
-line 5
+line five
 line 6
@@ -24,3 +24,3 @@
 line 24
-line 25
+line twenty-five
 line 26
"""
NEW = """\
diff --git a/drivers/new.c b/drivers/new.c
new file mode 100644
--- /dev/null
+++ b/drivers/new.c
@@ -0,0 +1 @@
+new
"""
MOVE = """\
diff --git a/drivers/two.c b/drivers/three.c
similarity index 100%
rename from drivers/two.c
rename to drivers/three.c
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "linux"
    (folder / "drivers").mkdir(parents=True)
    for name in ("one.c", "two.c"):
        (folder / "drivers" / name).write_text("\n".join(LINES) + "\n")
    return folder


@pytest.fixture
def patches(tmp_path: Path) -> Path:
    folder = tmp_path / "patches"
    folder.mkdir()
    (folder / "one.patch").write_text(ONE)
    (folder / "new.patch").write_text(NEW)
    (folder / "move.patch").write_text(MOVE)
    (folder / "series").write_text("# mine\n\none.patch -p1\nnew.patch # a file\nmove.patch\n")
    return folder


def test_patches_are_applied_in_order(tree: Path, patches: Path) -> None:
    touched = series.apply(series.read(patches), tree)
    names = ("one.c", "two.c", "three.c", "new.c")
    assert touched == {f"drivers/{name}" for name in names}
    lines = (tree / "drivers/one.c").read_text().splitlines()
    assert (lines[4], lines[24]) == ("line five", "line twenty-five")
    assert sorted(path.name for path in (tree / "drivers").iterdir()) == sorted(
        ("new.c", "one.c", "three.c")
    )


@pytest.mark.parametrize(
    ("patch", "said"),
    [
        (ONE.replace(" line 26", " line 26 changed"), "drivers/one.c, hunk #2 at line 24"),
        (ONE.replace("one.c", "none.c"), "there is no file drivers/none.c"),
        (ONE.replace("-line 5", "-line V"), "hunk #1 at line 4"),
        (NEW.replace("new.c", "two.c"), "drivers/two.c exists already"),
        ("no patch at all\n", "garbage"),
    ],
)
def test_the_patch_the_file_and_the_hunk_are_named(
    tree: Path, patches: Path, patch: str, said: str
) -> None:
    (patches / "one.patch").write_text(patch)
    with pytest.raises(Error, match=re.escape(said)) as caught:
        series.apply(series.read(patches), tree)
    assert str(caught.value).startswith("patch one.patch does not apply: ")


def test_a_patch_that_is_there_already_is_refused(tree: Path, patches: Path) -> None:
    (patches / "series").write_text("one.patch\none.patch\n")
    with pytest.raises(Error, match=r"drivers/one\.c has this change already"):
        series.apply(series.read(patches), tree)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("one.patch\ngone.patch\n", "line 2: there is no patch gone.patch"),
        ("one.patch -p0\n", "line 1: one.patch asks for -p0"),
        ("# nothing\n", "names no patch"),
    ],
)
def test_a_bad_list_is_refused(patches: Path, text: str, said: str) -> None:
    (patches / "series").write_text(text)
    with pytest.raises(Error, match=re.escape(said)):
        series.read(patches)


def test_a_folder_without_a_list_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no file 'series'"):
        series.read(tmp_path)


def test_the_digest_is_that_of_the_patches(patches: Path) -> None:
    first = series.read(patches).digest()
    (patches / "series").write_text((patches / "series").read_text() + "# more\n")
    assert series.read(patches).digest() == first
    (patches / "one.patch").write_text(ONE.replace("nobody", "somebody"))
    assert series.read(patches).digest() != first
