/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The same as direct_write.c for kernels before 3fd41721cd5c (v6.6), which have no
 * iomap_dio tracepoints: the functions that those sit in.
 *
 * A kretprobe can be missed, so it is not relied on alone: aio_complete_rw() and
 * io_complete_rw() end a write for good, whatever came before, and so does the
 * return from a synchronous system call.
 */
BPF_HASH(completing, u64, u64, 16384);	/* pid_tgid -> address of the struct kiocb in iomap_dio_complete() */

static inline void complete_begin(u64 dio)
{
	u64 id = bpf_get_current_pid_tgid();
	u64 kiocb = FIELD(u64, dio, OFF_iomap_dio_iocb);

	if (find_write(kiocb) || may_be_from_before(kiocb))
		completing.update(&id, &kiocb);
	else
		completing.delete(&id);		/* of a return that was missed: its kiocb may be another's by now */
}

static inline void complete_return(s64 result)
{
	u64 id = bpf_get_current_pid_tgid();
	u64 *kiocb = completing.lookup(&id);

	if (!kiocb)
		return;
	complete_write(*kiocb, 0, result);
	completing.delete(&id);
}

/* Whoever wanted to hear of the completion is called: ki_complete(kiocb, res). */
static inline void completed(u64 kiocb, s64 result)
{
	struct write *w = find_write(kiocb);

	if (w)
		end_write(kiocb, w, result);
}
