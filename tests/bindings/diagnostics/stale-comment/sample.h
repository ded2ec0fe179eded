#include <linux/ioctl.h>
/* SAMPLE_ONE - _IOR(0x3b, 1, struct gone) */
#define SAMPLE_ONE _IO(0x3b, 1)
/* SAMPLE_TWO - _IO(0x3b, 3) */
#define SAMPLE_TWO _IO(0x3b, 2)
