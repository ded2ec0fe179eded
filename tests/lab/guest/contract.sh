#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Runs in the guest: checks under faults, then mlxtrace validate. Both print JSON lines.
#
# usage: contract.sh FAULT...

set -eu

# Small, since it is copied often, and some of it a byte at a time.
for vf in "$MLXLAB_VF0" "$MLXLAB_VF1"; do
	echo $((2 << 20)) >"/sys/kernel/debug/mlx5_lab/$vf/size_bytes"
done
python -m tests.lab.guest.contract "$@"
mlxtrace validate --source "$MLXLAB_VF0" --target "$MLXLAB_VF1" --destructive --cycles 25 \
	--check-timeout 120 --json --quiet --junit "$MLXLAB_OUT/validate.xml"
