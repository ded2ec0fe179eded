struct a {
	no_such_type x;
};
