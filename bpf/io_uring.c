/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * io_uring. A write is in the kernel from its submission, wherever it is done: at
 * once, or, if that would have to wait, by a worker thread. So a request begins at
 * io_uring_submit_req (v6.4; io_uring_submit_sqe before). If it comes to iomap, it is
 * a direct write, which takes that begin (direct_write.c); what has not, ends at
 * io_uring_complete: buffered writes, writes that were refused, fallocates, truncations,
 * what is spliced into a file, and an open that truncates one.
 *
 * A request with a registered file says only at its end which file that is.
 */
#define IORING_OP_WRITEV	2	/* linux/io_uring.h */
#define IORING_OP_WRITE_FIXED	5
#define IORING_OP_FALLOCATE	17
#define IORING_OP_OPENAT		18
#define IORING_OP_WRITE		23
#define IORING_OP_OPENAT2	28
#define IORING_OP_SPLICE	30
#define IORING_OP_FTRUNCATE	55
#define IORING_OP_WRITEV_FIXED	61
#define REQ_F_FIXED_FILE	1	/* as the IOSQE_* flags */
#define REQ_F_IO_DRAIN		2
#define REQ_F_LINKS		12	/* REQ_F_LINK, REQ_F_HARDLINK: the next one waits for this one */

static inline u8 uring_write_kind(u64 file)
{
	return file && FIELD(u32, file, OFF_file_f_flags) & O_DIRECT_BIT ? OP_URING_WRITE : OP_BUFFERED_WRITE;
}

static inline void uring_write_begin(struct operation *op, u64 req, u64 file, u8 opcode)
{
	u64 kiocb = req + OFF_io_kiocb_cmd;

	op->op = uring_write_kind(file);
	op->offset = FIELD(s64, kiocb, OFF_kiocb_ki_pos);
	if (opcode != IORING_OP_WRITEV && opcode != IORING_OP_WRITEV_FIXED)
		op->length = FIELD(u32, kiocb, OFF_io_rw_len);
	if (!file)
		return;
	if (FIELD(u32, file, OFF_file_f_flags) & O_APPEND_BIT)
		op->offset = op->size_begin;
	else if (op->offset < 0)
		op->offset = FIELD(s64, file, OFF_file_f_pos);
}

/* The structure is used again, and the end before was not seen: IOSQE_CQE_SKIP_SUCCESS, or no room for it. */
static inline void uring_forget(u64 req)
{
	u64 kiocb = req + OFF_io_kiocb_cmd;

	struct uring *uring = urings.lookup(&req);

	if (uring) {
		count_drop(DROP_STALE);
		end_unseen(&uring->op);
		urings.delete(&req);
	}
	if (!forget_write(kiocb))
		count_drop(DROP_STALE);
	if (punts.lookup(&kiocb))
		punts.delete(&kiocb);
}

/* If they are, a direct write from a worker that was not submitted had been before anybody looked. */
static inline int uring_submissions_are_seen(void)
{
	int zero = 0;
	u8 *seen = uring_submissions.lookup(&zero);

	return seen && *seen;
}

/* A direct write was submitted whose begin is not: it is no earlier than iomap says. expected: OP_URING_WRITE, 0: or it has ended. */
static inline void uring_begins_at_iomap(u64 kiocb, u8 expected)
{
	struct operation op = {};

	op.op = expected;
	punts.update(&kiocb, &op);
}

static inline int is_uring_write(u8 opcode)
{
	return opcode == IORING_OP_WRITE || opcode == IORING_OP_WRITEV || opcode == IORING_OP_WRITE_FIXED ||
	       opcode == IORING_OP_WRITEV_FIXED;
}

/* Whether fallocate_function.c sees this one. */
static inline int is_seen_elsewhere(u8 op, u64 inode)
{
	int zero = 0;
	u8 *by_function = xfs_by_function.lookup(&zero);

	return op == OP_FALLOCATE && by_function && *by_function && is_xfs(inode);
}

/* Whether the request that the thread submits has to wait for its last one. IORING_SETUP_SQPOLL's is in no system call. */
static inline u8 waits_for_last(u64 flags)
{
	u64 id = bpf_get_current_pid_tgid();
	u8 linked = (flags & REQ_F_LINKS) != 0, waits;
	struct submission *s = submissions.lookup(&id);
	struct submission first = {};

	if (!s) {
		first.notes = NOTES_FIRST;
		first.linked = linked;
		if (linked)
			submissions.update(&id, &first);
		return 0;
	}
	waits = s->linked;
	s->linked = linked;
	return waits;
}

int on_io_uring_submit(struct bpf_raw_tracepoint_args *ctx)
{
	u64 req = ctx->args[0];
	u8 opcode = FIELD(u8, req, OFF_io_kiocb_opcode);
	u64 flags = FIELD(u64, req, OFF_io_kiocb_flags);
	u64 cmd = req + OFF_io_kiocb_cmd;
	struct submission *s = submission_of_thread();
	struct uring uring = {};
	u8 waits = (flags & REQ_F_IO_DRAIN) != 0;
	u64 file = 0;
	int opens, direct;

	uring_forget(req);
	waits |= waits_for_last(flags);
	opens = opcode == IORING_OP_OPENAT || opcode == IORING_OP_OPENAT2;
	if (!is_uring_write(opcode) && opcode != IORING_OP_FALLOCATE && opcode != IORING_OP_FTRUNCATE && opcode != IORING_OP_SPLICE &&
	    !opens)
		return 0;
	if (!is_selected())
		return 0;
	if (opens && !(FIELD(u64, cmd, OFF_io_open_how_flags) & O_TRUNC_BIT))
		return 0;
	if (!(flags & REQ_F_FIXED_FILE) && !opens) {
		file = file_of(FIELD(u32, req, OFF_io_kiocb_cqe_fd));
		if (!file)
			return 0;	/* EBADF */
		uring.inode = FIELD(u64, file, OFF_file_f_inode);
		if (!identify_inode(&uring.op, uring.inode))
			return 0;
		if (NAME_ALL || opcode == IORING_OP_FALLOCATE)
			note_name(&uring.op, file);
	}
	direct = file && uring_write_kind(file) == OP_URING_WRITE && opcode != IORING_OP_FALLOCATE && opcode != IORING_OP_FTRUNCATE;
	/*
	 * io_uring itself keeps it back until others have ended, and nobody says when it
	 * begins. A direct write says so at iomap, if it comes there; of a registered file
	 * nobody knows yet. What is spliced to an O_DIRECT file comes to iomap, too, but from
	 * a worker, and nobody says for which request.
	 */
	if (waits || (direct && opcode == IORING_OP_SPLICE)) {
		if (opcode != IORING_OP_SPLICE && (direct || (!file && is_uring_write(opcode))))
			uring_begins_at_iomap(cmd, OP_URING_WRITE);
		else
			count_drop(DROP_WAITS);
		return 0;
	}
	begin_now(&uring.op);
	if (uring.inode)
		uring.op.size_begin = inode_size(uring.inode);
	if (!s || s->kind != OP_URING_WRITE || begin_from(s, &uring.op))
		uring.op.seq_begin = take_numbers(1);
	uring.op.request = FIELD(u64, req, OFF_io_kiocb_cqe_user_data);
	if (opcode == IORING_OP_FALLOCATE) {
		uring.op.op = OP_FALLOCATE;
		uring.op.offset = FIELD(s64, cmd, OFF_io_sync_off);
		uring.op.length = FIELD(s64, cmd, OFF_io_sync_len);
		uring.op.flags = FIELD(u32, cmd, OFF_io_sync_mode);
	} else if (opcode == IORING_OP_FTRUNCATE) {
		uring.op.op = OP_TRUNCATE;
		uring.op.offset = FIELD(s64, cmd, OFF_io_ftrunc_len);
	} else if (opens) {
		uring.op.op = OP_OPEN;
		uring.slot = FIELD(u32, cmd, OFF_io_open_file_slot) != 0;
	} else if (opcode == IORING_OP_SPLICE) {
		uring.op.op = OP_BUFFERED_WRITE;
		uring.op.offset = FIELD(s64, cmd, OFF_io_splice_off_out);
		uring.op.length = FIELD(u64, cmd, OFF_io_splice_len);
		uring.copies = COPY_BYTES;
		uring.place = uring.op.offset < 0;
		if (uring.place && file)
			uring.op.offset = FIELD(s64, file, OFF_file_f_pos);
	} else {
		uring_write_begin(&uring.op, req, file, opcode);
	}
	if (uring.inode && uring.op.op == OP_FALLOCATE && !is_seen_elsewhere(OP_FALLOCATE, uring.inode))
		fallocate_begun(&uring.op);
	if (urings.update(&req, &uring)) {
		count_drop(DROP_MAP);
		lose_before();
	}
	return 0;
}

/* Which file an open has truncated. It is no request's own, but its result is a descriptor, also in a worker. */
static inline u64 uring_opened(struct uring *uring, s64 result)
{
	u64 file = result < 0 || uring->slot ? 0 : file_of(result);

	if (result >= 0 && !file)
		count_drop(DROP_FILE);
	uring->inode = file ? opened(&uring->op, file) : 0;
	uring->op.op = OP_TRUNCATE;
	return file;
}

/* A write has ended: whether it was expected at iomap, and did not come there. */
static inline void uring_expected_at_iomap(u64 kiocb, u64 file)
{
	struct operation *noted = punts.lookup(&kiocb), op = {};

	if (!noted || noted->op != OP_URING_WRITE)
		return;
	punts.delete(&kiocb);
	if (file && identify_inode(&op, FIELD(u64, file, OFF_file_f_inode)))
		count_drop(DROP_WAITS);
}

int on_io_uring_complete(struct bpf_raw_tracepoint_args *ctx)
{
	u64 req = ctx->args[1];
	struct uring *uring = urings.lookup(&req);
	u64 kiocb = req + OFF_io_kiocb_cmd;
	struct write *w;
	u64 file;
	s64 result;
	int was_known;

	result = URING_CQE ? FIELD(s32, ctx->args[2], OFF_io_uring_cqe_res) : (s32)ctx->args[3];
	if (!uring) {
		/* A write that iomap has given up, such as one with RWF_NOWAIT that would have to wait. */
		w = find_write(kiocb);
		if (w)
			end_write(kiocb, w, result);
		else if (result > 0)
			uring_expected_at_iomap(kiocb, FIELD(u64, req, OFF_io_kiocb_file));
		return 0;
	}
	was_known = uring->inode != 0;
	if (uring->op.op == OP_OPEN) {
		file = uring_opened(uring, result);
		result = 0;
	} else {
		file = FIELD(u64, req, OFF_io_kiocb_file);
		if (!was_known) {
			uring->inode = file ? FIELD(u64, file, OFF_file_f_inode) : 0;
			if (!identify_inode(&uring->op, uring->inode))
				uring->inode = 0;
		}
	}
	if (!uring->inode)
		goto out;
	if (!was_known)
		note_name(&uring->op, file);
	if (is_seen_elsewhere(uring->op.op, uring->inode))
		goto out;
	if (uring->copies) {
		copied(&uring->op, uring->copies, &result);
		if (uring->place && result > 0 && FIELD(s64, file, OFF_file_f_pos) != uring->op.offset + result) {
			count_drop(DROP_PLACE);
			goto out;
		}
	} else if (uring->op.op == OP_BUFFERED_WRITE || uring->op.op == OP_URING_WRITE) {
		uring->op.op = uring_write_kind(file);
		if (!uring->op.length && result > 0)
			uring->op.length = result;
		/* It was written from here on, whatever the size and the position were when it began. */
		if (result > 0)
			uring->op.offset = FIELD(s64, kiocb, OFF_kiocb_ki_pos) - result;
	}
	/* The completion may be told long after the fallocate: the size that it left is another one's by now. */
	finish(&uring->op, uring->op.op == OP_FALLOCATE ? 0 : uring->inode, result);
out:
	urings.delete(&req);
	return 0;
}

/*
 * Where submissions are not seen: io_uring first tries a write with IOCB_NOWAIT. If the
 * inode lock is taken, that fails before iomap sees it, and a worker does it later: from
 * the worker's iomap_dio_rw_begin alone it would seem to begin only then.
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
	struct operation op = {}, *noted = punts.lookup(&kiocb);

	if (urings.lookup(&req) || !identify(&op, inode) || find_write(kiocb))
		return 0;
	begin_now(&op);
	op.size_begin = inode_size(inode);
	/* One that was noted had to wait, or is done again: it was not submitted in this call. */
	if (!s || s->kind != OP_URING_WRITE || noted || begin_from(s, &op))
		op.seq_begin = take_numbers(1);
	if (noted)
		op.op = noted->op;
	punts.update(&kiocb, &op);
	return 0;
}
