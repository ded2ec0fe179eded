#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Runs in the lab's guest: every scenario of test_suite.py in one boot. Each leaves its stdout,
# stderr and exit status in a folder of its own below $MLXLAB_OUT. What is the same whatever the
# driver runs once: `suite.sh driver` leaves some of it out, and has the rest.

here=$(dirname "$0")
fw=/sys/kernel/debug/mlx5_lab
nobody=65534

scenario() {
	name=$1
	shift
	mkdir -p "$MLXLAB_OUT/$name"
	echo "suite: $name"
	(
		cd "$MLXLAB_OUT/$name" || exit 1
		"$@" >stdout 2>stderr
		echo $? >status
	)
}

traced() {
	$inside mlxtrace precopy -d "$MLXLAB_VF0" -d "$MLXLAB_VF1" -w trace.mlxrec "$@" \
		-c "mlxtrace migrate --source $MLXLAB_VF0 --target $MLXLAB_VF1 --json client.json"
	status=$?
	cat "$fw/$MLXLAB_VF0/counters" >source.counters
	cat "$fw/$MLXLAB_VF1/counters" >target.counters
	return $status
}

migrate() {
	mlxtrace migrate --source "$MLXLAB_VF0" --target "$MLXLAB_VF1" "$@"
}

unbound() {
	echo "$MLXLAB_VF1" >/sys/bus/pci/drivers/mlx5_vfio_pci/unbind
	migrate
	status=$?
	echo "$MLXLAB_VF1" >/sys/bus/pci/drivers/mlx5_vfio_pci/bind
	return $status
}

# The one capability lets the user read a checkout in root's home, and write nothing.
unprivileged() {
	setpriv --reuid=$nobody --regid=$nobody --clear-groups \
		--inh-caps=+dac_read_search --ambient-caps=+dac_read_search "$@"
}

without_headers() {
	unshare -m sh -c '
		for link in build source; do
			headers=$(readlink -f "/lib/modules/$(uname -r)/$link")
			mount -t tmpfs none "$headers"
		done
		exec "$@"' sh "$@"
}

# The callback is not seen, and the kernel's headers are not there, which the tracer does not need.
blind() {
	inside=without_headers
	traced --without save-callback
}

without_module() {
	for vf in $MLXLAB_VFS; do
		echo "$vf" >/sys/bus/pci/drivers/mlx5_vfio_pci/unbind
	done
	modprobe -r mlx5_vfio_pci
	mlxtrace precopy --duration 1
	status=$?
	modprobe mlx5_vfio_pci
	for vf in $MLXLAB_VFS; do
		echo "$vf" >/sys/bus/pci/drivers_probe
	done
	return $status
}

# Both hosts in one: what differs between two is the network.
two_hosts() {
	mlxtrace migrate --listen 127.0.0.1:4444 --target "$MLXLAB_VF1" --json target.json \
		>listening 2>&1 &
	mlxtrace migrate --source "$MLXLAB_VF0" --connect 127.0.0.1:4444 --json client.json
	status=$?
	wait $! || status=$?
	return $status
}

scenario traced traced --content
scenario cancels mlxtrace precopy -d "$MLXLAB_VF0" -w trace.mlxrec \
	-c "env PYTHONPATH=$here/../../.. python -m tests.lab.guest.cancels cancels.json"
scenario flood mlxtrace precopy -w trace.mlxrec -c "python $here/flood.py flood.json"
scenario stop-copy migrate --no-precopy --json client.json
scenario to-file mlxtrace migrate --source "$MLXLAB_VF0" --to state.mlxstream --json client.json
scenario from-file mlxtrace migrate --from ../to-file/state.mlxstream --target "$MLXLAB_VF1" \
	--json client.json
# The initial image has 8.4 MB, so this byte is in a later one.
scenario damaged migrate --flip-byte 8500000 --json client.json
scenario after-damage migrate --json client.json
if [ "$1" != driver ]; then
	scenario blind blind
	scenario images python "$here/images.py" images.json
	scenario dry-run mlxtrace precopy --dry-run
	scenario no-device mlxtrace migrate --source 0000:ff:1f.7 --target "$MLXLAB_VF1"
	scenario no-traced-device mlxtrace precopy -d 0000:ff:1f.7 --duration 1
	scenario unbound unbound
	scenario unprivileged-trace unprivileged mlxtrace precopy --duration 1
	scenario unprivileged-migrate unprivileged mlxtrace migrate \
		--source "$MLXLAB_VF0" --target "$MLXLAB_VF1"
	scenario without-module without_module
else
	scenario own-rule python "$here/../../../docs/examples/own_rule.py" "$MLXLAB_VF0"
	scenario two-hosts two_hosts
fi
cat "$fw/assertions" >"$MLXLAB_OUT/assertions"
scenario unload sh "$MLXLAB_GUEST/vfs" down
scenario load sh "$MLXLAB_GUEST/vfs" up
