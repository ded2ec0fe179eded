struct mlx5_ifc_sample_bits {
	u8 low[0x20];
};

enum {
	MLX5_SAMPLE = NO_SUCH(3),
};
