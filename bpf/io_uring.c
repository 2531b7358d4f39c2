/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * io_uring first tries a write with IOCB_NOWAIT. If the inode lock is taken, that
 * fails before iomap sees it, and a worker thread does it later: the write is in
 * the kernel, but from the worker's iomap_dio_rw_begin alone it would seem to
 * begin only then. io_uring_queue_async_work keeps the true begin.
 *
 * The tracepoint's first argument is the io_kiocb since 48863ffd3e81 (v6.0); attach.py
 * asks BTF for its arguments.
 */
int on_io_uring_queue_async_work(struct bpf_raw_tracepoint_args *ctx)
{
	u64 req = ctx->args[0];
	u64 file = FIELD(u64, req, OFF_io_kiocb_file);
	u64 kiocb = req + OFF_io_kiocb_cmd;
	u64 inode = file ? FIELD(u64, file, OFF_file_f_inode) : 0;
	struct submission *s = submission_of_thread();
	struct operation op = {};

	if (!identify(&op, inode) || writes.lookup(&kiocb))
		return 0;
	begin_now(&op);
	op.size_begin = inode_size(inode);
	if (!s || s->kind != OP_URING_WRITE || begin_from(s, &op))
		op.seq_begin = take_numbers(1);
	punts.update(&kiocb, &op);
	return 0;
}
