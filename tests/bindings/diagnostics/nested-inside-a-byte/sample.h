struct mlx5_ifc_inner_bits {
	u8 low[0x4];
};

struct mlx5_ifc_outer_bits {
	u8 reserved_at_0[0x4];
	struct mlx5_ifc_inner_bits inner;
};
