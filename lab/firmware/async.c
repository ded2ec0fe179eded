// SPDX-License-Identifier: GPL-2.0-only
/*
 * Asynchronous commands. As with the hardware, the caller gets no answer but
 * that the command is on its way, and the callback comes in hard interrupt
 * context: here from a timer that expires when the firmware would be done.
 */
#include <linux/slab.h>

#include "mlx5_lab.h"

void mlx5_cmd_init_async_ctx(struct mlx5_core_dev *mdev, struct mlx5_async_ctx *ctx)
{
	ctx->dev = mdev;
	/* The context's own count, dropped by cleanup. */
	atomic_set(&ctx->num_inflight, 1);
	init_completion(&ctx->inflight_done);
}
EXPORT_SYMBOL(mlx5_cmd_init_async_ctx);

/* Returns only after every callback of this context has run. */
void mlx5_cmd_cleanup_async_ctx(struct mlx5_async_ctx *ctx)
{
	if (!atomic_dec_and_test(&ctx->num_inflight))
		wait_for_completion(&ctx->inflight_done);
}
EXPORT_SYMBOL(mlx5_cmd_cleanup_async_ctx);

/* Tell the driver. Interrupts are off, as in the hardware's interrupt. */
static void lab_async_complete(struct lab_async *async)
{
	struct lab_pf *pf = lab_pf_of(async->ctx->dev);
	struct mlx5_async_ctx *ctx = async->ctx;
	int result = async->error;

	if (async->vf)
		lab_save_finish(async);
	if (!result) {
		memcpy(async->work->out, async->out, async->out_size);
		result = async->out[0] ? -EREMOTEIO : 0;
	}
	/* The driver may free the work in its callback: not touched after this. */
	async->work->user_callback(result, async->work);
	if (atomic_dec_and_test(&ctx->num_inflight))
		complete(&ctx->inflight_done);
	atomic_dec(&pf->async_running);
	kfree_rcu(async, rcu);
}

static enum hrtimer_restart lab_async_done(struct hrtimer *timer)
{
	struct lab_async *async = container_of(timer, struct lab_async, done);
	struct lab_pf *pf = lab_pf_of(async->ctx->dev);
	unsigned long flags;

	spin_lock_irqsave(&pf->held_lock, flags);
	list_del_init(&async->held);
	spin_unlock_irqrestore(&pf->held_lock, flags);
	lab_async_complete(async);
	return HRTIMER_NORESTART;
}

/* A command without an answer: after a while the core gives up waiting. */
static void lab_async_hold(struct lab_async *async)
{
	struct lab_pf *pf = lab_pf_of(async->ctx->dev);
	unsigned long flags;

	async->error = -ETIMEDOUT;
	spin_lock_irqsave(&pf->held_lock, flags);
	list_add(&async->held, &pf->held);
	hrtimer_start(&async->done, ktime_add_ms(async->issued, pf->timeout_ms),
		      HRTIMER_MODE_ABS);
	spin_unlock_irqrestore(&pf->held_lock, flags);
}

/* The core goes down: what it still waits for ends now. */
void lab_async_abort(struct lab_pf *pf)
{
	struct lab_async *async;
	unsigned long flags;

	spin_lock_irqsave(&pf->held_lock, flags);
	list_for_each_entry(async, &pf->held, held) {
		if (hrtimer_try_to_cancel(&async->done) != 1)
			continue;
		async->error = -ENXIO;
		hrtimer_start(&async->done, ktime_get(), HRTIMER_MODE_ABS);
	}
	spin_unlock_irqrestore(&pf->held_lock, flags);
}

/* Execute a SAVE and return when it is done, in the firmware's time. */
static ktime_t lab_save_with_faults(struct lab_async *async)
{
	const struct lab_fault *fault = &async->fault;
	struct lab_vf *vf = async->vf;
	ktime_t due;

	if (fault->disable_vf)
		queue_work(lab_workqueue, &vf->disable);
	async->error = fault->error;
	if (fault->error)
		due = ktime_add(async->issued, lab_duration(vf, 0, 0));
	else
		due = lab_save_execute(async);
	return fault->delayed ? ktime_add_us(async->issued, fault->delay_us) : due;
}

static void lab_async_start(struct work_struct *start)
{
	struct lab_async *async = container_of(start, struct lab_async, start);
	ktime_t due = ktime_get();

	if (async->fault.never) {
		lab_async_hold(async);
		return;
	}
	if (async->vf)
		due = lab_save_with_faults(async);
	else
		async->error = lab_dispatch(lab_pf_of(async->ctx->dev), async->in,
					    sizeof(async->in), async->out,
					    async->out_size);
	hrtimer_start(&async->done, due, HRTIMER_MODE_ABS);
}

/* The firmware is so quick that the interrupt comes before the call returns. */
static void lab_async_at_once(struct lab_async *async)
{
	unsigned long flags;

	lab_save_with_faults(async);
	local_irq_save(flags);
	lab_async_complete(async);
	local_irq_restore(flags);
}

static struct lab_fault lab_save_fault(struct lab_vf *vf, const void *in)
{
	struct lab_fault fault;

	mutex_lock(&vf->lock);
	lab_apply_reset(vf);
	fault = lab_fault_for(&vf->faults, lab_save_kind(vf, in));
	mutex_unlock(&vf->lock);
	return fault;
}

int mlx5_cmd_exec_cb(struct mlx5_async_ctx *ctx, void *in, int in_size, void *out,
		     int out_size, mlx5_async_cbk_t callback,
		     struct mlx5_async_work *work)
{
	struct lab_pf *pf = lab_pf_of(ctx->dev);
	u16 opcode = lab_get16(in, 0);
	struct lab_fault fault = {};
	struct lab_async *async;
	struct lab_vf *vf = NULL;

	if (in_size < 16 || in_size > LAB_MAX_ASYNC_MAILBOX || out_size < 16 ||
	    out_size > LAB_MAX_ASYNC_MAILBOX)
		return -EINVAL;
	if (opcode == MLX5_CMD_OP_SAVE_VHCA_STATE) {
		vf = in_size < 32 ? NULL : lab_vf_by_vhca_id(pf, lab_get16(in, 10));
		if (!vf)
			return -EINVAL;
		fault = lab_save_fault(vf, in);
		if (fault.submit_error)
			return fault.submit_error;
	}
	async = kzalloc(sizeof(*async), GFP_KERNEL);
	if (!async)
		return -ENOMEM;
	if (!atomic_inc_not_zero(&ctx->num_inflight)) {
		kfree(async);
		return -EIO;
	}
	work->ctx = ctx;
	work->user_callback = callback;
	work->opcode = opcode;
	work->op_mod = lab_get16(in, 6);
	work->out = out;

	async->ctx = ctx;
	async->work = work;
	async->issued = ktime_get();
	async->out_size = out_size;
	memcpy(async->in, in, in_size);
	INIT_WORK(&async->start, lab_async_start);
	lab_timer_setup(&async->done, lab_async_done);
	INIT_LIST_HEAD(&async->held);
	async->fault = fault;
	async->vf = vf;
	if (vf)
		lab_save_claim(async);
	atomic_inc(&pf->async_running);
	if (fault.delayed && !fault.never && !fault.delay_us)
		lab_async_at_once(async);
	else
		queue_work(lab_workqueue, &async->start);
	return 0;
}
EXPORT_SYMBOL(mlx5_cmd_exec_cb);
