#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Load modules that dkms built beside the distribution's own mlx5_core, which finds no device, and
# unload all of it: beside_mlx5_core.sh MLX5_CORE.KO FOLDER. The lab is as before afterwards.

core=$1
folder=$2
# In the order in which they need each other.
order='vfio_virqfd vfio vfio_iommu_type1 vfio-pci-core vfio-pci mlx5-vfio-pci'

say() {
	echo "beside_mlx5_core: $*" >&2
	exit 1
}

sh "$MLXLAB_GUEST/vfs" down || exit 1
for module in vfio_iommu_type1 vfio_pci vfio_pci_core vfio vfio_virqfd; do
	[ ! -e "/sys/module/$module" ] || /sbin/modprobe -r "$module" || say "$module stays loaded"
done
for module in $(modinfo -F depends "$core" | tr , ' ') irqbypass; do
	/sbin/modprobe "$module" || say "no $module"
done
/sbin/insmod "$core" || say 'mlx5_core does not load'
for module in $order; do
	[ -e "$folder/$module.ko" ] || continue
	/sbin/insmod "$folder/$module.ko" || say "$module does not load"
done
cp /proc/modules "$MLXLAB_OUT/modules"
for module in mlx5_core mlx5_vfio_pci vfio; do
	od -An -v -tx1 "/sys/module/$module/notes/.note.gnu.build-id" | tr -d ' \n' |
		tail -c 40 >"$MLXLAB_OUT/$module.build-id"
done
ls /sys/bus/pci/drivers >"$MLXLAB_OUT/drivers"
for module in mlx5_vfio_pci vfio_pci vfio_pci_core vfio_iommu_type1 vfio vfio_virqfd mlx5_core; do
	[ ! -e "/sys/module/$module" ] || /sbin/rmmod "$module" || say "$module does not unload"
done
sh "$MLXLAB_GUEST/vfs" up
