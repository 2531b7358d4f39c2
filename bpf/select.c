/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which processes are traced (BY_PROCESS): those that user space names, those that call
 * themselves by a name it gave when they exec, and the children of both. A process is
 * forgotten when its last thread exits, so that its number may be another's.
 */
#if BY_PROCESS
int on_sched_process_fork(struct bpf_raw_tracepoint_args *ctx)
{
	u32 parent = FIELD(u32, ctx->args[0], OFF_task_struct_tgid);
	u32 child = FIELD(u32, ctx->args[1], OFF_task_struct_tgid);
	u8 one = 1;

	if (parent == child || !selected.lookup(&parent))
		return 0;
	if (selected.update(&child, &one))
		count_drop(DROP_MAP);
	return 0;
}

int on_sched_process_exec(struct bpf_raw_tracepoint_args *ctx)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct comm comm = {};
	u8 one = 1;

	bpf_get_current_comm(comm.name, sizeof(comm.name));
	if (!comms.lookup(&comm))
		return 0;
	if (selected.update(&tgid, &one))
		count_drop(DROP_MAP);
	return 0;
}
#endif

/* do_exit() has taken this thread from signal->live before. */
int on_sched_process_exit(struct bpf_raw_tracepoint_args *ctx)
{
#if BY_PROCESS
	u64 signal = FIELD(u64, ctx->args[0], OFF_task_struct_signal);
	u32 tgid = FIELD(u32, ctx->args[0], OFF_task_struct_tgid);

	if (!FIELD(u32, signal, OFF_signal_struct_live))
		selected.delete(&tgid);
#endif
	forget_call(bpf_get_current_pid_tgid());
	return 0;
}
