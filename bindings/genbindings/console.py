# SPDX-License-Identifier: GPL-2.0-or-later
"""What the four commands share: numbers, exit statuses, error lines."""

from __future__ import annotations

import errno
import io
import math
import os
import sys
from typing import Any, NoReturn

import click

from genbindings import __version__
from genbindings.errors import Error

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

version_option = click.version_option(__version__, "--version", message="%(prog)s %(version)s")


YEAR_S = 366 * 86_400


class FiniteRange(click.FloatRange):
    """A time in a range: ``inf`` and ``nan``, which Python takes, are none, and a year is enough.

    Args:
        min: the least; with ``min_open`` it must be more.
        min_open: whether ``min`` itself is no such time.
        second: how many of the option's units a second has.
    """

    def __init__(
        self,
        min: float,  # noqa: A002 - click's name for it
        *,
        min_open: bool = False,
        second: float = 1,
    ) -> None:
        super().__init__(min, min_open=min_open)
        self._most = YEAR_S * second

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number; anything else is a usage error."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        if number > self._most:
            self.fail(f"{value} is more than a year.", param, ctx)
        return number


# What write(2) says of a disk that is full, or breaks.
_UNWRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def run(command: click.Command, name: str) -> NoReturn:
    """Run ``command`` and exit: 0 done, 1 failed, 2 usage, 130 after Ctrl-C.

    An :class:`Error` becomes ``NAME: error: …`` and a ``hint:`` line on stderr. A command may
    return an exit status of its own as an int.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names come from kernels and files: one that the terminal cannot show is no failure.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        result: Any = command.main(prog_name=name, standalone_mode=False)
        # Not at exit, where nobody could say what failed.
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except Error as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        if error.hint:
            print(f"  hint: {error.hint}", file=sys.stderr)
        sys.exit(error.status)
    except BrokenPipeError:
        # The reader of a pipe went away.
        drop_output()
        sys.exit(1)
    except OSError as error:
        # What concerns a file that a command has opened is an Error, which names it.
        if error.errno not in _UNWRITTEN or error.filename is not None:
            raise
        drop_output()
        print(f"{name}: error: cannot write the output: {error.strerror}", file=sys.stderr)
        sys.exit(1)
    sys.exit(result if isinstance(result, int) else 0)


def drop_output() -> None:
    """Let stdout go nowhere: Python would complain again when it flushes it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
