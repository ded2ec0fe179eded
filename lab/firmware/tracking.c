// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the driver needs to link for device dirty tracking and for capabilities
 * of other functions. The stand-in does not offer dirty tracking, so that part
 * of the driver never runs: each of these says so if it does.
 */
#include <linux/mlx5/cq.h>
#include <linux/mlx5/vport.h>

#include "mlx5_lab.h"

static int lab_not_offered(struct mlx5_core_dev *mdev, const char *what)
{
	dev_err(mdev->device, "%s: dirty tracking is not offered\n", what);
	return -EOPNOTSUPP;
}

int mlx5_core_create_cq(struct mlx5_core_dev *mdev, struct mlx5_core_cq *cq, u32 *in,
			int inlen, u32 *out, int outlen)
{
	return lab_not_offered(mdev, __func__);
}
EXPORT_SYMBOL(mlx5_core_create_cq);

int mlx5_core_destroy_cq(struct mlx5_core_dev *mdev, struct mlx5_core_cq *cq)
{
	return lab_not_offered(mdev, __func__);
}
EXPORT_SYMBOL(mlx5_core_destroy_cq);

int mlx5_db_alloc_node(struct mlx5_core_dev *mdev, struct mlx5_db *db, int node)
{
	return lab_not_offered(mdev, __func__);
}
EXPORT_SYMBOL(mlx5_db_alloc_node);

void mlx5_db_free(struct mlx5_core_dev *mdev, struct mlx5_db *db)
{
	lab_not_offered(mdev, __func__);
}
EXPORT_SYMBOL(mlx5_db_free);

int mlx5_frag_buf_alloc_node(struct mlx5_core_dev *mdev, int size,
			     struct mlx5_frag_buf *buf, int node)
{
	return lab_not_offered(mdev, __func__);
}
EXPORT_SYMBOL(mlx5_frag_buf_alloc_node);

void mlx5_frag_buf_free(struct mlx5_core_dev *mdev, struct mlx5_frag_buf *buf)
{
	lab_not_offered(mdev, __func__);
}
EXPORT_SYMBOL(mlx5_frag_buf_free);

void mlx5_fill_page_frag_array(struct mlx5_frag_buf *frag_buf, __be64 *pas)
{
}
EXPORT_SYMBOL(mlx5_fill_page_frag_array);

struct mlx5_uars_page *mlx5_get_uars_page(struct mlx5_core_dev *mdev)
{
	return ERR_PTR(lab_not_offered(mdev, __func__));
}
EXPORT_SYMBOL(mlx5_get_uars_page);

void mlx5_put_uars_page(struct mlx5_core_dev *mdev, struct mlx5_uars_page *up)
{
	lab_not_offered(mdev, __func__);
}
EXPORT_SYMBOL(mlx5_put_uars_page);

int mlx5_eq_notifier_register(struct mlx5_core_dev *mdev, struct mlx5_nb *nb)
{
	return lab_not_offered(mdev, __func__);
}
EXPORT_SYMBOL(mlx5_eq_notifier_register);

int mlx5_eq_notifier_unregister(struct mlx5_core_dev *mdev, struct mlx5_nb *nb)
{
	return lab_not_offered(mdev, __func__);
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
	return lab_not_offered(mdev, __func__);
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
	return lab_not_offered(mdev, __func__);
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
