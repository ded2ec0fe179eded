# SPDX-License-Identifier: GPL-2.0-or-later
"""Order and selection: unit tests first, then the lab; --all adds what takes long."""

from __future__ import annotations

import pytest
from hypothesis import settings

# No test asserts a time: an example is slow where the machine has other work.
settings.register_profile("mlxtrace", deadline=None)
settings.load_profile("mlxtrace")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --all."""
    parser.addoption("--all", action="store_true", help="run also the tests marked 'slow'")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run the lab last: what fails in a second should not wait for a VM."""
    if not config.getoption("--all"):
        skip = pytest.mark.skip(reason="takes long; --all runs it")
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(skip)
    items.sort(key=lambda item: "lab" in item.keywords)
