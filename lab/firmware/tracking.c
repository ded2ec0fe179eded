// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory and numbers that the driver needs for a log of what a device writes
 * to (see log.c), and capabilities of other functions.
 */
#include <linux/dma-mapping.h>
#include <linux/mlx5/vport.h>
#include <linux/slab.h>

#include "mlx5_lab.h"

/* Two doorbells, with a cache line of their own. */
#define LAB_DB_BYTES 64

int mlx5_db_alloc_node(struct mlx5_core_dev *mdev, struct mlx5_db *db, int node)
{
	db->db = dma_alloc_coherent(mdev->device, LAB_DB_BYTES, &db->dma, GFP_KERNEL);
	return db->db ? 0 : -ENOMEM;
}
EXPORT_SYMBOL(mlx5_db_alloc_node);

void mlx5_db_free(struct mlx5_core_dev *mdev, struct mlx5_db *db)
{
	dma_free_coherent(mdev->device, LAB_DB_BYTES, db->db, db->dma);
}
EXPORT_SYMBOL(mlx5_db_free);

void mlx5_frag_buf_free(struct mlx5_core_dev *mdev, struct mlx5_frag_buf *buf)
{
	int i;

	for (i = 0; i < buf->npages; i++)
		if (buf->frags[i].buf)
			dma_free_coherent(mdev->device, PAGE_SIZE, buf->frags[i].buf,
					  buf->frags[i].map);
	kfree(buf->frags);
}
EXPORT_SYMBOL(mlx5_frag_buf_free);

int mlx5_frag_buf_alloc_node(struct mlx5_core_dev *mdev, int size,
			     struct mlx5_frag_buf *buf, int node)
{
	int i;

	buf->size = size;
	buf->npages = DIV_ROUND_UP(size, PAGE_SIZE);
	buf->page_shift = PAGE_SHIFT;
	buf->frags = kcalloc(buf->npages, sizeof(*buf->frags), GFP_KERNEL);
	if (!buf->frags)
		return -ENOMEM;
	for (i = 0; i < buf->npages; i++) {
		buf->frags[i].buf = dma_alloc_coherent(mdev->device, PAGE_SIZE,
						       &buf->frags[i].map, GFP_KERNEL);
		if (!buf->frags[i].buf) {
			mlx5_frag_buf_free(mdev, buf);
			return -ENOMEM;
		}
	}
	return 0;
}
EXPORT_SYMBOL(mlx5_frag_buf_alloc_node);

void mlx5_fill_page_frag_array(struct mlx5_frag_buf *frag_buf, __be64 *pas)
{
	int i;

	for (i = 0; i < frag_buf->npages; i++)
		pas[i] = cpu_to_be64(frag_buf->frags[i].map);
}
EXPORT_SYMBOL(mlx5_fill_page_frag_array);

/* A page of the device's, with which a driver says what it has taken. */
struct mlx5_uars_page *mlx5_get_uars_page(struct mlx5_core_dev *mdev)
{
	struct mlx5_uars_page *page = kzalloc(sizeof(*page), GFP_KERNEL);

	if (!page)
		return ERR_PTR(-ENOMEM);
	page->map = (void __iomem *)get_zeroed_page(GFP_KERNEL);
	if (!page->map) {
		kfree(page);
		return ERR_PTR(-ENOMEM);
	}
	return page;
}
EXPORT_SYMBOL(mlx5_get_uars_page);

void mlx5_put_uars_page(struct mlx5_core_dev *mdev, struct mlx5_uars_page *up)
{
	free_page((unsigned long)(__force void *)up->map);
	kfree(up);
}
EXPORT_SYMBOL(mlx5_put_uars_page);

/* No queue ever fails here: there is nothing to be told of. */
int mlx5_eq_notifier_register(struct mlx5_core_dev *mdev, struct mlx5_nb *nb)
{
	return 0;
}
EXPORT_SYMBOL(mlx5_eq_notifier_register);

int mlx5_eq_notifier_unregister(struct mlx5_core_dev *mdev, struct mlx5_nb *nb)
{
	return 0;
}
EXPORT_SYMBOL(mlx5_eq_notifier_unregister);

bool mlx5_is_roce_on(struct mlx5_core_dev *mdev)
{
	return false;
}
EXPORT_SYMBOL(mlx5_is_roce_on);

/* Linux 6.5 and 6.6 renamed the completion vector calls. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 6, 0)
unsigned int mlx5_comp_vectors_max(struct mlx5_core_dev *mdev)
{
	return 1;
}
EXPORT_SYMBOL(mlx5_comp_vectors_max);

int mlx5_comp_eqn_get(struct mlx5_core_dev *mdev, u16 vecidx, int *eqn)
{
	*eqn = 0;
	return 0;
}
EXPORT_SYMBOL(mlx5_comp_eqn_get);
#else
unsigned int mlx5_comp_vectors_count(struct mlx5_core_dev *mdev)
{
	return 1;
}
EXPORT_SYMBOL(mlx5_comp_vectors_count);

int mlx5_vector2eqn(struct mlx5_core_dev *mdev, int vector, int *eqn)
{
	*eqn = 0;
	return 0;
}
EXPORT_SYMBOL(mlx5_vector2eqn);
#endif

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 3, 0)
/* Whether a VF may be migrated at all is an administrator's choice: a knob. */
int mlx5_vport_get_other_func_cap(struct mlx5_core_dev *mdev, u16 vport, void *out,
				  u16 opmod)
{
	struct lab_pf *pf = lab_pf_of(mdev);

	if (!vport || vport > pf->num_vfs)
		return -EINVAL;
	memset(out, 0, MLX5_ST_SZ_BYTES(query_hca_cap_out));
	if (opmod == MLX5_CAP_GENERAL_2)
		lab_put_bit((u8 *)out + LAB_CAP_OFFSET, LAB_CAP2_MIGRATABLE,
			    pf->vfs[vport - 1].migratable);
	return 0;
}
EXPORT_SYMBOL(mlx5_vport_get_other_func_cap);
#endif
