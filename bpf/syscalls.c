/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * System calls, through the two raw tracepoints that see them all. The perf
 * tracepoints of single calls would cost other processes less, but they need
 * tracefs, and are skipped without notice while a task on the same CPU is in
 * bpf(2) (bpf_disable_instrumentation()); a raw tracepoint's misses are counted.
 */
int on_sys_enter(struct bpf_raw_tracepoint_args *ctx)
{
	u64 regs = ctx->args[0];

	switch (ctx->args[1]) {
	case NR_fallocate:
		fallocate_enter(regs);
		break;
	case NR_ftruncate:
		truncate_enter(regs);
		break;
	case NR_io_submit:
		submit_enter(SYSCALL_ARG(regs, 1), SYSCALL_ARG(regs, 2), OP_AIO_WRITE);
		break;
	case NR_io_uring_enter:
		submit_enter((u32)SYSCALL_ARG(regs, 1), 0, OP_URING_WRITE);
		break;
	case NR_write:
		write_enter(regs, -1, SYSCALL_ARG(regs, 2));
		break;
	case NR_writev:
		write_enter(regs, -1, 0);
		break;
	case NR_pwrite64:
		write_enter(regs, SYSCALL_ARG(regs, 3), SYSCALL_ARG(regs, 2));
		break;
	case NR_pwritev:
	case NR_pwritev2:
		write_enter(regs, SYSCALL_ARG(regs, 3), 0);
		break;
	}
	return 0;
}

static inline void call_exit(s64 result)
{
	u64 id = bpf_get_current_pid_tgid();
	struct call *call = calls.lookup(&id);

	if (!call)
		return;
	if (call->kind == OP_DIRECT_WRITE)
		write_exit(call, result);
	else
		finish(&call->op, call->inode, result);
	calls.delete(&id);
}

int on_sys_exit(struct bpf_raw_tracepoint_args *ctx)
{
	switch (FIELD(u64, ctx->args[0], OFF_pt_regs_nr)) {
	case NR_io_submit:
	case NR_io_uring_enter:
		submit_exit(ctx->args[1]);
		break;
	case NR_fallocate:
	case NR_ftruncate:
	case NR_write:
	case NR_writev:
	case NR_pwrite64:
	case NR_pwritev:
	case NR_pwritev2:
		call_exit(ctx->args[1]);
		break;
	}
	return 0;
}
