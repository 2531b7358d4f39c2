/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ftruncate(2), truncate(2), and open(2) with O_TRUNC, on every file system. offset is
 * the new size, length is 0. applied.c says when XFS sets the size, and from which.
 *
 * open(2) names a path, but its result is the file. What the path of truncate(2) leads
 * to is known when the thread comes to that file: to do_truncate() where there are
 * kprobes (truncate_kprobe.c), else where XFS and ext4 set the size. On other file
 * systems nobody tells: that is counted.
 */
#define O_TRUNC_BIT	01000
#define O_PATH_BIT	010000000
#define FMODE_CREATED	0x100000	/* linux/fs.h: the file is new, and was empty */

/* Which file that is, is known later. */
static inline void path_enter(u8 kind, s64 size, u8 before)
{
	struct call call = {};

	if (!is_selected() || is_compat())
		return;
	begin_now(&call.op);
	call.op.seq_begin = take_numbers(1);
	if (before && begin_before(&call.op))
		return;
	call.op.op = OP_TRUNCATE;
	call.op.offset = size;
	call.kind = kind;
	enter_call(&call, before);
}

/* The file that an open has truncated; 0 if it was made by it, or is not traced. */
static inline u64 opened(struct operation *op, u64 file)
{
	u64 inode = FIELD(u64, file, OFF_file_f_inode);

	return FIELD(u32, file, OFF_file_f_mode) & FMODE_CREATED || !identify_inode(op, inode) ? 0 : inode;
}

static inline int open_exit(struct call *call, s64 fd)
{
	u64 file = fd >= 0 ? file_of(fd) : 0;

	call->inode = file ? opened(&call->op, file) : 0;
	if (!call->inode)
		return 0;
	call->dentry = FIELD(u64, file, OFF_file_f_path_dentry);
	return 1;
}

static inline void truncate_enter(struct call *call, u64 regs)
{
	call->op.offset = SYSCALL_ARG(regs, 1);
}

/*
 * The truncate(2) that the thread is in has come to this inode: the first regular file
 * that it changes. The times of directories and links on the way change, too, and memory
 * reclaim may evict, and then truncate, a file that nobody uses.
 */
static inline void truncates(struct call *call, u64 inode, s64 size)
{
	u64 alias;

	if (call->inode || (FIELD(u16, inode, OFF_inode_i_mode) & S_IFMT) != S_IFREG || !FIELD(u32, inode, OFF_inode_i_count))
		return;
	call->inode = inode;
	if (!identify_inode(&call->op, inode))
		return;
	alias = FIELD(u64, inode, OFF_inode_i_dentry_first);
	if (OFF_dentry_d_u_d_alias && alias)
		call->dentry = alias - OFF_dentry_d_u_d_alias;
	call->op.size_begin = size;
}

/* size: i_size before it is set, bytes; NONE_SIZE: not seen. */
static inline void truncates_path(u64 inode, s64 size)
{
	u64 id = bpf_get_current_pid_tgid();
	struct call *call = calls.lookup(&id);

	if (call && call->kind == OP_PATH)
		truncates(call, inode, size);
}

/* ext4_setattr() has set the size before either. */
int on_ext4_setattr(struct bpf_raw_tracepoint_args *ctx)
{
	truncates_path(ctx->args[0], NONE_SIZE);
	return 0;
}

/* Whether a file whose size was set may be one that is traced: without a word, or as UNTOLD_OVERLAID has it. */
static inline int may_be_traced(u8 least)
{
#if BY_FILE
	int zero = 0;
	u8 *flag = untold.lookup(&zero);

	return flag && *flag >= least;
#else
	return least == UNTOLD;
#endif
}

static inline int path_exit(struct call *call, s64 result)
{
	if (!result && !call->op.ino && may_be_traced(call->inode ? UNTOLD_OVERLAID : UNTOLD))
		count_drop(DROP_FILE);
	return call->op.ino != 0;
}
