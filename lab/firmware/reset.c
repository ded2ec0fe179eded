// SPDX-License-Identifier: GPL-2.0-only
/*
 * Resets of a VF, which come past the command interface: probes in the PCI core
 * tell of them.
 */
#include <linux/kprobes.h>

#include "mlx5_lab.h"

/* Vfio resets a VF with an FLR, which the simulated firmware must notice. */
static int lab_flr_entry(struct kprobe *probe, struct pt_regs *regs)
{
	struct pci_dev *pdev = (struct pci_dev *)regs_get_kernel_argument(regs, 0);
	bool only_asked = (u8)regs_get_kernel_argument(regs, 1);
	struct lab_vf *vf = only_asked ? NULL : lab_vf_of(pdev);

	if (!vf)
		return 0;
	WRITE_ONCE(vf->in_reset, true);
	atomic_set(&vf->reset_pending, 1);
	lab_count(vf, LAB_COUNT_RESET, 1);
	return 0;
}

static struct kprobe lab_flr_probe = {
	.symbol_name = "pcie_reset_flr",
	.pre_handler = lab_flr_entry,
};

/*
 * The functions that reset one device. The first two have the device's driver
 * hear of it at their end, when it is over; they call the third, which vfio also
 * calls by itself when it closes a device.
 */
static int lab_reset_entry(struct kretprobe_instance *call, struct pt_regs *regs)
{
	struct pci_dev *pdev = (struct pci_dev *)regs_get_kernel_argument(regs, 0);
	struct lab_vf *vf = lab_vf_of(pdev);

	*(struct lab_vf **)call->data = vf;
	if (vf)
		atomic_inc(&vf->reset_depth);
	return 0;
}

static int lab_reset_return(struct kretprobe_instance *call, struct pt_regs *regs)
{
	struct lab_vf *vf = *(struct lab_vf **)call->data;

	if (vf && atomic_dec_and_test(&vf->reset_depth))
		WRITE_ONCE(vf->in_reset, false);
	return 0;
}

#define LAB_RESET_PROBE(name) {						\
	.kp.symbol_name = name,						\
	.entry_handler = lab_reset_entry,				\
	.handler = lab_reset_return,					\
	.data_size = sizeof(struct lab_vf *),				\
}

static struct kretprobe lab_reset_probes[] = {
	LAB_RESET_PROBE("pci_try_reset_function"),
	LAB_RESET_PROBE("pci_reset_function"),
	LAB_RESET_PROBE("__pci_reset_function_locked"),
};

static struct kretprobe *lab_reset_list[] = {
	&lab_reset_probes[0], &lab_reset_probes[1], &lab_reset_probes[2],
};

int lab_reset_init(void)
{
	int ret = register_kprobe(&lab_flr_probe);

	if (ret)
		return ret;
	ret = register_kretprobes(lab_reset_list, ARRAY_SIZE(lab_reset_list));
	if (ret)
		unregister_kprobe(&lab_flr_probe);
	return ret;
}

void lab_reset_exit(void)
{
	unregister_kretprobes(lab_reset_list, ARRAY_SIZE(lab_reset_list));
	unregister_kprobe(&lab_flr_probe);
}
