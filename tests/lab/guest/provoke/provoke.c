// SPDX-License-Identifier: GPL-2.0-only
/*
 * Does one wrong thing when it is loaded, so that tests see the lab notice:
 * a kernel WARNING, what only a debug kernel notices (use_after_free,
 * out_of_bounds, deadlock, leak), or one misuse of the firmware, by the
 * assertion's name.
 * The first VF's state must fit into the buffer below, and its commands must
 * take long enough for something to happen meanwhile (NAP_MS).
 */
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/dma-mapping.h>
#include <linux/mlx5/driver.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/slab.h>

#define NPAGES 32
#define NAP_MS 100
#define VHCA_ID 0x40

#define TRACK BIT(6)
#define INCREMENTAL BIT(7)
#define SUSPEND 0x115
#define RESUME 0x116
#define SAVE 0x118
#define LOAD 0x119

static char *what = "";
module_param(what, charp, 0);
MODULE_PARM_DESC(what, "what to do wrong, see above");

static struct mlx5_core_dev *mdev;
static struct page *pages[NPAGES];
static dma_addr_t addresses[NPAGES];
static bool mapped;
static u32 pdn, mkey;

struct save {
	struct mlx5_async_ctx ctx;
	struct mlx5_async_work work;
	struct completion done;
	u8 in[32];
	u8 out[16];
};

static void put32(void *box, unsigned int byte, u32 value)
{
	*(__be32 *)((u8 *)box + byte) = cpu_to_be32(value);
}

static void unmap(void)
{
	int i;

	for (i = 0; mapped && i < NPAGES; i++)
		dma_unmap_page(mdev->device, addresses[i], PAGE_SIZE, DMA_BIDIRECTIONAL);
	mapped = false;
}

static int make_mkey(void)
{
	const int inlen = 272 + NPAGES * sizeof(__be64);
	u32 *in = kzalloc(inlen, GFP_KERNEL);
	int i, ret;

	if (!in)
		return -ENOMEM;
	put32(in, 16, 1 << 8);			/* the keys' translation mode: MTT */
	put32(in, 16 + 12, pdn);
	put32(in, 16 + 28, NPAGES * PAGE_SIZE);
	put32(in, 16 + 56, PAGE_SHIFT);
	for (i = 0; i < NPAGES; i++)
		((__be64 *)((u8 *)in + 272))[i] = cpu_to_be64(addresses[i]);
	ret = mlx5_core_create_mkey(mdev, &mkey, in, inlen);
	kfree(in);
	return ret;
}

static void tear_down(void)
{
	int i;

	if (mkey)
		mlx5_core_destroy_mkey(mdev, mkey);
	if (pdn)
		mlx5_core_dealloc_pd(mdev, pdn);
	unmap();
	for (i = 0; i < NPAGES && pages[i]; i++)
		__free_page(pages[i]);
}

static int set_up(void)
{
	int i, ret;

	for (i = 0; i < NPAGES; i++) {
		pages[i] = alloc_page(GFP_KERNEL | __GFP_ZERO);
		if (!pages[i])
			return -ENOMEM;
	}
	for (i = 0; i < NPAGES; i++) {
		addresses[i] = dma_map_page(mdev->device, pages[i], 0, PAGE_SIZE,
					    DMA_BIDIRECTIONAL);
		if (dma_mapping_error(mdev->device, addresses[i]))
			return -EIO;
	}
	mapped = true;
	ret = mlx5_core_alloc_pd(mdev, &pdn);
	return ret ?: make_mkey();
}

static int command(u16 opcode, u16 op_mod, u32 size)
{
	u8 in[32] = {}, out[16];

	put32(in, 0, opcode << 16);
	put32(in, 4, op_mod);
	put32(in, 8, VHCA_ID);
	put32(in, 24, mkey);
	put32(in, 28, size);
	return mlx5_cmd_exec(mdev, in, sizeof(in), out, sizeof(out));
}

static void suspend(void)
{
	command(SUSPEND, 0, 0);
	command(SUSPEND, 1, 0);
}

static void save_done(int status, struct mlx5_async_work *work)
{
	complete(&container_of(work, struct save, work)->done);
}

static struct save *save_start(u8 flags, u32 size)
{
	struct save *save = kzalloc(sizeof(*save), GFP_KERNEL);

	if (!save)
		return NULL;
	init_completion(&save->done);
	mlx5_cmd_init_async_ctx(mdev, &save->ctx);
	put32(save->in, 0, SAVE << 16);
	put32(save->in, 8, VHCA_ID);
	save->in[8] = flags;
	put32(save->in, 24, mkey);
	put32(save->in, 28, size);
	if (mlx5_cmd_exec_cb(&save->ctx, save->in, sizeof(save->in), save->out,
			     sizeof(save->out), save_done, &save->work))
		complete(&save->done);
	msleep(NAP_MS);
	return save;
}

/* Wait for a SAVE; returns the size of its image. */
static u32 save_end(struct save *save)
{
	u32 size;

	if (!save)
		return 0;
	wait_for_completion(&save->done);
	mlx5_cmd_cleanup_async_ctx(&save->ctx);
	size = be32_to_cpup((__be32 *)(save->out + 8));
	kfree(save);
	return size;
}

static void misuse(void)
{
	const u32 all = NPAGES * PAGE_SIZE;
	struct save *save, *other;
	u32 size;

	if (!strcmp(what, "two_saves")) {
		save = save_start(TRACK, all);
		other = save_start(TRACK, all);
		save_end(save);
		save_end(other);
	} else if (!strcmp(what, "suspend_during_save")) {
		save = save_start(TRACK, all);
		command(SUSPEND, 0, 0);
		save_end(save);
	} else if (!strcmp(what, "save_untracked")) {
		save_end(save_start(INCREMENTAL | TRACK, all));
	} else if (!strcmp(what, "track_suspended")) {
		suspend();
		save_end(save_start(TRACK, all));
	} else if (!strcmp(what, "beyond_mkey")) {
		save_end(save_start(TRACK, all + PAGE_SIZE));
	} else if (!strcmp(what, "mkey_destroyed_busy")) {
		save = save_start(TRACK, all);
		mlx5_core_destroy_mkey(mdev, mkey);
		mkey = 0;
		save_end(save);
	} else if (!strcmp(what, "pd_busy")) {
		mlx5_core_dealloc_pd(mdev, pdn);
	} else if (!strcmp(what, "unmapped")) {
		save = save_start(TRACK, all);
		unmap();
		save_end(save);
	} else if (!strcmp(what, "load_running")) {
		command(LOAD, 0, all);
	} else if (!strcmp(what, "resume_incomplete")) {
		size = save_end(save_start(TRACK, all));
		suspend();
		command(LOAD, 0, size);
		command(RESUME, 0, 0);
	} else if (!strcmp(what, "wrong_order")) {
		command(RESUME, 1, 0);
	}
}

static int provoke_misuse(void)
{
	struct pci_dev *pdev = NULL;
	int ret;

	for_each_pci_dev(pdev) {
		mdev = mlx5_vf_get_core_dev(pdev);
		if (mdev)
			break;
	}
	if (!mdev)
		return -ENODEV;
	ret = set_up();
	if (!ret && !strcmp(what, "left_at_exit"))
		pdn = 0;
	else if (!ret)
		misuse();
	tear_down();
	mlx5_vf_put_core_dev(mdev);
	pci_dev_put(pdev);
	return ret;
}

static void use_after_free(void)
{
	u8 *gone = kmalloc(64, GFP_KERNEL);

	if (!gone)
		return;
	kfree(gone);
	OPTIMIZER_HIDE_VAR(gone);
	READ_ONCE(gone[8]);
}

static void out_of_bounds(void)
{
	/* KASAN would not mind. */
	static struct {
		volatile int table[4];
		int behind;
	} both;
	int index = ARRAY_SIZE(both.table);

	OPTIMIZER_HIDE_VAR(index);
	both.table[index] = 1;
}

/* Two locks in either order, one after the other: nothing hangs. */
static void deadlock(void)
{
	static DEFINE_MUTEX(first);
	static DEFINE_MUTEX(second);

	mutex_lock(&first);
	mutex_lock(&second);
	mutex_unlock(&second);
	mutex_unlock(&first);
	mutex_lock(&second);
	mutex_lock(&first);
	mutex_unlock(&first);
	mutex_unlock(&second);
}

/* Several, since a stale copy of a pointer may still be somewhere. */
static void leak(void)
{
	void *lost;
	int i;

	for (i = 0; i < 16; i++) {
		lost = kmalloc(128, GFP_KERNEL);
		OPTIMIZER_HIDE_VAR(lost);
	}
}

static int __init provoke_init(void)
{
	static const struct {
		const char *name;
		void (*do_it)(void);
	} wrongs[] = {
		{ "use_after_free", use_after_free },
		{ "out_of_bounds", out_of_bounds },
		{ "deadlock", deadlock },
		{ "leak", leak },
	};
	int i;

	for (i = 0; i < ARRAY_SIZE(wrongs); i++) {
		if (!strcmp(what, wrongs[i].name)) {
			wrongs[i].do_it();
			return 0;
		}
	}
	if (strcmp(what, "warn"))
		return provoke_misuse();
	WARN(1, "provoked by a test\n");
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
