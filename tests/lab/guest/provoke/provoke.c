// SPDX-License-Identifier: GPL-2.0-only
/* Does one wrong thing when it is loaded, so that tests see the lab notice. */
#include <linux/mlx5/driver.h>
#include <linux/module.h>
#include <linux/pci.h>

static char *what = "";
module_param(what, charp, 0);
MODULE_PARM_DESC(what, "warn: a kernel WARNING; misuse: RESUME of a VF that runs");

static int provoke_misuse(void)
{
	/* RESUME_VHCA of the first VF's initiator. */
	u8 in[16] = { 0x01, 0x16, [7] = 1, [11] = 0x40 }, out[16];
	struct mlx5_core_dev *mdev = NULL;
	struct pci_dev *pdev = NULL;

	for_each_pci_dev(pdev) {
		mdev = mlx5_vf_get_core_dev(pdev);
		if (mdev)
			break;
	}
	if (!mdev)
		return -ENODEV;
	mlx5_cmd_exec(mdev, in, sizeof(in), out, sizeof(out));
	mlx5_vf_put_core_dev(mdev);
	pci_dev_put(pdev);
	return 0;
}

static int __init provoke_init(void)
{
	if (!strcmp(what, "warn"))
		WARN(1, "provoked by a test\n");
	else if (!strcmp(what, "misuse"))
		return provoke_misuse();
	return 0;
}
module_init(provoke_init);

static void __exit provoke_exit(void)
{
}
module_exit(provoke_exit);

MODULE_DESCRIPTION("Provokes what the lab has to notice");
MODULE_AUTHOR("mlxtrace project");
MODULE_LICENSE("GPL");
