# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in the guest: a driver with PRE_COPY under cancelling, faults, resets, races and signals."""
