/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * xfs_file_fallocate(file, mode, offset, len), for the callers that do not come
 * through the system call: io_uring's workers, the loop driver, nfsd. Where the
 * thread is in fallocate(2) anyway, that has begun earlier and ends later.
 */
#define KPROBE_ARG(n)	(*(u64 *)((char *)ctx + OFF_pt_regs_carg##n))

int on_xfs_file_fallocate(struct pt_regs *ctx)
{
	u64 id = bpf_get_current_pid_tgid();
	struct call call = {};

	if (calls.lookup(&id))
		return 0;
	if (begin_on_file(&call, KPROBE_ARG(0), OP_FALLOCATE))
		return 0;
	call.by_kprobe = 1;
	call.op.flags = KPROBE_ARG(1);
	call.op.offset = KPROBE_ARG(2);
	call.op.length = KPROBE_ARG(3);
	enter_call(&call);
	return 0;
}

int on_xfs_file_fallocate_return(struct pt_regs *ctx)
{
	u64 id = bpf_get_current_pid_tgid();
	struct call *call = calls.lookup(&id);

	if (!call || !call->by_kprobe)
		return 0;
	finish(&call->op, call->inode, *(s64 *)((char *)ctx + OFF_pt_regs_ret));
	calls.delete(&id);
	return 0;
}
