/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A stand-in for mlx5_core that simulates the firmware side of VF migration.
 *
 * The mlx5 VFIO driver on top of it is the real one: it finds this module
 * through the symbols that mlx5_core exports.
 */
#ifndef MLX5_LAB_H
#define MLX5_LAB_H

#include <linux/completion.h>
#include <linux/debugfs.h>
#include <linux/hrtimer.h>
#include <linux/mlx5/driver.h>
#include <linux/mutex.h>
#include <linux/notifier.h>
#include <linux/pci.h>
#include <linux/types.h>
#include <linux/version.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

/* Linux 6.6 introduced it; older headers do without. */
#ifndef __counted_by
#define __counted_by(member)
#endif

#define LAB_BLOCK_SIZE 4096UL
#define LAB_MAX_ASYNC_MAILBOX 64

/*
 * Bits of cmd_hca_cap and cmd_hca_cap_2, and where a capability begins in
 * query_hca_cap_out. By number, since the headers of a kernel name only what
 * its own driver knows.
 */
#define LAB_CAP_HCA_CAP_2 0x20
#define LAB_CAP_ADV_VIRTUALIZATION 0x579
#define LAB_CAP_MIGRATION 0x68d
#define LAB_CAP2_MIGRATABLE 0x80
#define LAB_CAP2_MULTI_LOAD 0xc8
#define LAB_CAP2_TRACKING_STATE 0xc9
#define LAB_CAP2_IN_CHUNKS 0xd0
#define LAB_CAP_OFFSET 16

/* Syndromes: what the firmware says beside the status of a refused command. */
enum lab_syndrome {
	LAB_SYND_NONE = 0,
	LAB_SYND_UNKNOWN_OPCODE = 0x1ab001,
	LAB_SYND_UNKNOWN_FUNCTION = 0x1ab002,
	LAB_SYND_WRONG_ORDER = 0x1ab003,
	LAB_SYND_SAVE_BUSY = 0x1ab004,
	LAB_SYND_NOT_TRACKED = 0x1ab005,
	LAB_SYND_TRACK_SUSPENDED = 0x1ab006,
	LAB_SYND_NOT_SUSPENDED = 0x1ab007,
	LAB_SYND_BAD_MKEY = 0x1ab008,
	LAB_SYND_BEYOND_MKEY = 0x1ab009,
	LAB_SYND_UNMAPPED = 0x1ab00a,
	LAB_SYND_NO_MEMORY = 0x1ab00b,
	LAB_SYND_STATE_GREW = 0x1ab00c,
	LAB_SYND_RESET = 0x1ab00d,
	LAB_SYND_IMAGE_LENGTH = 0x1ab010,
	LAB_SYND_IMAGE_MAGIC = 0x1ab011,
	LAB_SYND_IMAGE_CRC = 0x1ab012,
	LAB_SYND_IMAGE_BASE = 0x1ab013,
	LAB_SYND_IMAGE_SEQUENCE = 0x1ab014,
	LAB_SYND_IMAGE_BLOCK = 0x1ab015,
	LAB_SYND_IMAGE_STATE = 0x1ab016,
	LAB_SYND_INCOMPLETE = 0x1ab017,
	LAB_SYND_BAD_LOG = 0x1ab018,
};

/* Misuse of the firmware by the driver. Each is counted and logged. */
enum lab_assertion {
	LAB_ASSERT_TWO_SAVES,
	LAB_ASSERT_SUSPEND_DURING_SAVE,
	LAB_ASSERT_SAVE_UNTRACKED,
	LAB_ASSERT_TRACK_SUSPENDED,
	LAB_ASSERT_BEYOND_MKEY,
	LAB_ASSERT_MKEY_DESTROYED_BUSY,
	LAB_ASSERT_PD_BUSY,
	LAB_ASSERT_UNMAPPED,
	LAB_ASSERT_LOAD_RUNNING,
	LAB_ASSERT_RESUME_INCOMPLETE,
	LAB_ASSERT_WRONG_ORDER,
	LAB_ASSERT_LEFT_AT_EXIT,
	LAB_ASSERT_NR,
};

enum lab_counter {
	LAB_COUNT_QUERY,
	LAB_COUNT_SUSPEND,
	LAB_COUNT_RESUME,
	LAB_COUNT_SAVE,
	LAB_COUNT_SAVE_INITIAL,
	LAB_COUNT_SAVE_MIDDLE,
	LAB_COUNT_SAVE_CHUNK,
	LAB_COUNT_SAVE_FINAL,
	LAB_COUNT_SAVE_CLEANUP,
	LAB_COUNT_SAVE_FAILED,
	LAB_COUNT_SAVE_BYTES,
	LAB_COUNT_LOAD,
	LAB_COUNT_LOAD_FAILED,
	LAB_COUNT_LOAD_BYTES,
	LAB_COUNT_RESET,
	LAB_COUNT_NR,
};

/* Where a fault may strike, in faults.c. */
enum lab_where {
	LAB_WHERE_QUERY,
	LAB_WHERE_SUSPEND_INITIATOR,
	LAB_WHERE_SUSPEND_RESPONDER,
	LAB_WHERE_RESUME_RESPONDER,
	LAB_WHERE_RESUME_INITIATOR,
	LAB_WHERE_SAVE,
	LAB_WHERE_SAVE_INITIAL,
	LAB_WHERE_SAVE_MIDDLE,
	LAB_WHERE_SAVE_FINAL,
	LAB_WHERE_SAVE_CLEANUP,
	LAB_WHERE_LOAD,
	LAB_WHERE_ALLOC_PD,
	LAB_WHERE_CREATE_MKEY,
	LAB_WHERE_NR,
};

/* What happens to one command; all zero for nothing. */
struct lab_fault {
	u8 status;
	u32 syndrome;
	int error;		/* the command is not delivered */
	int submit_error;	/* SAVE is refused before it is under way */
	bool delayed;
	bool never;
	u64 delay_us;
	bool damage;		/* the image */
	bool disable_vf;	/* the PF takes the VF away meanwhile */
};

struct lab_faults {
	struct mutex lock;	/* protects the rules */
	struct list_head rules;
	bool objects;		/* rules are about PDs and mkeys, not commands */
};

/* Protection domains and memory keys of the PF, in mkey.c. */
struct lab_pd {
	u32 number;
	u32 mkeys;
};

struct lab_mkey {
	u32 key;
	struct lab_pd *pd;
	u64 length;
	unsigned int npages;
	refcount_t refs;
	bool destroyed;
	__be64 mtt[] __counted_by(npages);
};

/* The memory that one VF would carry through a migration, in state.c. */
struct lab_state {
	u8 *mem;
	u64 size_bytes;
	unsigned long nblocks;
	unsigned long *dirty;
	u64 random;
	u64 carry_bytes;
	ktime_t advanced;
};

/* What a SAVE stream or a LOAD stream has got to: images build on each other. */
struct lab_chain {
	u64 session;
	u32 next_seq;
	u32 last_crc;
	bool started;
	bool complete;
};

struct lab_knobs {
	u64 dirty_bytes_per_s;
	u64 working_set_bytes;
	u64 save_bytes_per_s;
	u64 load_bytes_per_s;
	u64 latency_us;
	u64 growth_bytes;
	u64 chunk_bytes;
};

struct lab_vf {
	struct lab_pf *pf;
	int id;
	char name[16];
	/* Everything below but the atomics; taken before the PF's locks. */
	struct mutex lock;
	struct lab_knobs knobs;
	struct lab_state state;
	bool initiator_suspended;
	bool responder_suspended;
	bool tracked;
	bool migratable;
	/* The PF has taken it away; set by the user only. */
	bool absent;
	/* The last QUERY asked for chunks; a final image is going out in chunks. */
	bool in_chunks;
	bool chunks_left;
	struct lab_chain save_chain;
	struct lab_chain load_chain;
	atomic_t saves_running;
	/* Set by the FLR probe in atomic context, acted upon at the next command. */
	atomic_t reset_pending;
	/*
	 * From an FLR until the driver was told: what it asks for meanwhile may
	 * fit the state that is gone, and is refused, but no misuse.
	 */
	bool in_reset;
	atomic_t reset_depth;
	atomic64_t counters[LAB_COUNT_NR];
	struct lab_faults faults;
	struct work_struct disable;
	struct blocking_notifier_head notifiers;
	u64 dma_address;
	struct dentry *dir;
};

struct lab_pf {
	struct pci_dev *pdev;
	struct mlx5_core_dev *mdev;
	struct iommu_domain *domain;
	/* Held from mlx5_vf_get_core_dev() to mlx5_vf_put_core_dev(). */
	struct mutex intf_lock;
	/* pds and mkeys */
	struct mutex objects_lock;
	struct xarray pds;
	struct xarray mkeys;
	/* Logs of what VFs write to, and their queues; taken before objects_lock. */
	struct mutex log_lock;
	struct xarray cqs;
	struct xarray qps;
	struct xarray logs;
	atomic_t async_running;
	/* Commands that are not going to be answered. */
	spinlock_t held_lock;
	struct list_head held;
	u64 timeout_ms;
	struct lab_faults faults;
	struct dentry *dir;
	int num_vfs;
	struct lab_vf *vfs;
};

/* One asynchronous command on its way. */
struct lab_async {
	struct lab_vf *vf;
	struct mlx5_async_ctx *ctx;
	struct mlx5_async_work *work;
	struct work_struct start;
	struct hrtimer done;
	ktime_t issued;
	struct lab_mkey *mkey;
	u64 length;
	u8 in[LAB_MAX_ASYNC_MAILBOX];
	u8 out[LAB_MAX_ASYNC_MAILBOX];
	int out_size;
	int error;
	struct list_head held;
	bool running_save;
	/* It was done; it still fails if a reset comes before the driver is told */
	bool saved;
	enum lab_counter kind;
	struct lab_fault fault;
	struct rcu_head rcu;
};

/* Fields of big-endian mailboxes, by the offsets of the firmware interface. */
static inline u16 lab_get16(const void *box, unsigned int byte)
{
	return be16_to_cpup((const __be16 *)((const u8 *)box + byte));
}

static inline u32 lab_get32(const void *box, unsigned int byte)
{
	return be32_to_cpup((const __be32 *)((const u8 *)box + byte));
}

static inline u64 lab_get64(const void *box, unsigned int byte)
{
	return be64_to_cpup((const __be64 *)((const u8 *)box + byte));
}

static inline void lab_put32(void *box, unsigned int byte, u32 value)
{
	*(__be32 *)((u8 *)box + byte) = cpu_to_be32(value);
}

static inline void lab_put64(void *box, unsigned int byte, u64 value)
{
	*(__be64 *)((u8 *)box + byte) = cpu_to_be64(value);
}

/* The capability at @bit, counted from the most significant bit of byte 0. */
static inline void lab_put_bit(void *caps, unsigned int bit, bool value)
{
	u8 mask = BIT(7 - bit % 8);
	u8 *byte = (u8 *)caps + bit / 8;

	*byte = value ? *byte | mask : *byte & ~mask;
}

static inline bool lab_get_bit(const void *caps, unsigned int bit)
{
	return ((const u8 *)caps)[bit / 8] & BIT(7 - bit % 8);
}

static inline void lab_set_status(void *out, u8 status, u32 syndrome)
{
	*(u8 *)out = status;
	lab_put32(out, 4, syndrome);
}

static inline struct lab_pf *lab_pf_of(struct mlx5_core_dev *mdev)
{
	return dev_get_drvdata(mdev->device);
}

static inline void lab_count(struct lab_vf *vf, enum lab_counter counter, s64 n)
{
	atomic64_add(n, &vf->counters[counter]);
}

/* Linux 6.13 joined the two steps into hrtimer_setup() and 6.15 dropped the old one. */
static inline void lab_timer_setup(struct hrtimer *timer,
				   enum hrtimer_restart (*done)(struct hrtimer *))
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 13, 0)
	hrtimer_setup(timer, done, CLOCK_MONOTONIC, HRTIMER_MODE_ABS);
#else
	hrtimer_init(timer, CLOCK_MONOTONIC, HRTIMER_MODE_ABS);
	timer->function = done;
#endif
}

/* pci.c */
extern struct workqueue_struct *lab_workqueue;
struct lab_vf *lab_vf_by_vhca_id(struct lab_pf *pf, u16 vhca_id);
u16 lab_vhca_id(const struct lab_vf *vf);
struct lab_vf *lab_vf_of(struct pci_dev *pdev);

/* reset.c */
int lab_reset_init(void);
void lab_reset_exit(void);

/* cmd.c */
int lab_dispatch(struct lab_pf *pf, const void *in, int in_size, void *out,
		 int out_size);
void lab_apply_reset(struct lab_vf *vf);
ktime_t lab_duration(const struct lab_vf *vf, u64 bytes, u64 bytes_per_s);

/* async.c */
void lab_async_abort(struct lab_pf *pf);

/* save.c */
u64 lab_required_bytes(struct lab_vf *vf, bool incremental);
u64 lab_chunk_bytes(const struct lab_vf *vf, u64 bytes);
enum lab_where lab_save_kind(struct lab_vf *vf, const void *in);
void lab_save_claim(struct lab_async *async);
ktime_t lab_save_execute(struct lab_async *async);
void lab_save_finish(struct lab_async *async);

/* load.c */
void lab_load_execute(struct lab_vf *vf, const void *in, void *out,
		      const struct lab_fault *fault);

/* image.c */
struct lab_image {
	bool full;
	bool final;
	bool damage;
	u64 room;	/* for the image, in bytes; more is a chunk for later */
};

u64 lab_image_bytes(u64 nblocks);
int lab_image_write(struct lab_vf *vf, struct lab_mkey *mkey,
		    struct lab_image *image, u64 *length, u32 *syndrome);
int lab_image_damage(struct lab_vf *vf, struct lab_mkey *mkey, u64 length);
int lab_image_load(struct lab_vf *vf, struct lab_mkey *mkey, u64 length,
		   u32 *syndrome);

/* state.c */
int lab_state_resize(struct lab_state *state, u64 size_bytes);
void lab_state_free(struct lab_state *state);
void lab_state_randomize(struct lab_state *state);
void lab_state_advance(struct lab_vf *vf);
u64 lab_state_hash(const struct lab_state *state);

/* queue.c */
int lab_qp_send(struct lab_pf *pf, u32 qpn, void *data, u32 bytes, u32 number);
int lab_qp_execute(struct lab_pf *pf, u16 opcode, const void *in, int in_size, void *out);
void lab_queues_init(struct lab_pf *pf);
unsigned long lab_queues_left(struct lab_pf *pf);

/* log.c */
void lab_log_init(struct lab_pf *pf);
bool lab_log_command(struct lab_pf *pf, const void *in, int in_size, void *out);
int lab_log_write(struct lab_vf *vf, u64 address);
unsigned long lab_logs_left(struct lab_pf *pf);

/* mkey.c */
void *lab_dma_memory(struct lab_pf *pf, dma_addr_t address);
struct lab_mkey *lab_mkey_get(struct lab_pf *pf, u32 key);
void lab_mkey_put(struct lab_mkey *mkey);
int lab_mkey_copy(struct lab_pf *pf, struct lab_mkey *mkey, u64 offset,
		  void *buffer, size_t length, bool to_mkey);
bool lab_mkey_mapped(struct lab_pf *pf, struct lab_mkey *mkey, u64 length);
unsigned long lab_objects_left(struct lab_pf *pf, const char **kind);

/* faults.c */
extern const struct file_operations lab_faults_fops;
void lab_faults_init(struct lab_faults *faults, bool objects);
void lab_faults_clear(struct lab_faults *faults);
struct lab_fault lab_fault_for(struct lab_faults *faults, enum lab_where where);

/* debugfs.c */
/* For what is a misuse because of the state that the VF is in. */
#define lab_vf_assert_fired(vf, id, fmt, ...)				\
do {									\
	struct lab_vf *_vf = (vf);					\
									\
	if (!READ_ONCE(_vf->in_reset))					\
		lab_assert_fired(_vf->pf, id, "%s: " fmt, _vf->name,	\
				 ##__VA_ARGS__);			\
} while (0)
__printf(3, 4) void lab_assert_fired(struct lab_pf *pf, enum lab_assertion id,
				     const char *fmt, ...);
void lab_debugfs_add_pf(struct lab_pf *pf);
void lab_debugfs_add_vf(struct lab_vf *vf);
void lab_debugfs_init(void);
void lab_debugfs_exit(void);

#endif
