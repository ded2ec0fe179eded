/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What bcc and the kernel give to the BPF program, for a process: it runs as an ordinary library.
 * Maps are arrays that are searched, memory is this process's own.
 */
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

typedef uint64_t u64;
typedef uint32_t u32;
typedef uint16_t u16;
typedef uint8_t u8;
typedef int64_t s64;
typedef int32_t s32;

#define __always_inline inline __attribute__((always_inline))

struct pt_regs {
	u64 argument[4];
	u64 result;
	u64 stack;
};

#define PT_REGS_PARM1(ctx) ((ctx)->argument[0])
#define PT_REGS_PARM2(ctx) ((ctx)->argument[1])
#define PT_REGS_PARM3(ctx) ((ctx)->argument[2])
#define PT_REGS_PARM4(ctx) ((ctx)->argument[3])
#define PT_REGS_RC(ctx) ((ctx)->result)
#define PT_REGS_SP(ctx) ((ctx)->stack)

/* Each look at the clock takes some time. */
u64 native_now = 1000000;
u64 native_task = 100ULL << 32 | 100;
u64 native_used;
u8 native_ring[1 << 20];

/* The kernel's addresses have the topmost bit. */
static const void *native_place(const void *address)
{
	return (const void *)((u64)address & ~(1ULL << 63));
}

static long native_read(void *to, u32 size, const void *from)
{
	if ((u64)from < 4096) {
		memset(to, 0, size);
		return -14;
	}
	memcpy(to, native_place(from), size);
	return 0;
}

static long native_read_text(void *to, u32 size, const void *from)
{
	if ((u64)from < 4096)
		return -14;
	strncpy(to, native_place(from), size);
	return 0;
}

static u64 native_tick(void)
{
	return native_now >> 22;
}

#define BPF_FUNC_probe_read_user native_read
#define BPF_FUNC_jiffies64 native_tick
#define bpf_probe_read_kernel native_read
#define bpf_probe_read_kernel_str native_read_text
#define bpf_ktime_get_boot_ns() (native_now += 100)
#define bpf_get_current_pid_tgid() native_task
#define bpf_get_current_comm(to, size) strncpy(to, "qemu", size)
#define bpf_get_stack(ctx, to, size, flags) ((void)(ctx), 0)

#define BPF_ARRAY(name, leaf_type, most) \
	static leaf_type name##_leaves[most]; \
	static leaf_type *name##_lookup(const void *key) \
	{ \
		u32 index = *(const u32 *)key; \
		return index < (most) ? &name##_leaves[index] : 0; \
	} \
	static const struct { \
		leaf_type *(*lookup)(const void *key); \
	} name = { name##_lookup }

#define BPF_TABLE(kind, key_type, leaf_type, name, most) \
	static struct { \
		bool used; \
		key_type key; \
		leaf_type leaf; \
	} name##_entries[most]; \
	static leaf_type *name##_lookup(const void *key) \
	{ \
		for (int at = 0; at < (most); at++) \
			if (name##_entries[at].used && \
			    !memcmp(&name##_entries[at].key, key, sizeof(key_type))) \
				return &name##_entries[at].leaf; \
		return 0; \
	} \
	static int name##_insert(const void *key, const void *leaf) \
	{ \
		if (name##_lookup(key)) \
			return -17; \
		for (int at = 0; at < (most); at++) { \
			if (name##_entries[at].used) \
				continue; \
			memcpy(&name##_entries[at].key, key, sizeof(key_type)); \
			memcpy(&name##_entries[at].leaf, leaf, sizeof(leaf_type)); \
			name##_entries[at].used = true; \
			return 0; \
		} \
		return -7; \
	} \
	static int name##_update(const void *key, const void *leaf) \
	{ \
		leaf_type *found = name##_lookup(key); \
		if (!found) \
			return name##_insert(key, leaf); \
		memcpy(found, leaf, sizeof(leaf_type)); \
		return 0; \
	} \
	static int name##_delete(const void *key) \
	{ \
		for (int at = 0; at < (most); at++) { \
			if (name##_entries[at].used && \
			    !memcmp(&name##_entries[at].key, key, sizeof(key_type))) { \
				name##_entries[at].used = false; \
				return 0; \
			} \
		} \
		return -2; \
	} \
	static const struct { \
		leaf_type *(*lookup)(const void *key); \
		int (*insert)(const void *key, const void *leaf); \
		int (*update)(const void *key, const void *leaf); \
		int (*delete)(const void *key); \
	} name = { name##_lookup, name##_insert, name##_update, name##_delete }

static void *native_reserve(u64 size)
{
	void *record = native_ring + native_used;

	if (native_used + size > sizeof(native_ring))
		return 0;
	native_used += size;
	return record;
}

static void native_submit(void *record, u64 flags)
{
}

#define BPF_RINGBUF_OUTPUT(name, pages) \
	static const struct { \
		void *(*ringbuf_reserve)(u64 size); \
		void (*ringbuf_submit)(void *record, u64 flags); \
	} name = { native_reserve, native_submit }
