#include <linux/no_such_include.h>
