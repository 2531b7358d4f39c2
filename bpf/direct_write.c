/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Direct writes, on every file system that uses iomap for them.
 *
 * A write begins when its thread enters the system call, because one that waits
 * for the inode lock inside io_submit(2) is already in the kernel. io_submit and
 * io_uring_enter reserve a block of sequence numbers there, one for each write.
 * What a write is, and where, is known at iomap_dio_rw_begin; it ends at
 * iomap_dio_complete, after i_size was raised and inode_dio_end() called.
 *
 * The three iomap tracepoints are there since 3fd41721cd5c (v6.6); without them the
 * same is done by direct_write_function.c (BY_FUNCTION).
 */

static inline void aio_came(struct submission *s, u64 kiocb);	/* aio.c */
static inline void aio_given_up(struct submission *s);
static inline int uring_submissions_are_seen(void);	/* io_uring.c */
static inline void uring_begins_at_iomap(u64 kiocb, u8 expected);
static inline int begin_in_call_before(u64 kiocb, struct operation *op);	/* before.c */
static inline int may_continue_before(u64 kiocb);
static inline int may_be_from_before(u64 kiocb);
static inline int write_from_before(u64 kiocb, s64 result, struct write *w);
static inline void lose_before(void);

static inline u32 place_of_kiocb(u64 kiocb)
{
	return kiocb * 0x9e3779b97f4a7c15ULL >> 54;	/* 64 bits less those of WRITE_PLACES */
}

static inline struct placed_write *home_of(u64 kiocb)
{
	u32 at = place_of_kiocb(kiocb);

	return placed_writes.lookup(&at);
}

static inline struct write *find_write(u64 kiocb)
{
	struct placed_write *place = home_of(kiocb);
	int zero = 0;
	u64 *count;

	if (place && place->kiocb == kiocb)
		return &place->w;
	count = displaced.lookup(&zero);
	return count && *count ? writes.lookup(&kiocb) : 0;
}

/* 0 if there was room. */
static inline int keep_write(u64 kiocb, struct write *w)
{
	struct placed_write *place = home_of(kiocb);
	int zero = 0;
	u64 *count = displaced.lookup(&zero);

	if (!place || !count)
		return -1;
	if (fetch_add(&place->takers, 1)) {
		fetch_add(&place->takers, -1);
		fetch_add(count, 1);	/* before it can be looked for */
		return writes.update(&kiocb, w);
	}
	place->w = *w;
	place->kiocb = kiocb;
	return 0;
}

/* 0 if it was there. */
static inline int forget_write(u64 kiocb)
{
	struct placed_write *place = home_of(kiocb);
	int zero = 0;
	u64 *count;

	if (!place || place->kiocb != kiocb) {
		count = displaced.lookup(&zero);
		if (writes.delete(&kiocb))
			return -1;
		if (count)
			fetch_add(count, -1);
		return 0;
	}
	place->kiocb = 0;
	place->w.op.op = 0;
	fetch_add(&place->takers, -1);
	return 0;
}

/* When XFS began to convert extents and raise i_size, per write, and from which size. */
int on_xfs_end_io_direct_write(struct bpf_raw_tracepoint_args *ctx)
{
	u64 inode = ctx->args[0] + OFF_xfs_inode_i_vnode;
	s64 offset = ctx->args[1];
	u32 slot = applied_slot(inode, offset);
	struct applied *entry;

	if (!is_applied_of_interest())
		return 0;
	entry = applied.lookup(&slot);
	if (!entry || (s64)ctx->args[2] <= 0)
		return 0;	/* an attempt that wrote nothing */
	entry->inode = inode;
	entry->offset = offset;
	entry->when = bpf_ktime_get_ns();
	entry->size = inode_size(inode);
	return 0;
}

/* An asynchronous or synchronous write ended; w is gone afterwards. known: its inode, as finish_known() has it. */
static inline void end_known_write(u64 kiocb, struct write *w, u64 known, s64 result)
{
	u32 slot = applied_slot(w->inode, w->op.offset);
	struct applied *entry = applied.lookup(&slot);

	if (entry && entry->inode == w->inode && entry->offset == w->op.offset && entry->when > w->op.t_begin) {
		w->op.t_applied = entry->when;
		w->op.size_applied = entry->size;
	} else if (result > 0) {
		/* Other file systems raise i_size within iomap_dio_complete(), so that its end is the latest it can be. */
		w->op.t_applied = AT_ITS_END;
	}
	if (w->op.op == OP_URING_WRITE && result < w->op.length)
		uring_begins_at_iomap(kiocb, 0);	/* it may be done again, or the rest of it */
	finish_known(&w->op, w->inode, known, result);
	forget_write(kiocb);
}

static inline void end_write(u64 kiocb, struct write *w, s64 result)
{
	end_known_write(kiocb, w, 0, result);
}

/* The submission that the thread is in, 0 if none. */
static inline struct submission *submission_of_thread(void)
{
	u64 id = bpf_get_current_pid_tgid();
	struct submission *s = submissions.lookup(&id);

	return s && s->kind ? s : 0;
}

/* Whether iomap has given an AIO write up: the file system does it by way of the page cache. */
static inline int is_given_up(struct write *w)
{
	return w->op.op == OP_AIO_WRITE && !w->op.queued && (!w->tried || w->tried == -EOF_ENOTBLK);
}

/*
 * The last write of a submission that has begun, and which iomap has given up: not
 * begun, as far as iomap is concerned. aio.c looks for those.
 */
static inline void undo_begin(u64 kiocb, struct write *w)
{
	struct submission *s = submission_of_thread();

	if (s && s->kiocb == kiocb && s->seq_next == w->op.seq_begin + 1) {
		s->seq_next--;
		s->left++;
		aio_given_up(s);
	} else {
		count_drop(DROP_BYPASS);
	}
	forget_write(kiocb);
}

/*
 * A write that began in a call but was neither queued nor completed: iomap_dio_rw()
 * failed early (no memory, page cache not invalidated, not an overwrite), and nobody
 * else will end it.
 */
static inline void end_failed(u64 kiocb, u64 seq, s64 result)
{
	struct write *w;

	if (!kiocb)
		return;
	w = find_write(kiocb);
	if (!w || w->op.seq_begin != seq || w->op.queued)
		return;
	if (result == NONE_RESULT && is_given_up(w)) {
		undo_begin(kiocb, w);
		return;
	}
	end_write(kiocb, w, result != NONE_RESULT ? result : w->tried);
}

/* Which interface a kiocb comes from by whoever wants to hear of its completion; 0: that does not tell. */
static inline u8 origin_by_hearer(u64 complete)
{
	if (!complete)
		return 0;
	if (complete == SYM_aio_complete_rw)
		return OP_AIO_WRITE;
	if (complete == SYM_io_complete_rw || complete == SYM_io_complete_rw_iopoll)
		return OP_URING_WRITE;
	return 0;
}

static inline u8 origin(u64 complete, struct submission *s)
{
	u8 known = origin_by_hearer(complete);

	if (known)
		return known;
	return complete && !SYM_aio_complete_rw && s ? s->kind : OP_DIRECT_WRITE;
}

/* What the user calls it, and of io_submit the iocb: the first two members of struct io_event ki_res. */
static inline void note_request(u64 kiocb, struct write *w)
{
	u64 event[2] = {};

	if (w->op.op == OP_AIO_WRITE) {
		READ(event, kiocb + OFF_aio_kiocb_ki_res_data);
		w->op.request = event[0];
		w->iocb = event[1];
	} else if (w->op.op == OP_URING_WRITE) {
		w->op.request = FIELD(u64, kiocb, OFF_io_kiocb_cqe_user_data - OFF_io_kiocb_cmd);
	}
}

/* Take a begin from the block of the system call, if there is one. */
static inline int begin_from(struct submission *s, struct operation *op)
{
	if (!s->left)
		return -1;
	s->left--;
	op->seq_begin = s->seq_next++;
	op->t_begin = s->t_begin;
	op->cpu_begin = s->cpu;
	return 0;
}

/* It began when that did. */
static inline void begin_as(struct operation *op, struct operation *noted)
{
	op->seq_begin = noted->seq_begin;
	op->t_begin = noted->t_begin;
	op->cpu_begin = noted->cpu_begin;
}

/* Synchronous: the call has begun for it. Once only: a second write of a call begins when it does. */
static inline void begin_in_call(u64 kiocb, struct write *w)
{
	u64 id = bpf_get_current_pid_tgid();
	struct call *call = calls.lookup(&id);

	if (!call) {
		begin_in_call_before(kiocb, &w->op);
		return;
	}
	if (call->kind != OP_DIRECT_WRITE || call->inode != w->inode)
		return;
	if (call->op.op) {
		begin_as(&w->op, &call->op);
		call->op.op = 0;
	} else {
		w->op.seq_begin = take_numbers(1);
	}
	call->kiocb = kiocb;
	call->kiocb_seq = w->op.seq_begin;
}

/* An io_uring write: what was noted of it when it was submitted, or given to a worker. */
static inline void begin_uring(u64 kiocb, struct write *w, struct submission *s)
{
	u64 req = kiocb - OFF_io_kiocb_cmd;
	struct uring *uring = urings.lookup(&req);
	struct operation *noted;

	if (uring) {
		begin_as(&w->op, &uring->op);
		if (uring->inode)
			w->op.size_begin = uring->op.size_begin;
		urings.delete(&req);
		return;
	}
	noted = punts.lookup(&kiocb);
	if (noted && noted->seq_begin && !s) {
		begin_as(&w->op, noted);
		w->op.size_begin = noted->size_begin;
	} else if (s && s->kind == OP_URING_WRITE && !(noted && !noted->seq_begin)) {
		begin_from(s, &w->op);
	} else if (!noted && !s && uring_submissions_are_seen()) {
		begin_before(&w->op);
	}
	if (noted)
		punts.delete(&kiocb);
}

static inline void begin_in_submission(u64 kiocb, struct write *w, struct submission *s)
{
	if (s && s->kind == OP_AIO_WRITE && !BY_FUNCTION)
		end_failed(s->kiocb, s->kiocb_seq, NONE_RESULT);
	if (w->op.op == OP_URING_WRITE)
		begin_uring(kiocb, w, s);
	else if (s && s->kind == w->op.op)
		begin_from(s, &w->op);
	else if (!s)
		begin_in_call_before(kiocb, &w->op);
	if (!w->op.seq_begin)
		w->op.seq_begin = take_numbers(1);
	if (s && s->kind == w->op.op) {
		if (w->op.op == OP_AIO_WRITE)
			aio_came(s, kiocb);
		s->kiocb = kiocb;
		s->kiocb_seq = w->op.seq_begin;
	}
}

/* Whether that write is the last one that the submission has begun. */
static inline int is_last_begun(struct submission *s, u64 kiocb, struct write *w)
{
	return s->kiocb == kiocb && s->kiocb_seq == w->op.seq_begin;
}

/*
 * Whether what comes to iomap is a write that has come there before: again, for the rest, with
 * another lock, or from a worker. xfs_file_dio_write_unaligned() does so after -EAGAIN,
 * btrfs_direct_write() after having faulted the buffer in. Else it is another one that has its
 * kiocb: an io_submit frees that of a write which is refused, and takes it for the next.
 */
static inline int comes_again(u64 kiocb, struct write *old, struct submission *s, u64 inode, s64 offset)
{
	int within = offset >= old->op.offset && offset < old->op.offset + old->op.length;
	u64 id = bpf_get_current_pid_tgid();
	struct call *call;

	if (old->inode != inode || old->op.queued)
		return 0;
	if (old->op.op == OP_AIO_WRITE) {
		if (FIELD(u64, kiocb, OFF_aio_kiocb_ki_res_obj) != old->iocb)
			return 0;
		return s ? is_last_begun(s, kiocb, old) : within;
	}
	if (within)
		return 1;
	if (old->op.op == OP_URING_WRITE)
		return uring_submissions_are_seen();	/* uring_forget() */
	/* To the end of the file, which others have moved. But splice(2) makes several writes with one kiocb. */
	call = old->tried == -EOF_EAGAIN ? calls.lookup(&id) : 0;
	return call && call->kiocb == kiocb && call->kiocb_seq == old->op.seq_begin;
}

/* known and iter: pointers to struct kiocb and iov_iter, whose types are known; kiocb: the former as a number. */
static inline void begin_write(u64 known, u64 kiocb, u64 iter)
{
	struct write w = {}, *old = find_write(kiocb);
	struct submission *s;
	s64 offset;
	u64 file, inode;

	/* Whatever has this kiocb now, its completion must not end a write that had it before, and whose end was not seen. */
	if (!KNOWN_FIELD(u8, iter, OFF_iov_iter_data_source)) {	/* ITER_DEST: a read */
		if (old)
			goto stale;
		return;
	}
	file = KNOWN_FIELD(u64, known, OFF_kiocb_ki_filp);
	inode = KNOWN_FIELD(u64, file, OFF_file_f_inode);
	s = submission_of_thread();
	if (!(s || is_selected()) || !identify_known(&w.op, inode)) {
		if (old)
			goto stale;
		return;
	}
	w.inode = inode;
	offset = KNOWN_FIELD(s64, known, OFF_kiocb_ki_pos);

	if (old) {
		if (comes_again(kiocb, old, s, w.inode, offset)) {
			/* Nothing of it is written yet: if it goes to the end of the file, that may be elsewhere by now. */
			if (old->tried == -EOF_EAGAIN || (old->tried <= 0 && !BY_FUNCTION))
				old->op.offset = offset;
			old->tried = NONE_RESULT;
			return;
		}
		if (s && s->kind == OP_AIO_WRITE && is_last_begun(s, kiocb, old) && !BY_FUNCTION) {
			end_failed(kiocb, old->op.seq_begin, NONE_RESULT);
		} else if (is_given_up(old)) {
			undo_begin(kiocb, old);
		} else {
			count_drop(DROP_STALE);
			forget_write(kiocb);
		}
	}

	begin_here(&w.op);
	w.tried = NONE_RESULT;
	w.op.op = origin(KNOWN_FIELD(u64, known, OFF_kiocb_ki_complete), s);
	w.op.offset = offset;
	w.op.length = KNOWN_FIELD(u64, iter, OFF_iov_iter_count);
	w.op.flags = KNOWN_FIELD(u32, known, OFF_kiocb_ki_flags);
	w.op.size_begin = KNOWN_FIELD(s64, inode, OFF_inode_i_size);
	note_request(kiocb, &w);

	if (w.op.op == OP_DIRECT_WRITE)
		begin_in_call(kiocb, &w);
	else
		begin_in_submission(kiocb, &w, s);
	if (!w.op.seq_begin)
		w.op.seq_begin = take_numbers(1);
	if (!w.op.t_begin)
		w.op.t_begin = bpf_ktime_get_ns();
	if (NAME_ALL)
		note_known_name(&w.op, file, inode);
	if (keep_write(kiocb, &w)) {
		count_drop(DROP_MAP);
		lose_before();
	}
	return;
stale:
	count_drop(DROP_STALE);
	forget_write(kiocb);
}

#if !BY_FUNCTION
int on_iomap_dio_rw_begin(struct bpf_raw_tracepoint_args *ctx)
{
	begin_write(ctx->args[0], ARG_NUMBER(0), ctx->args[1]);
	return 0;
}

/* Fires in the submitter, perhaps after the completion on another CPU: hence the comparison of numbers. */
int on_iomap_dio_rw_queued(struct bpf_raw_tracepoint_args *ctx)
{
	struct submission *s = submission_of_thread();
	struct write *w;
	u64 kiocb;

	if (!s || !s->kiocb)
		return 0;
	kiocb = s->kiocb;
	s->kiocb = 0;	/* nobody need look for it again */
	w = find_write(kiocb);
	if (!w || w->op.seq_begin != s->kiocb_seq)
		return 0;
	w->op.queued = 1;
	/* Completed meanwhile, in an interrupt of this very thread, and taken for a first attempt? */
	if (w->tried != NONE_RESULT)
		end_write(kiocb, w, w->tried);
	return 0;
}
#endif

/*
 * Whether the file system may yet do more for this kiocb: try again after -EAGAIN or
 * a page fault, write the rest, or fall back to the page cache. If it does not, the
 * write ends with its system call.
 */
static inline int may_continue(u64 kiocb, struct write *w, s64 result)
{
	u64 id = bpf_get_current_pid_tgid();
	struct submission *s;
	struct call *call;

	if (w->op.queued || result >= w->op.length)
		return 0;
	if (w->op.op == OP_URING_WRITE)
		return result == -EOF_EAGAIN || result == -EOF_ENOTBLK || result == -EOF_EFAULT || !result;
	if (w->op.op == OP_AIO_WRITE) {
		s = submission_of_thread();
		return s && s->kiocb == kiocb;
	}
	call = calls.lookup(&id);
	return call ? call->kiocb == kiocb : may_continue_before(kiocb);
}

/* known: the inode of kiocb, as a pointer whose type is known, or 0. */
static inline void complete_write(u64 kiocb, u64 known, s64 result)
{
	struct write before, *w = find_write(kiocb);

	if (!w) {
		if (write_from_before(kiocb, result, &before))
			return;
		w = &before;
	} else if (may_continue(kiocb, w, result)) {
		w->tried = result;
		return;
	}
	end_known_write(kiocb, w, known == w->inode ? known : 0, result);
}

#if !BY_FUNCTION
/* One that the second program was not run for gives way in time. */
static inline void note_run(struct completing *here, u64 kiocb)
{
	u64 number = here->runs++;
	u32 at = place_of_kiocb(kiocb);
	int i;

#pragma unroll
	for (i = 0; i < COMPLETING_PLACES - 1; i++) {
		u64 other = here->noted[at].kiocb;

		if (!other || other == kiocb || number - here->noted[at].number > COMPLETING_LAST)
			break;
		at++;
	}
	here->noted[at].number = number;
	here->noted[at].kiocb = kiocb;
}

/* Whether the first program was run for that completion. */
static inline int was_run(struct completing *here, u64 kiocb)
{
	u32 at = place_of_kiocb(kiocb);
	int i, found = 0;

#pragma unroll
	for (i = 0; i < COMPLETING_PLACES; i++) {
		if (here->noted[at + i].kiocb == kiocb) {
			here->noted[at + i].kiocb = 0;
			found = 1;
		}
	}
	return found;
}

int on_iomap_dio_complete(struct bpf_raw_tracepoint_args *ctx)
{
	u64 file = KNOWN_FIELD(u64, ctx->args[0], OFF_kiocb_ki_filp);
	u64 kiocb = ARG_NUMBER(0);
	int zero = 0;
	struct completing *here = completing_here.lookup(&zero);

	if (!here)
		return 0;
	if (PREEMPTED)
		here->busy = 1;
	else
		note_run(here, kiocb);
	barrier();
	complete_write(kiocb, KNOWN_FIELD(u64, file, OFF_file_f_inode), ctx->args[2]);
	barrier();
	if (PREEMPTED)
		here->busy = 0;
	return 0;
}

/*
 * Runs behind the first, for what that was not run for: the kernel does not run a program
 * while it is interrupted on the same CPU (9ed9e9ba2337, v5.12), and completions come in
 * interrupts. Such a write has its entry yet; one of before the recording never had one, and
 * is counted. Where tasks preempt the first program, and go on with the second on another
 * CPU, the entry alone tells.
 *
 * Loaded without types, for which the address is a number at once.
 */
int on_iomap_dio_complete_again(struct bpf_raw_tracepoint_args *ctx)
{
	u64 kiocb = ctx->args[0];
	s64 result = ctx->args[2];
	int zero = 0;
	struct completing *here = completing_here.lookup(&zero);
	u64 *count = taken.lookup(&zero);
	struct write *w;
	int is_ours;

	if (!here || !count)
		return 0;
	if (!PREEMPTED && was_run(here, kiocb))
		return 0;
	w = find_write(kiocb);
	if (!w && (!PREEMPTED || here->busy) && may_be_from_before(kiocb))
		count_drop(DROP_STALE);
	is_ours = w && w->tried != result;
	if (is_ours)
		complete_write(kiocb, 0, result);
	if (!PREEMPTED || is_ours)
		fetch_add(count, 1);
	return 0;
}
#endif

/*
 * io_submit(2), io_uring_enter(2): n writes may follow, on any files. The entry of a
 * thread stays for the next time, because to insert and delete one costs more than all
 * the rest.
 */
static inline struct submission *submit_enter(u64 n, u64 iocbs, u8 kind)
{
	u64 id = bpf_get_current_pid_tgid();
	struct submission *s, empty = {};

	if (!n || n > 0x7fffffff || !is_selected() || is_compat())
		return 0;
	s = submissions.lookup(&id);
	if (!s) {
		empty.notes = NOTES_FIRST;
		submissions.update(&id, &empty);
		s = submissions.lookup(&id);
		if (!s) {
			count_drop(DROP_MAP);
			return 0;
		}
	}
	s->seq_next = take_numbers(n);
	s->t_begin = bpf_ktime_get_ns();
	s->cpu = bpf_get_smp_processor_id();
	s->iocbs = iocbs;
	s->kiocb = 0;
	s->total = n;
	s->left = n;
	s->linked = 0;
	s->kind = kind;
	return s;
}

/* write(2) and its kin. offset -1: the file's position. length 0: an iovec, known at the end. */
static inline void write_enter(struct call *call, u64 file, s64 offset, u64 length, u32 rwf)
{
	if (!(FIELD(u32, file, OFF_file_f_flags) & O_DIRECT_BIT))
		call->op.op = OP_BUFFERED_WRITE;
	call->file = file;
	call->place = place_of(file, rwf, offset);
	count_placing(call, 1);
	if (call->place & PLACE_END)
		offset = call->op.size_begin;
	else if (offset < 0)
		offset = FIELD(s64, file, OFF_file_f_pos);
	call->op.offset = offset;
	call->op.length = length;
}
