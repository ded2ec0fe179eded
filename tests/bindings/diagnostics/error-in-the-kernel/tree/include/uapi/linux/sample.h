#define A 1
#ifdef __KERNEL__
struct gone;
#endif
struct a { no_such_type x; };
