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

int on_sys_exit(struct bpf_raw_tracepoint_args *ctx)
{
	u64 id = bpf_get_current_pid_tgid();
	struct call *call = calls.lookup(&id);
	s64 result = ctx->args[1];

	if (!call || call->by_kprobe)
		return 0;
	switch (call->kind) {
	case OP_FALLOCATE:
	case OP_TRUNCATE:
		finish(&call->op, call->inode, result);
		break;
	case OP_DIRECT_WRITE:
		write_exit(call, result);
		break;
	case OP_AIO_WRITE:
		/* A completion that is seen anyway needs no guess (and kprobes cannot tell what was queued). */
		if (!BY_KPROBE)
			end_failed(call, NONE_RESULT);
		submit_exit(call, result);
		break;
	}
	calls.delete(&id);
	return 0;
}
