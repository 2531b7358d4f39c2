/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * xfs_file_fallocate(file, mode, offset, len), for the callers that do not come
 * through the system call: io_uring's workers, the loop driver, nfsd. Where the
 * thread is in fallocate(2) anyway, that has begun earlier and ends later, unless
 * the function was asked for (FALLOCATE_BY_FUNCTION).
 *
 * A kretprobe can be missed, where more threads are in the function than it has
 * instances for: then the end of fallocate(2) is the end (call_exit()).
 */
static inline void fallocate_begin(u64 file, u32 mode, s64 offset, s64 length)
{
	u64 id = bpf_get_current_pid_tgid();
	struct call *before = calls.lookup(&id);
	struct call call = {};

	marked_threads.delete(&id);	/* whatever it was in, that is over */
	if (before && !before->by_function)
		return;
	if (before)
		forget_call(id);
	if (begin_on_file(&call, file, OP_FALLOCATE))
		return;
	call.by_function = 1;
	call.op.flags = mode;
	call.op.offset = offset;
	call.op.length = length;
	enter_call(&call, 0);
}

static inline void fallocate_return(s64 result)
{
	u64 id = bpf_get_current_pid_tgid();
	struct call *call = calls.lookup(&id);

	if (!call || !call->by_function)
		return;
	finish(&call->op, call->inode, result);
	calls.delete(&id);
}
