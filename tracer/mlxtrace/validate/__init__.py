# SPDX-License-Identifier: GPL-2.0-or-later
"""What ``mlxtrace validate`` is made of: profiles, selection, the run, and its reports.

The checks themselves are in :mod:`mlxtrace.checks`.
"""
