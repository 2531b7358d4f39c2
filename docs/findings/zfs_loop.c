/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * By chance: an AIO write and a fallocate below it at once, again and again, on fresh
 * files, in the style of fstests generic/586. Prints what became of the writes.
 *
 *	gcc -O1 -pthread -o zfs_loop zfs_loop.c
 *	zfs_loop DIRECTORY ROUNDS MODE WRITE_AT WRITE_LENGTH FALLOCATE_LENGTH DIRECT
 *
 * Lengths and offsets in KiB, MODE as fallocate(2) takes it (a number), DIRECT 0 or 1.
 * The fallocate begins at 0. Table "By chance" of zfs.md: 300 rounds each, on a
 * file system of 1 GiB on a loop device over tmpfs (compression=off).
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define KEEP_SIZE	1
#define MOST_SPINS	20000	/* by how much one of the two may be late */

static int fd, mode;
static long write_at, write_length, fallocate_length;	/* bytes */
static long write_result, fallocate_result;		/* or -errno */
static unsigned int write_late, fallocate_late;		/* turns of an empty loop */
static char *data;
static aio_context_t context;
static pthread_barrier_t both;

static void start(unsigned int late)
{
	pthread_barrier_wait(&both);
	for (volatile unsigned int i = 0; i < late; i++)
		;
}

static void *writer(void *unused)
{
	struct iocb cb = {
		.aio_fildes = fd, .aio_lio_opcode = IOCB_CMD_PWRITE, .aio_buf = (unsigned long)data,
		.aio_nbytes = write_length, .aio_offset = write_at,
	}, *list = &cb;
	struct io_event event;

	start(write_late);
	if (syscall(SYS_io_submit, context, 1, &list) != 1) {
		write_result = -errno;
		return unused;
	}
	syscall(SYS_io_getevents, context, 1, 1, &event, NULL);
	write_result = event.res;
	return unused;
}

static void *faller(void *unused)
{
	start(fallocate_late);
	fallocate_result = fallocate(fd, mode, 0, fallocate_length) ? -errno : 0;
	return unused;
}

int main(int argc, char **argv)
{
	int good = 0, size_only = 0, gone = 0, flags = O_RDWR | O_CREAT | O_TRUNC;
	char path[4096], *found;

	if (argc != 8)
		errx(2, "DIRECTORY ROUNDS MODE WRITE_AT WRITE_LENGTH FALLOCATE_LENGTH DIRECT");
	snprintf(path, sizeof(path), "%s/zfs_loop.tmp", argv[1]);
	mode = strtol(argv[3], NULL, 0);
	write_at = atol(argv[4]) << 10;
	write_length = atol(argv[5]) << 10;
	fallocate_length = atol(argv[6]) << 10;
	flags |= atoi(argv[7]) ? O_DIRECT : 0;
	if (posix_memalign((void **)&data, 4096, write_length) || posix_memalign((void **)&found, 4096, write_length))
		err(1, "memory");
	memset(data, 0xab, write_length);
	if (syscall(SYS_io_setup, 4, &context))
		err(1, "io_setup");
	pthread_barrier_init(&both, NULL, 2);

	for (int round = 0; round < atoi(argv[2]); round++) {
		long wanted = write_at + write_length;
		pthread_t threads[2];
		struct stat status;
		int same;

		unlink(path);
		fd = open(path, flags, 0600);
		if (fd < 0)
			err(1, "%s", path);
		write_late = rand() % MOST_SPINS;
		fallocate_late = rand() % MOST_SPINS;
		pthread_create(&threads[0], NULL, writer, NULL);
		pthread_create(&threads[1], NULL, faller, NULL);
		pthread_join(threads[0], NULL);
		pthread_join(threads[1], NULL);
		if (write_result != write_length || fallocate_result)
			errx(1, "write: %ld, fallocate: %ld", write_result, fallocate_result);
		if (!(mode & KEEP_SIZE) && fallocate_length > wanted)
			wanted = fallocate_length;
		fstat(fd, &status);
		same = pread(fd, found, write_length, write_at) == write_length && !memcmp(found, data, write_length);
		good += same && status.st_size == wanted;
		size_only += same && status.st_size != wanted;
		gone += !same;
		close(fd);
	}
	unlink(path);
	printf("mode %d: %d good, %d with a wrong size only, %d with the data gone\n", mode, good, size_only, gone);
	return size_only || gone;
}
