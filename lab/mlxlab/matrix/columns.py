# SPDX-License-Identifier: GPL-2.0-or-later
"""What a matrix compares: kernels of the lab, revisions of a series, and results from elsewhere."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from genbindings.errors import Error, UsageError
from mlxlab import table
from mlxpatch import series as patches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlxlab.table import Entry
    from mlxpatch.progress import Progress
    from mlxpatch.series import Series

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_LONGEST = 40
# The table itself has these names in the folder where the columns' are.
_TAKEN = frozenset({"matrix.json", "matrix.md", "matrix.txt"})
_SUFFIX = re.compile(r"\.(?:patch|diff|mbox|mbx|eml|gz|xz|bz2|tar|tgz|txz|tbz2?)$")


@dataclass(frozen=True)
class Column:
    """A kernel that is booted for one column, or what validate printed somewhere else.

    Attributes:
        name: the column's head, and the folder of what is kept of it.
        words: the options that ask for it.
        entry: what is booted; None for a result.
        series: the patches, where it is a revision that could be read.
        problem: why it cannot be booted.
        result: the file with validate's JSON lines, of a host that is not the lab.
    """

    name: str
    words: tuple[str, ...]
    entry: Entry | None
    series: Series | None = None
    problem: str = ""
    result: Path | None = None


def choose(
    kernels: Sequence[str], series: Sequence[str], progress: Progress, results: Sequence[str] = ()
) -> list[Column]:
    """Return the columns: ``kernels``, then ``series``, then ``results``, in the given order.

    A word of ``series`` is what mlxpatch takes, or ``NAME=`` and that. Without a name, the column
    is called after the folder, after the end of the git range, or after the version in the
    patches' subjects; where two would be the same, after the file. A word of ``results`` is a file
    with validate's JSON lines, or ``NAME=`` and that.

    Raises:
        UsageError: there is no such kernel, series or file, or two columns have the same name.
    """
    chosen = [Column(name, ("--kernel", name), table.pick(name)) for name in kernels]
    names = [column.name for column in chosen]
    revisions = [_Revision.of(word, progress) for word in series]
    short = [*names, *(revision.name for revision in revisions)]
    for revision in revisions:
        name = revision.name if short.count(revision.name) == 1 else revision.given or revision.file
        chosen.append(
            Column(
                name,
                ("--series", revision.word),
                replace(table.of_series(revision.spec), name=name),
                revision.series,
                revision.problem,
            )
        )
    chosen += [_result(word) for word in results]
    names = [column.name for column in chosen]
    for name in names:
        if name in _TAKEN:
            raise UsageError(f"no column can be called {name}", "name it: --series NAME=SERIES")
        if names.count(name) > 1:
            raise UsageError(
                f"two columns would be called {name}", "name them: --series NAME=SERIES"
            )
    return chosen


def _result(word: str) -> Column:
    name, equals, rest = word.partition("=")
    named = bool(equals) and bool(_NAME.fullmatch(name)) and not Path(word).exists()
    path = Path(rest).expanduser() if named else Path(word)
    if not path.is_file():
        raise UsageError(f"--result {word[:_LONGEST]}: there is no file {path}")
    return Column(
        name if named else _fit(re.sub(r"\.jsonl?$", "", path.name), "result"),
        ("--result", word),
        None,
        result=path,
    )


def _fit(name: str, otherwise: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", name).strip("-.")[:_LONGEST] or otherwise


def told(error: Error) -> str:
    """Return ``error`` as the reason of a column that could not be run."""
    return f"{error} ({error.hint})" if error.hint else str(error)


@dataclass(frozen=True)
class _Revision:
    word: str
    given: str
    spec: str
    series: Series | None
    problem: str

    @classmethod
    def of(cls, word: str, progress: Progress) -> _Revision:
        name, equals, rest = word.partition("=")
        given, spec = "", word
        try:
            named = bool(equals) and bool(_NAME.fullmatch(name)) and not Path(word).exists()
            # No shell does it behind an equals sign.
            home = str(Path(rest).expanduser()) if rest.startswith("~/") else rest
            if named:
                given, spec = name, home
            return cls(word, given, spec, patches.load(spec, progress), "")
        except UsageError:
            raise
        except OSError as error:
            raise UsageError(f"--series {word[:_LONGEST]}: {error.strerror}") from None
        except Error as error:
            return cls(word, given, spec, None, told(error))

    @property
    def name(self) -> str:
        if self.given:
            return self.given
        if self.series is None or not Path(self.spec).exists() or Path(self.spec).is_dir():
            return self.file
        versions = {patch.mail.version for patch in self.series.patches if patch.mail.count}
        return f"v{versions.pop()}" if len(versions) == 1 else self.file

    @property
    def file(self) -> str:
        """The last part of what was given, without what ends a file's name."""
        path = Path(self.spec)
        if path.exists():
            name = path.resolve().name
            while path.is_file() and _SUFFIX.search(name):
                name = _SUFFIX.sub("", name)
        else:
            name = re.split(r"\.\.+|:", self.spec)[-1] or "HEAD"
        return _fit(name, "series")
