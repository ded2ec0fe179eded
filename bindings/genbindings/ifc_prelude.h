/* SPDX-License-Identifier: GPL-2.0-only */
/* What mlx5_ifc.h takes from the rest of the kernel: nothing else is needed to compile it alone. */
typedef unsigned char u8;
#define BIT(nr) (1UL << (nr))
#define BIT_ULL(nr) (1ULL << (nr))
/* A flexible array cannot be a struct's or a union's only member, hence the empty one. */
#define DECLARE_FLEX_ARRAY(type, name) \
	struct { struct { } genbindings_empty_##name; type name[]; }
