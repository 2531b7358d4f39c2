/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What puts data of one file into another: copy_file_range(2), sendfile(2), splice(2),
 * and ioctl_ficlone(2), on every file system. They are writes to the other file:
 * buffered ones, whether they go through its page cache or let the two share extents,
 * unless a part of them comes to iomap: that is a direct write (direct_write.c).
 *
 * FIDEDUPERANGE is left out: what the file holds stays the same. So is vmsplice(2),
 * which only ever writes to a pipe or to memory.
 */
#define FICLONE			0x40049409U	/* linux/fs.h */
#define FICLONERANGE		0x4020940dU

struct file_clone_range {
	s64 src_fd;
	u64 src_offset;		/* bytes */
	u64 src_length;		/* bytes; 0: to the end of the file */
	u64 dest_offset;	/* bytes */
};

/* An offset that a call names by its address; 0: the file's position, which is -1 here. */
static inline s64 named_offset(u64 address)
{
	s64 offset = -1;

	if (address)
		read_user(&offset, sizeof(offset), (void *)address);
	return offset;
}

/* Whether that ioctl clones; where to and how much. -1: it does, and its argument is not in memory. */
static inline int clone_range(u32 command, u64 argument, s64 *offset, u64 *length)
{
	struct file_clone_range range = {};
	u64 source;

	if (command == FICLONE)
		range.src_fd = argument;
	else if (command != FICLONERANGE)
		return 0;
	else if (read_user(&range, sizeof(range), (void *)argument))
		return -1;
	*offset = range.dest_offset;
	*length = range.src_length;
	if (!*length) {
		source = file_of(range.src_fd);
		*length = source ? inode_size(FIELD(u64, source, OFF_file_f_inode)) - range.src_offset : 0;
	}
	return 1;
}

/* How much it was, in the end. */
static inline void copied(struct operation *op, u8 copies, s64 *result)
{
	if (copies == COPY_WHOLE && !*result)
		*result = op->length;
	else if (copies == COPY_BYTES && *result >= 0)
		op->length = *result;
}
