# SPDX-License-Identifier: GPL-2.0-or-later
"""Events as JSON lines for programs: docs/events.md is their schema."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlxtrace.events import Event


def line(event: Event) -> str:
    """Return ``event`` as one line of JSON without its newline."""
    return json.dumps(event.to_json(), separators=(",", ":"))
