/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The same as direct_write.c for kernels before 3fd41721cd5c (v6.6), which have no
 * iomap_dio tracepoints: kprobes on the functions that those sit in.
 *
 * A kretprobe can be missed, so it is not relied on alone: aio_complete_rw() and
 * io_complete_rw() end a write for good, whatever came before, and so does the
 * return from a synchronous system call.
 */
BPF_HASH(completing, u64, u64, 16384);	/* pid_tgid -> address of the struct kiocb in iomap_dio_complete() */

int on___iomap_dio_rw(struct pt_regs *ctx)
{
	begin_write(KPROBE_ARG(0), KPROBE_ARG(1));
	return 0;
}

int on_iomap_dio_complete_enter(struct pt_regs *ctx)
{
	u64 id = bpf_get_current_pid_tgid();
	u64 kiocb = FIELD(u64, KPROBE_ARG(0), OFF_iomap_dio_iocb);

	if (writes.lookup(&kiocb))
		completing.update(&id, &kiocb);
	return 0;
}

int on_iomap_dio_complete_return(struct pt_regs *ctx)
{
	u64 id = bpf_get_current_pid_tgid();
	u64 *kiocb = completing.lookup(&id);

	if (!kiocb)
		return 0;
	complete_write(*kiocb, *(s64 *)((char *)ctx + OFF_pt_regs_ret));
	completing.delete(&id);
	return 0;
}

/* aio_complete_rw(kiocb, res), io_complete_rw(kiocb, res) */
int on_complete_rw(struct pt_regs *ctx)
{
	u64 kiocb = KPROBE_ARG(0);
	struct write *w = writes.lookup(&kiocb);

	if (w)
		end_write(kiocb, w, KPROBE_ARG(1));
	return 0;
}
