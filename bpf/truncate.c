/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ftruncate(2), and open(2) with O_TRUNC, on every file system. offset is the new size,
 * length is 0. truncate(2) names a path, which is not resolved here; so does open(2),
 * but its result is the file. applied.c says when XFS sets the size, and from which.
 */
#define O_TRUNC_BIT	01000
#define O_PATH_BIT	010000000
#define FMODE_CREATED	0x100000	/* linux/fs.h: the file is new, and was empty */

/* Which file that is, only the end tells. */
static inline void open_enter(u64 flags)
{
	struct call call = {};

	if (!(flags & O_TRUNC_BIT) || flags & O_PATH_BIT || !is_selected() || is_compat())
		return;
	begin_now(&call.op);
	call.op.seq_begin = take_numbers(1);
	call.op.op = OP_TRUNCATE;
	call.kind = OP_OPEN;
	enter_call(&call);
}

static inline int open_exit(struct call *call, s64 fd)
{
	u64 file = fd >= 0 ? file_of(fd) : 0;

	if (!file || FIELD(u32, file, OFF_file_f_mode) & FMODE_CREATED)
		return 0;
	call->inode = FIELD(u64, file, OFF_file_f_inode);
	if (!identify_inode(&call->op, call->inode))
		return 0;
	note_name(file);
	return 1;
}

static inline void truncate_enter(struct call *call, u64 regs)
{
	call->op.offset = SYSCALL_ARG(regs, 1);
}
