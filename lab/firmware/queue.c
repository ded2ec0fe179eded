// SPDX-License-Identifier: GPL-2.0-only
/*
 * Queue pairs and completion queues, as far as a log needs them: one of the
 * firmware's sends to one of the driver's, which has receive buffers posted,
 * and each message makes an entry in the driver's completion queue.
 *
 * All of it, but for the driver's memory, is protected by log_lock.
 */
#include <linux/mlx5/cq.h>
#include <linux/mlx5/qp.h>
#include <linux/slab.h>

#include "mlx5_lab.h"

/* Queues are in the driver's memory, of which these are the DMA addresses. */
struct lab_queue {
	dma_addr_t doorbell;
	u32 entries;
	/* Entries that were written, or taken from it, so far. */
	u32 count;
	unsigned int npages;
	__be64 pas[] __counted_by(npages);
};

struct lab_qp {
	u32 number;
	u32 remote;
	u32 cqn;
	struct lab_queue *receive;
};

struct lab_cq {
	struct mlx5_core_cq *core;
	struct lab_queue *queue;
};

static struct lab_queue *lab_queue_create(u32 entries, dma_addr_t doorbell,
					  const void *pas, unsigned int npages)
{
	struct lab_queue *queue = kzalloc(struct_size(queue, pas, npages), GFP_KERNEL);

	if (!queue)
		return NULL;
	queue->npages = npages;
	queue->entries = entries;
	queue->doorbell = doorbell;
	memcpy(queue->pas, pas, npages * sizeof(__be64));
	return queue;
}

/* Where entry @number, of @size bytes, is in memory; NULL if it is gone. */
static void *lab_queue_entry(struct lab_pf *pf, struct lab_queue *queue, u32 number,
			     unsigned int size)
{
	u64 offset = (u64)(number & (queue->entries - 1)) * size;

	if (offset >> PAGE_SHIFT >= queue->npages)
		return NULL;
	return lab_dma_memory(pf, be64_to_cpu(queue->pas[offset >> PAGE_SHIFT]) +
				      offset_in_page(offset));
}

int mlx5_core_create_cq(struct mlx5_core_dev *mdev, struct mlx5_core_cq *core, u32 *in,
			int inlen, u32 *out, int outlen)
{
	void *context = MLX5_ADDR_OF(create_cq_in, in, cq_context);
	struct lab_pf *pf = lab_pf_of(mdev);
	struct lab_cq *cq;
	int ret = -ENOMEM;

	cq = kzalloc(sizeof(*cq), GFP_KERNEL);
	if (!cq)
		return -ENOMEM;
	cq->core = core;
	cq->queue = lab_queue_create(1 << MLX5_GET(cqc, context, log_cq_size),
				     MLX5_GET64(cqc, context, dbr_addr),
				     MLX5_ADDR_OF(create_cq_in, in, pas),
				     (inlen - MLX5_ST_SZ_BYTES(create_cq_in)) / 8);
	if (!cq->queue)
		goto out_free;
	mutex_lock(&pf->log_lock);
	ret = xa_alloc(&pf->cqs, &core->cqn, cq, XA_LIMIT(1, 0xffffff), GFP_KERNEL);
	mutex_unlock(&pf->log_lock);
	if (ret)
		goto out_free;
	core->cons_index = 0;
	core->arm_sn = 0;
	return 0;

out_free:
	kfree(cq->queue);
	kfree(cq);
	return ret;
}
EXPORT_SYMBOL(mlx5_core_create_cq);

static void lab_cq_free(struct lab_cq *cq)
{
	kfree(cq->queue);
	kfree(cq);
}

int mlx5_core_destroy_cq(struct mlx5_core_dev *mdev, struct mlx5_core_cq *core)
{
	struct lab_pf *pf = lab_pf_of(mdev);
	struct lab_cq *cq;

	mutex_lock(&pf->log_lock);
	cq = xa_erase(&pf->cqs, core->cqn);
	mutex_unlock(&pf->log_lock);
	if (!cq)
		return -EINVAL;
	lab_cq_free(cq);
	return 0;
}
EXPORT_SYMBOL(mlx5_core_destroy_cq);

static int lab_qp_create(struct lab_pf *pf, const void *in, int in_size, void *out)
{
	const void *context = MLX5_ADDR_OF(create_qp_in, in, qpc);
	struct lab_qp *qp;
	int ret = -ENOMEM;

	if (in_size < MLX5_ST_SZ_BYTES(create_qp_in))
		return -EINVAL;
	qp = kzalloc(sizeof(*qp), GFP_KERNEL);
	if (!qp)
		return -ENOMEM;
	if (MLX5_GET(qpc, context, rq_type) == MLX5_NON_ZERO_RQ) {
		qp->cqn = MLX5_GET(qpc, context, cqn_rcv);
		qp->receive = lab_queue_create(1 << MLX5_GET(qpc, context, log_rq_size),
					       MLX5_GET64(qpc, context, dbr_addr),
					       MLX5_ADDR_OF(create_qp_in, in, pas),
					       (in_size - MLX5_ST_SZ_BYTES(create_qp_in)) / 8);
		if (!qp->receive)
			goto out_free;
	}
	ret = xa_alloc(&pf->qps, &qp->number, qp, XA_LIMIT(1, 0xffffff), GFP_KERNEL);
	if (ret)
		goto out_free;
	MLX5_SET(create_qp_out, out, qpn, qp->number);
	return 0;

out_free:
	kfree(qp->receive);
	kfree(qp);
	return ret;
}

static void lab_qp_free(struct lab_qp *qp)
{
	kfree(qp->receive);
	kfree(qp);
}

/* The steps by which two queue pairs are connected: only one says with whom. */
static int lab_qp_modify(struct lab_pf *pf, u16 opcode, const void *in)
{
	struct lab_qp *qp = xa_load(&pf->qps, MLX5_GET(init2rtr_qp_in, in, qpn));
	const void *context = MLX5_ADDR_OF(init2rtr_qp_in, in, qpc);

	if (!qp)
		return -EINVAL;
	if (opcode == MLX5_CMD_OP_INIT2RTR_QP)
		qp->remote = MLX5_GET(qpc, context, remote_qpn);
	return 0;
}

/*
 * Send @bytes of @data and a number from the queue pair @qpn. Returns -EAGAIN
 * if the driver has to take something before.
 */
int lab_qp_send(struct lab_pf *pf, u32 qpn, void *data, u32 bytes, u32 number)
{
	struct lab_qp *ours = xa_load(&pf->qps, qpn);
	struct lab_qp *theirs = ours ? xa_load(&pf->qps, ours->remote) : NULL;
	struct lab_cq *cq = theirs ? xa_load(&pf->cqs, theirs->cqn) : NULL;
	struct mlx5_wqe_data_seg *segment;
	struct mlx5_cqe64 *cqe;
	struct lab_mkey *mkey;
	__be32 *posted;
	u32 size;
	int ret;

	if (!cq || !theirs->receive)
		return -ENOTCONN;
	posted = lab_dma_memory(pf, theirs->receive->doorbell);
	segment = lab_queue_entry(pf, theirs->receive, theirs->receive->count,
				  sizeof(*segment));
	size = cq->core->cqe_sz;
	cqe = lab_queue_entry(pf, cq->queue, cq->queue->count, size);
	if (!posted || !segment || !cqe)
		return -EFAULT;
	if (!(u16)(be32_to_cpu(READ_ONCE(*posted)) - theirs->receive->count))
		return -EAGAIN;
	mkey = lab_mkey_get(pf, be32_to_cpu(segment->lkey));
	if (!mkey || bytes > be32_to_cpu(segment->byte_count)) {
		ret = -EFAULT;
	} else {
		ret = lab_mkey_copy(pf, mkey, be64_to_cpu(segment->addr), data, bytes,
				    true);
	}
	if (mkey)
		lab_mkey_put(mkey);
	if (ret)
		return ret;
	/* Of a large entry the second half counts. */
	cqe = (void *)cqe + size - sizeof(*cqe);
	cqe->immediate = cpu_to_be32(number);
	cqe->byte_cnt = cpu_to_be32(bytes);
	cqe->wqe_counter = cpu_to_be16(theirs->receive->count);
	/* The owner bit tells the driver that the rest is there. */
	dma_wmb();
	WRITE_ONCE(cqe->op_own, MLX5_CQE_RESP_SEND_IMM << 4 |
				!!(cq->queue->count & cq->queue->entries));
	theirs->receive->count++;
	cq->queue->count++;
	cq->core->comp(cq->core, NULL);
	return 0;
}

/* Execute a command about queue pairs; -EOPNOTSUPP if it is none. */
int lab_qp_execute(struct lab_pf *pf, u16 opcode, const void *in, int in_size, void *out)
{
	struct lab_qp *qp;

	switch (opcode) {
	case MLX5_CMD_OP_CREATE_QP:
		return lab_qp_create(pf, in, in_size, out);
	case MLX5_CMD_OP_RST2INIT_QP:
	case MLX5_CMD_OP_INIT2RTR_QP:
	case MLX5_CMD_OP_RTR2RTS_QP:
		return lab_qp_modify(pf, opcode, in);
	case MLX5_CMD_OP_DESTROY_QP:
		qp = xa_erase(&pf->qps, MLX5_GET(destroy_qp_in, in, qpn));
		if (!qp)
			return -EINVAL;
		lab_qp_free(qp);
		return 0;
	default:
		return -EOPNOTSUPP;
	}
}

void lab_queues_init(struct lab_pf *pf)
{
	xa_init_flags(&pf->cqs, XA_FLAGS_ALLOC1);
	xa_init_flags(&pf->qps, XA_FLAGS_ALLOC1);
}

/* Return how many queues the driver left, and free them. */
unsigned long lab_queues_left(struct lab_pf *pf)
{
	unsigned long index, left = 0;
	struct lab_cq *cq;
	struct lab_qp *qp;

	xa_for_each(&pf->qps, index, qp) {
		left++;
		lab_qp_free(qp);
	}
	xa_for_each(&pf->cqs, index, cq) {
		left++;
		lab_cq_free(cq);
	}
	xa_destroy(&pf->qps);
	xa_destroy(&pf->cqs);
	return left;
}
