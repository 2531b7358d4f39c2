/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where a write went that its call does not say: to the end of the file (O_APPEND), or
 * to the position of an open file that others may be moving. Both are read with a lock
 * held that the call may have to wait for, so what they are at its begin is a guess.
 * What comes to iomap has the right place. Else:
 *
 *   xfs_file_buffered_write	xfs_file_write_checks() has set it, under the inode lock
 *   ext4_(da_)write_begin	the first tells the place of the whole
 *   at the end of the call	if nothing but this write has moved the size or the
 *				position since its begin, the guess was right; and the
 *				position of an open file that no other thread can use is
 *				where the write ended
 *
 * A write whose place none of them tells is counted as dropped.
 */
#define PLACE_POSITION	1	/* at the open file's position, or moving it */
#define PLACE_END	2	/* at the end of the file */
#define PLACE_KNOWN	4

#define RWF_APPEND_BIT		0x10	/* linux/fs.h */
#define RWF_NOAPPEND_BIT	0x20	/* since 73fa7547c70b (v6.9) */

BPF_ARRAY(placing, u64, 1);	/* system calls in flight whose place is to be learned: mostly none */

static inline void count_placing(struct call *call, u64 n)
{
	int zero = 0;
	u64 *count = placing.lookup(&zero);

	if (call->place && count)
		fetch_add(count, n);
}

static inline u8 place_of(u64 file, u32 rwf, s64 offset)
{
	u8 place = offset < 0 ? PLACE_POSITION : 0;

	if (rwf & RWF_APPEND_BIT || (FIELD(u32, file, OFF_file_f_flags) & O_APPEND_BIT && !(rwf & RWF_NOAPPEND_BIT)))
		place |= PLACE_END;
	return place;
}

static inline void aio_placed(u64 kiocb, s64 offset);	/* aio.c */

static inline void placed(u64 file, u64 inode, s64 offset)
{
	u64 id = bpf_get_current_pid_tgid(), *count;
	struct call *call;
	int zero = 0;

	count = placing.lookup(&zero);
	if (!count || !*count)
		return;
	call = calls.lookup(&id);
	if (!call || !call->place || call->place & PLACE_KNOWN)
		return;
	if (file ? call->file != file : call->inode != inode)
		return;
	call->op.offset = offset;
	call->place |= PLACE_KNOWN;
}

int on_xfs_file_buffered_write(struct bpf_raw_tracepoint_args *ctx)
{
	u64 file = FIELD(u64, ctx->args[0], OFF_kiocb_ki_filp);

	changed_by(FIELD(u64, file, OFF_file_f_inode));
	placed(file, 0, FIELD(s64, ctx->args[0], OFF_kiocb_ki_pos));
	aio_placed(ctx->args[0], FIELD(s64, ctx->args[0], OFF_kiocb_ki_pos));
	return 0;
}

int on_ext4_write_begin(struct bpf_raw_tracepoint_args *ctx)
{
	changed_by(ctx->args[0]);
	placed(0, ctx->args[0], ctx->args[1]);
	return 0;
}

/* Of the fallocates of ext4, one of three tells. */
int on_ext4_fallocate(struct bpf_raw_tracepoint_args *ctx)
{
	changed_by(ctx->args[0]);
	return 0;
}

/* Whether nobody but this thread has that open file: no other descriptor, no other thread with the same ones. */
static inline int is_own(u64 file)
{
	u64 files = FIELD(u64, bpf_get_current_task(), OFF_task_struct_files);

	return FIELD(u64, file, OFF_file_refs) == FILE_ONE_REF && FIELD(u32, files, OFF_files_struct_count) == 1;
}

/* A write of that many bytes has ended: whether its place is known. */
static inline int is_placed(struct call *call, s64 result)
{
	s64 position = FIELD(s64, call->file, OFF_file_f_pos);
	s64 end = call->op.offset + result;

	if (!call->place || call->place & PLACE_KNOWN)
		return 1;
	if (call->place & PLACE_END ? inode_size(call->inode) == end : position == end)
		return 1;
	if (!(call->place & PLACE_POSITION) || !is_own(call->file))
		return 0;
	call->op.offset = position - result;
	return 1;
}
