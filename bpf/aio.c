/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writes by io_submit(2) that do not come to iomap: to descriptors without O_DIRECT, to
 * btrfs with checksums (through its page cache since 968f19c5b1b7, v6.15), to ext4
 * without extents, and those that a file system refuses at once. They are done when
 * io_submit returns. No hook tells of them, so they are looked for in the process'
 * memory: what is written where in its iocbs, the result among the completions, which
 * the kernel puts into the ring that is mapped where the context's number says. A page
 * of it that the process never looks at cannot be read here; then io_getevents(2) tells.
 *
 * The iocbs of a thread's first io_submit are noted when it begins, and what comes to
 * iomap is crossed out. If nothing is left, the next ones are not, because that takes a
 * microsecond each: only if fewer writes come to iomap than were submitted, the iocbs
 * are looked at then. One that has completed may be another's by now. So only completions
 * count that nobody had fetched by then: nobody uses an iocb again before.
 *
 * Each step is a program of its own, which calls itself for more: a loop over all would be
 * too much for the verifier.
 */
#define IOCB_BYTES		64	/* struct iocb of linux/aio_abi.h, little endian */
#define IOCB_DATA		0
#define IOCB_RW_FLAGS		12
#define IOCB_LIO_OPCODE		16
#define IOCB_FILDES		20
#define IOCB_BUF		24
#define IOCB_NBYTES		32
#define IOCB_OFFSET		40
#define IOCB_CMD_PWRITE		1
#define IOCB_CMD_PWRITEV	8

#define EXT4_SUPER_MAGIC	0xef53	/* linux/magic.h */

#define AIO_RING_MAGIC		0xa10a10a1	/* fs/aio.c */
#define NO_TAIL			0xffffffff

/* What one program looks at; after 33 of them the kernel lets no other follow. */
#define IOCBS_COUNTED		128
#define IOCBS_NOTED		32
#define EVENTS_HEARD		128
#define IOCBS_ENDED		64
#define EVENTS_FETCHED		64

#define MAX_NOTED		1024	/* iocbs of one io_submit */
#define MAX_NOTED_LATE		256
#define MAX_HEARD		8	/* programs behind the first */
#define MAX_MET			4	/* writes, with two programs each */
#define MAX_VECTORS		8	/* whose lengths are added up */

#define AIO_COUNT		0	/* programs in aio_programs */
#define AIO_NOTE		1
#define AIO_HEAR		2
#define AIO_END			3
#define AIO_MET			4
#define AIO_FETCHED		5

struct aio_ring {		/* fs/aio.c */
	u32 id;
	u32 nr;			/* completions that it has room for */
	u32 head;		/* the next to be fetched */
	u32 tail;		/* behind the last */
	u32 magic;
	u32 compat_features;
	u32 incompat_features;
	u32 header_length;	/* bytes; the completions follow */
};

struct io_event {		/* linux/aio_abi.h */
	u64 data;
	u64 obj;		/* address of the struct iocb */
	s64 res;
	s64 res2;
};

/* Two, because all programs of one have to be for the same tracepoint. */
BPF_PROG_ARRAY(enter_programs, 1);		/* on_io_submit_note_enter() */
BPF_PROG_ARRAY(aio_programs, 6);		/* AIO_*, for sys_exit */
BPF_ARRAY(aio_noted, u64, 1);			/* entries of aio_writes */
BPF_HASH(aio_fetching, u64, u32, 1024);		/* pid_tgid -> completions of its io_getevents(2) that were looked at */

static inline void count_noted(s64 n)
{
	int zero = 0;
	u64 *counter = aio_noted.lookup(&zero);

	if (counter)
		fetch_add(counter, n);
}

static inline struct aio_key aio_key_of(u64 iocb)
{
	struct aio_key key = {};

	key.tgid = bpf_get_current_pid_tgid() >> 32;
	key.iocb = iocb;
	return key;
}

/* 0 if it was there. */
static inline int forget_aio(struct aio_key *key)
{
	if (aio_writes.delete(key))
		return -1;
	count_noted(-1);
	return 0;
}

/* Where the ring of io_submit's context is, and what its head says; 0 if it is none that we know. */
static inline u64 read_ring(struct submission *s, u64 regs, struct aio_ring *ring)
{
	u64 address = SYSCALL_ARG(regs, 0);

	if (read_user(ring, sizeof(*ring), (void *)address) || ring->magic != AIO_RING_MAGIC)
		return 0;
	return ring->nr && ring->head < ring->nr && ring->tail < ring->nr ? address + ring->header_length : 0;
}

/* What an iovec has in all, bytes; 0: too many parts, it is known at the end. */
static inline u64 length_of_vector(u64 vector, u64 parts)
{
	u64 length = 0, part;
	int i;

	if (parts > MAX_VECTORS)
		return 0;
#pragma clang loop unroll(disable)
	for (i = 0; i < MAX_VECTORS; i++) {
		if (i >= parts)
			break;
		part = 0;
		read_user(&part, sizeof(part), (void *)(vector + 16 * i + 8));
		length += part;
	}
	return length;
}

/* Note one iocb, if it is a write to a file that is traced. */
static inline void note_iocb(struct submission *s, u64 iocb)
{
	u8 block[IOCB_BYTES] __attribute__((aligned(8)));
	struct aio_key key = aio_key_of(iocb);
	struct aio_write w = {};
	u16 opcode;
	u64 file;

	if (read_user(block, sizeof(block), (void *)iocb))
		return;
	opcode = PART(u16, block, IOCB_LIO_OPCODE);
	if (opcode != IOCB_CMD_PWRITE && opcode != IOCB_CMD_PWRITEV)
		return;
	file = file_of(PART(u32, block, IOCB_FILDES));
	w.inode = file ? FIELD(u64, file, OFF_file_f_inode) : 0;
	if (!identify_inode(&w.op, w.inode))
		return;
	begin_here(&w.op);
	w.direct = (FIELD(u32, file, OFF_file_f_flags) & O_DIRECT_BIT) != 0;
	w.place = place_of(file, PART(u32, block, IOCB_RW_FLAGS), 0);
	w.op.request = PART(u64, block, IOCB_DATA);
	w.op.offset = PART(s64, block, IOCB_OFFSET);
	w.op.length = PART(u64, block, IOCB_NBYTES);
	if (opcode == IOCB_CMD_PWRITEV)
		w.op.length = length_of_vector(PART(u64, block, IOCB_BUF), w.op.length);
	if (!s->late)
		w.op.size_begin = inode_size(w.inode);
	if (NAME_ALL)
		note_name(&w.op, file);
	/* One with O_DIRECT begins in iomap, as a rule. */
	if (w.direct)
		s->direct++;
	else if (!begin_from(s, &w.op))
		w.op.op = OP_BUFFERED_WRITE;
	if (!forget_aio(&key))
		count_drop(DROP_BYPASS);	/* nobody has told what became of the one before */
	if (aio_writes.update(&key, &w)) {
		count_drop(DROP_MAP);
		return;
	}
	count_noted(1);
	s->noted++;
}

/* An AIO write of a thread whose iocbs are noted has come to iomap: there it is an operation. */
static inline void aio_came(struct submission *s, u64 kiocb)
{
	struct aio_write *w;
	struct aio_key key;

	if (!s->noted)
		return;
	s->iocb = FIELD(u64, kiocb, OFF_aio_kiocb_ki_res_obj);
	key = aio_key_of(s->iocb);
	w = aio_writes.lookup(&key);
	if (!w || w->came)
		return;
	w->came = 1;
	s->came++;
}

/* The last one that came there goes another way. */
static inline void aio_given_up(struct submission *s)
{
	struct aio_key key = aio_key_of(s->iocb);
	struct aio_write *w;

	if (!s->noted)
		return;
	w = aio_writes.lookup(&key);
	if (!w || !w->came)
		return;
	w->came = 0;
	s->came--;
}

/* XFS has set the place of a buffered write, under the inode lock. */
static inline void aio_placed(u64 kiocb, s64 offset)
{
	struct submission *s = submission_of_thread();
	struct aio_key key;
	struct aio_write *w;

	if (!s || s->kind != OP_AIO_WRITE || !s->noted)
		return;
	key = aio_key_of(FIELD(u64, kiocb, OFF_aio_kiocb_ki_res_obj));
	w = aio_writes.lookup(&key);
	if (!w)
		return;
	w->op.offset = offset;
	w->place |= PLACE_KNOWN;
}

static inline u64 iocb_at(struct submission *s)
{
	u64 iocb = 0;

	read_user(&iocb, sizeof(iocb), (void *)(s->iocbs + 8ULL * s->at));
	return iocb;
}

/* io_submit(2) begins; programs go on from here if its iocbs are to be noted. */
static inline void aio_enter(struct bpf_raw_tracepoint_args *ctx, struct submission *s)
{
	struct aio_ring ring;

	s->at = s->noted = s->came = s->direct = s->late = 0;
	if (!s->notes)
		return;
	s->until = s->total < MAX_NOTED ? s->total : MAX_NOTED;
	s->ring_tail = read_ring(s, ctx->args[0], &ring) ? ring.tail : NO_TAIL;
	enter_programs.call(ctx, 0);
}

static inline void note_some(struct submission *s)
{
	int i;

#pragma clang loop unroll(disable)
	for (i = 0; i < IOCBS_NOTED; i++) {
		if (s->at >= s->until)
			break;
		note_iocb(s, iocb_at(s));
		s->at++;
	}
}

int on_io_submit_note_enter(struct bpf_raw_tracepoint_args *ctx)
{
	struct submission *s = submission_of_thread();

	if (!s)
		return 0;
	note_some(s);
	if (s->at < s->until)
		enter_programs.call(ctx, 0);
	return 0;
}

/* The same when it is over. */
int on_io_submit_note(struct bpf_raw_tracepoint_args *ctx)
{
	struct submission *s = submission_of_thread();

	if (!s)
		return 0;
	note_some(s);
	if (s->at < s->until)
		aio_programs.call(ctx, AIO_NOTE);
	else
		aio_programs.call(ctx, AIO_HEAR);
	return 0;
}

/*
 * Of more iocbs than are noted, if some of these write to traced files, the worst is assumed:
 * so do all of the others that did not come to iomap.
 */
static inline void count_rest(struct submission *s)
{
	u32 rest = s->submitted > s->at ? s->submitted - s->at : 0;
	u32 buffered = s->noted - s->direct;
	u32 begun = s->total - s->left - buffered - s->came;

	if (rest > begun)
		count_drops(DROP_BYPASS, rest - begun);
}

/*
 * io_submit(2) has come back with that many iocbs submitted. If fewer writes came to
 * iomap, the others were reads, or of other files, mostly.
 */
static inline void aio_exit(struct bpf_raw_tracepoint_args *ctx, struct submission *s, s64 submitted)
{
	s->submitted = submitted < 0 ? 0 : submitted;
	if (s->noted) {
		count_rest(s);
		s->until = s->at;
		aio_programs.call(ctx, AIO_HEAR);
	}
	/* Those behind the noted ones, or all. */
	if (!s->notes)
		s->at = 0;
	else if (s->notes == NOTES_FIRST)
		s->notes = 0;
	if (s->left && s->submitted > s->at) {
		s->until = s->submitted;
		s->seen = 0;
		aio_programs.call(ctx, AIO_COUNT);
	}
}

/* io_submit(2) or io_uring_enter(2) is over. */
static inline void submit_exit(struct bpf_raw_tracepoint_args *ctx)
{
	struct submission *s = submission_of_thread();

	if (!s)
		return;
	/* An io_uring write may go on in a worker; the functions show every end of an AIO write, but not what was queued. */
	if (s->kind == OP_AIO_WRITE) {
		if (!BY_FUNCTION)
			end_failed(s->kiocb, s->kiocb_seq, NONE_RESULT);
		aio_exit(ctx, s, ctx->args[1]);
	}
	s->kind = 0;
}

/* How many of the iocbs are writes to files that are traced. */
int on_io_submit_count(struct bpf_raw_tracepoint_args *ctx)
{
	struct submission *s = submission_of_thread();
	struct operation op = {};
	u32 begun;
	int i;

	if (!s)
		return 0;
#pragma clang loop unroll(disable)
	for (i = 0; i < IOCBS_COUNTED; i++) {
		u64 iocb, file;
		u16 opcode = 0;
		u32 fd = 0;

		if (s->at >= s->until)
			break;
		iocb = iocb_at(s);
		s->at++;
		read_user(&opcode, sizeof(opcode), (void *)(iocb + IOCB_LIO_OPCODE));
		if (opcode != IOCB_CMD_PWRITE && opcode != IOCB_CMD_PWRITEV)
			continue;
		read_user(&fd, sizeof(fd), (void *)(iocb + IOCB_FILDES));
		file = file_of(fd);
		if (file && identify_inode(&op, FIELD(u64, file, OFF_file_f_inode)))
			s->seen++;	/* in the map: in a register, it would make every pass a new state to verify */
	}
	if (s->at < s->until)
		aio_programs.call(ctx, AIO_COUNT);
	begun = s->total - s->left;
	s->seen += s->until - s->at;	/* of what there was no time for, the worst is assumed */
	if (s->seen > begun && s->until <= MAX_NOTED_LATE) {
		s->late = 1;
		s->at = 0;
		s->came = begun;
		s->ring_tail = NO_TAIL;
		aio_programs.call(ctx, AIO_NOTE);
	}
	if (s->seen > begun)
		count_drops(DROP_BYPASS, s->seen - begun);
	s->kind = 0;
	return 0;
}

/*
 * One completion, of whatever; 0 if it is none of a write that is noted. Another thread
 * may fetch it while this one comes upon it in the ring.
 */
static inline struct aio_write *hear(struct io_event *event)
{
	struct aio_key key = aio_key_of(event->obj);
	struct aio_write *w = aio_writes.lookup(&key);

	if (!w || w->op.request != event->data || fetch_add(&w->heard, 1))
		return 0;
	w->op.result = event->res;
	return w;
}

/* In io_submit; what was written to the end of a file is added up. */
static inline void heard_by_submitter(struct submission *s, struct aio_write *w)
{
	if (!w)
		return;
	fetch_add(&w->sides, 1);
	if (w->place != PLACE_END || w->op.result <= 0)
		return;
	if (!s->end_inode) {
		s->end_inode = w->inode;
		s->end_at = w->op.size_begin;
	}
	if (s->end_inode == w->inode)
		s->appended += w->op.result;
}

/* The completions since io_submit began, or those that nobody has fetched yet. */
int on_io_submit_hear(struct bpf_raw_tracepoint_args *ctx)
{
	struct submission *s = submission_of_thread();
	struct io_event event;
	struct aio_ring ring;
	u64 events;
	int i;

	if (!s)
		return 0;
	events = read_ring(s, ctx->args[0], &ring);
	if (s->at != NO_TAIL) {		/* the first of these programs */
		s->at = NO_TAIL;
		s->event = s->ring_tail == NO_TAIL ? ring.head : s->ring_tail;
		s->unread = !events;
		s->end_inode = 0;
		s->appended = 0;
		s->steps = MAX_HEARD;
	}
	if (events) {
#pragma clang loop unroll(disable)
		for (i = 0; i < EVENTS_HEARD; i++) {
			if (s->event == ring.tail)
				break;
			if (read_user(&event, sizeof(event), (void *)(events + sizeof(event) * s->event)))
				s->unread = 1;
			else
				heard_by_submitter(s, hear(&event));
			s->event = s->event + 1 < ring.nr ? s->event + 1 : 0;
		}
		if (s->event != ring.tail && s->steps) {
			s->steps--;
			aio_programs.call(ctx, AIO_HEAR);
		}
		s->unread |= s->event != ring.tail;
	}
	s->at = 0;
	s->noted = 0;
	s->steps = MAX_MET;
	if (s->end_inode && inode_size(s->end_inode) != s->end_at + s->appended)
		s->end_inode = 0;
	aio_programs.call(ctx, AIO_END);
	return 0;
}

/* What an O_DIRECT write is that did not come to iomap: these file systems use iomap, or the page cache. */
static inline u8 kind_of_bypassing(struct aio_write *w)
{
	u64 magic = FIELD(u64, FIELD(u64, w->inode, OFF_inode_i_sb), OFF_super_block_s_magic);

	if (!w->direct)
		return OP_BUFFERED_WRITE;
	if (w->op.result <= 0 || (magic != XFS_SUPER_MAGIC && magic != EXT4_SUPER_MAGIC && magic != BTRFS_SUPER_MAGIC))
		return OP_AIO_WRITE;
	return OP_BUFFERED_WRITE;
}

/*
 * Where a write to the end went that nobody has told: behind those before it of the same
 * io_submit, if they alone have moved the end since that began. 0 if that is so.
 */
static inline int place_at_end(struct submission *s, struct aio_write *w)
{
	if (w->place != PLACE_END)
		return 0;
	if (!w->sides)
		return -1;
	if (w->op.result <= 0)
		return 0;
	if (s->late || s->end_inode != w->inode)
		return -1;
	w->op.offset = s->end_at;
	s->end_at += w->op.result;
	return 0;
}

/* What is known of it when its result is. */
static inline void complete_bypassing(struct aio_write *w)
{
	w->op.op = kind_of_bypassing(w);
	if (w->op.result > 0 && !w->op.length)
		w->op.length = w->op.result;
}

/* One that was submitted and did not come to iomap: why it is lost, -1: its result is known, -2: not yet. */
static inline int end_bypassing(struct submission *s, struct aio_write *w)
{
	if ((!w->op.seq_begin && begin_from(s, &w->op)) || (!w->sides && s->late && !s->unread))
		return DROP_BYPASS;
	if (place_at_end(s, w))
		return DROP_PLACE;
	w->op.op = w->direct ? OP_AIO_WRITE : OP_BUFFERED_WRITE;
	number_end(&w->op, w->inode, 0);
	if (!fetch_add(&w->sides, 1))
		return -2;
	complete_bypassing(w);
	return -1;
}

/* End what was noted, and forget what came to iomap; s->noted counts what did not come to iomap. */
int on_io_submit_end(struct bpf_raw_tracepoint_args *ctx)
{
	struct submission *s = submission_of_thread();
	int i, why;

	if (!s)
		return 0;
#pragma clang loop unroll(disable)
	for (i = 0; i < IOCBS_ENDED; i++) {
		struct aio_key key;
		struct aio_write *w;

		if (s->at >= s->until)
			break;
		key = aio_key_of(iocb_at(s));
		s->at++;
		w = aio_writes.lookup(&key);
		if (!w)
			continue;
		/* Looked at late, nobody knows which of those with O_DIRECT came to iomap, unless all did or none. */
		if (s->at <= s->submitted && !w->came && !(s->late && w->direct && s->came)) {
			s->noted++;
			why = end_bypassing(s, w);
			if (why == -2)
				continue;
			if (why >= 0) {
				count_drop(why);
			} else if (!leave_at_once(&w->op)) {
				if (s->steps)
					goto met;
				count_drop(DROP_UNWATCHED);
			}
		}
		forget_aio(&key);
	}
	if (s->at < s->until)
		aio_programs.call(ctx, AIO_END);
	if (s->late && s->came && s->direct > s->came)
		count_drops(DROP_BYPASS, s->direct - s->came);
	if (s->noted || s->late)
		s->notes = NOTES_ALWAYS;
	else if (s->notes == NOTES_FIRST)
		s->notes = 0;
	s->kind = 0;
	return 0;
met:
	s->steps--;
	aio_programs.call(ctx, AIO_MET);
	return 0;
}

/* io_getevents(2) has fetched that many completions. */
static inline void fetched(struct bpf_raw_tracepoint_args *ctx)
{
	int zero = 0;
	u64 *count = aio_noted.lookup(&zero);

	if (count && *count && (s64)ctx->args[1] > 0)
		aio_programs.call(ctx, AIO_FETCHED);
}

int on_io_getevents(struct bpf_raw_tracepoint_args *ctx)
{
	u64 events = SYSCALL_ARG(ctx->args[0], 3);
	u64 id = bpf_get_current_pid_tgid();
	u32 *before = aio_fetching.lookup(&id);
	u32 at = before ? *before : 0;
	struct io_event event;
	int i;

	if (is_compat())
		return 0;
#pragma clang loop unroll(disable)
	for (i = 0; i < EVENTS_FETCHED; i++) {
		struct aio_key key;
		struct aio_write *w;

		if (at + i >= ctx->args[1])
			break;
		if (read_user(&event, sizeof(event), (void *)(events + sizeof(event) * (at + i))))
			continue;
		w = hear(&event);
		if (!w || !fetch_add(&w->sides, 1))
			continue;	/* nobody's, or one whose io_submit goes on */
		key = aio_key_of(event.obj);
		complete_bypassing(w);
		if (!leave_at_once(&w->op))
			count_drop(DROP_UNWATCHED);
		forget_aio(&key);
	}
	at += EVENTS_FETCHED;
	if (at < ctx->args[1] && !aio_fetching.update(&id, &at))
		aio_programs.call(ctx, AIO_FETCHED);
	if (before)
		aio_fetching.delete(&id);
	return 0;
}
