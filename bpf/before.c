/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Operations that had begun before anybody looked. Their begin is not seen; they are told
 * by their end, and count as in flight from the start: a number below all others (BEFORE),
 * the time when recording began, and no CPU.
 *
 *   a system call	user space marks the threads that are in one (/proc/PID/task/TID/syscall).
 *			When such a thread leaves a call of which nothing is known, its
 *			registers still say what it was
 *   io_submit(2)	user space makes an entry in submissions, as if it had been seen
 *   a direct write	iomap completes a kiocb that did not come to it: by file it is known
 *			whose, by process from the address of its context, or its io_uring
 */
#define NONE_CPU	0xffff
#define IOCB_WRITE_BIT	(1 << 18)	/* linux/fs.h */

static inline int begin_before(struct operation *op)
{
	int zero = 0;
	struct before *before = before_all.lookup(&zero);
	u64 number = before ? fetch_add(&before->numbers, 1) + 1 : 0;

	if (!before || before->lost || number > BEFORE_NUMBERS) {
		count_drop(DROP_WAITS);
		return -1;
	}
	op->seq_begin = number;
	op->t_begin = before->when;
	op->cpu_begin = NONE_CPU;
	op->size_begin = NONE_SIZE;
	return 0;
}

/* What began in that call was lost: what completes from now on may have been seen. */
static inline void lose_before(void)
{
	int zero = 0;
	struct before *before = before_all.lookup(&zero);

	if (before)
		before->lost = 1;
}

/* A direct write comes to iomap, of a thread that is in a call of which nothing is known; 0 if that was before. */
static inline int begin_in_call_before(u64 kiocb, struct operation *op)
{
	u64 id = bpf_get_current_pid_tgid();
	struct marked *thread = marked_threads.lookup(&id);

	if (!thread || begin_before(op))
		return -1;
	thread->kiocb = kiocb;
	thread->kiocb_seq = op->seq_begin;
	return 0;
}

/* Whether the marked thread may go on with that direct write. */
static inline int may_continue_before(u64 kiocb)
{
	u64 id = bpf_get_current_pid_tgid();
	struct marked *thread = marked_threads.lookup(&id);

	return thread && thread->kiocb == kiocb;
}

/* Whose asynchronous write that is, if it is traced: a process, 0: nobody knows, but the file is watched; -1: it is not. */
static inline s64 process_of(u64 kiocb, u8 op)
{
	u64 context, *tgid;
	u32 found = 0;

	if (op == OP_AIO_WRITE && OFF_aio_kiocb_ki_ctx) {
		context = FIELD(u64, FIELD(u64, kiocb, OFF_aio_kiocb_ki_ctx), OFF_kioctx_user_id);
		tgid = aio_contexts.lookup(&context);
		found = tgid ? *tgid : 0;
	} else if (op == OP_URING_WRITE && OFF_io_kiocb_tctx && OFF_io_uring_task_task) {
		context = FIELD(u64, kiocb - OFF_io_kiocb_cmd, OFF_io_kiocb_tctx);
		found = FIELD(u32, FIELD(u64, context, OFF_io_uring_task_task), OFF_task_struct_tgid);
	} else if (op == OP_URING_WRITE && OFF_io_kiocb_task) {
		found = FIELD(u32, FIELD(u64, kiocb - OFF_io_kiocb_cmd, OFF_io_kiocb_task), OFF_task_struct_tgid);
	}
#if BY_PROCESS
	if (!selected.lookup(&found))
		return -1;
#endif
	return found;
}

/* One of the io_submit(2) that the thread was in by then: it completes there, and nothing need be looked for. */
static inline int begin_in_submission_before(u64 kiocb, struct operation *op)
{
	u64 wanted = FIELD(u64, kiocb, OFF_aio_kiocb_ki_res_obj);
	struct submission *s = submission_of_thread();
	u64 iocb;
	int i;

	if (!s || s->kind != OP_AIO_WRITE || s->cpu != NONE_CPU)
		return -1;
#pragma clang loop unroll(disable)
	for (i = 0; i < 32; i++) {
		iocb = 0;
		if (i >= s->total || read_user(&iocb, sizeof(iocb), (void *)(s->iocbs + 8 * i)))
			break;
		if (iocb == wanted)
			return begin_from(s, op);
	}
	return -1;
}

/*
 * A kiocb completes that did not come to iomap while anybody looked. If it is an asynchronous
 * write that is traced: whose it is, as process_of() has it, with its kind and file in op;
 * -1 if not. A synchronous one ends with its call.
 */
static inline s64 traced_from_before(u64 kiocb, u8 *what, struct operation *op)
{
	bpf_probe_read_kernel(what, KIOCB_HEAD, (void *)kiocb);
	op->op = origin_by_hearer(PART(u64, what, OFF_kiocb_ki_complete));
	if (!op->op || !(PART(u32, what, OFF_kiocb_ki_flags) & IOCB_WRITE_BIT))
		return -1;
	if (!identify_inode(op, FIELD(u64, PART(u64, what, OFF_kiocb_ki_filp), OFF_file_f_inode)))
		return -1;
	return process_of(kiocb, op->op);
}

static inline int may_be_from_before(u64 kiocb)
{
	u8 what[KIOCB_HEAD] __attribute__((aligned(8)));
	struct operation op = {};

	return traced_from_before(kiocb, what, &op) >= 0;
}

/* The same as an operation that has ended but for its result; 0 if it is traced. */
static inline int write_from_before(u64 kiocb, s64 result, struct write *w)
{
	u8 what[KIOCB_HEAD] __attribute__((aligned(8)));
	s64 process;
	u64 file;

	__builtin_memset(w, 0, sizeof(*w));
	process = traced_from_before(kiocb, what, &w->op);
	if (process < 0)
		return -1;
	file = PART(u64, what, OFF_kiocb_ki_filp);
	w->inode = FIELD(u64, file, OFF_file_f_inode);
	if ((w->op.op != OP_AIO_WRITE || begin_in_submission_before(kiocb, &w->op)) && begin_before(&w->op))
		return -1;
	w->op.size_begin = NONE_SIZE;
	if (NAME_ALL)
		note_name(&w->op, file);
	w->op.pid = process;
	w->op.size_applied = NONE_SIZE;
	/* iomap_dio_complete() has moved ki_pos; how long one was that failed, nobody knows. */
	w->op.length = result > 0 ? result : 0;
	w->op.offset = PART(s64, what, OFF_kiocb_ki_pos) - w->op.length;
	w->op.flags = PART(u32, what, OFF_kiocb_ki_flags);
	note_request(kiocb, w);
	return 0;
}
