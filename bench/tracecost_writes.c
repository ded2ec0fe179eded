// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Writes one byte so many times, several times over, and prints the nanoseconds that each of these
 * took.
 *
 * usage: tracecost_writes FD COUNT REPEATS
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static long long now_ns(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec * 1000000000LL + at.tv_nsec;
}

int main(int argc, char **argv)
{
	long count, repeats, number;
	long long begin;
	int fd;

	if (argc != 4)
		return 2;
	fd = atoi(argv[1]);
	count = atol(argv[2]);
	repeats = atol(argv[3]);
	while (repeats--) {
		begin = now_ns();
		for (number = 0; number < count; number++) {
			if (write(fd, "", 1) != 1) {
				fprintf(stderr, "write: %s\n", strerror(errno));
				return 1;
			}
		}
		printf("%lld\n", now_ns() - begin);
	}
	return 0;
}
