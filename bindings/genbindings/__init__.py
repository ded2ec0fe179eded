# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernel headers to verified Python bindings."""

__version__ = "0.1.0"
