#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Runs in the guest: mlxtrace validate under the tracer, and what the firmware counted meanwhile.
#
# usage: watched.sh ID,...

set -eu

fw=/sys/kernel/debug/mlx5_lab
cd "$MLXLAB_OUT"
counters() {
	cat "$fw/$MLXLAB_VF0/counters" >"source.$1"
	cat "$fw/$MLXLAB_VF1/counters" >"target.$1"
}

for vf in "$MLXLAB_VF0" "$MLXLAB_VF1"; do
	echo $((2 << 20)) >"$fw/$vf/size_bytes"
done
counters before
mlxtrace precopy -d "$MLXLAB_VF0" -d "$MLXLAB_VF1" -w trace.mlxrec --ring-pages 1024 -c \
	"sh -c 'mlxtrace validate --source $MLXLAB_VF0 --target $MLXLAB_VF1 --only $1 --cycles 10 \
		--json --quiet >checks.jsonl'" >rows
counters after
