#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Runs in the guest of `mlxlab run --device mtty`: two migrations, every check, and nothing is left.
# Each writes files below $MLXLAB_OUT. A device of it keeps its state when it is closed, so that the
# second migration begins where the first one ended.
set -e

device=/sys/bus/mdev/devices/$MLXLAB_VF1
mlxtrace migrate --source "$MLXLAB_VF0" --target "$MLXLAB_VF1" --json "$MLXLAB_OUT/there.json"
mlxtrace migrate --source "$device" --target "$MLXLAB_VF0" --flip-byte 2 \
	--json "$MLXLAB_OUT/damaged.json" 2>"$MLXLAB_OUT/damaged.txt" || echo $? >"$MLXLAB_OUT/damaged"
mlxtrace validate --source "$MLXLAB_VF0" --target "$MLXLAB_VF1" --destructive --cycles 50 --json \
	--quiet >"$MLXLAB_OUT/checks"
sh "$MLXLAB_GUEST/vfs" down
# The bus goes with the module mdev.
ls -d /sys/bus/mdev >"$MLXLAB_OUT/left" 2>&- || :
sh "$MLXLAB_GUEST/vfs" up
[ -e "$device" ]
