/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What leaves the kernel if it is only watched: operations that were in it together and
 * must not have been. Its counterpart is record.c.
 *
 * One rule can be decided here, post-eof-fallocate, as tracer/analysis/rules has it: a
 * fallocate that ends beyond the file's size and sets it, and a write that ends behind it.
 *
 * Fallocates of that kind are kept in a table of sets: that of a file has the last
 * WATCH_SLOTS fallocates of all files of the set, those in flight rather than others. A
 * write needs no entry. When it ends, it looks for those that ended after it began, or have
 * not ended: mostly two counters and a number tell that there is none. If it has met one, it leaves the kernel; if that one has
 * ended, it takes it along, or else it leaves a note, and the fallocate follows when it ends.
 * So the later end of a pair has both leave, and user space judges the pair by the rule's
 * own code.
 *
 * Who was first is told by the sequence numbers, of which both are sure: a fallocate takes
 * the number of its begin when its place is marked as taken, a write looks for it after it
 * has taken the number of its end. Whatever the table had no room for is counted:
 *
 *   a fallocate that gave way to a later one before it had ended;
 *   a write that ends after a fallocate gave way that had ended only after the write began.
 *
 * x86 keeps loads in the order of loads and stores in that of stores; the compiler is told.
 */
#define ZERO_ENDED	(1ULL << 32)
#define MAX_NUMBER	0x7fffffffffffffffULL

/* Bits in op.slot of a write. */
#define WRITE_MET		1
#define WRITE_UNSURE_SHIFT	1

#define READ_ONCE(x)	(*(volatile typeof(x) *)&(x))

#define PLACES_TRIED	8

/* A place for a post-EOF fallocate. */
struct zero_write {
	u64 writers;		/* programs that fill it in: at most one goes on */
	u64 met;		/* writes that it has met since it began, and ZERO_ENDED */
	u64 forgotten;		/* seq_end of the last one that had this place before */
	u64 since;		/* seq_begin; 0: there is none */
	u64 until;		/* seq_end; MAX_NUMBER: in flight; 0: there is none */
	s64 end;		/* first byte behind it */
	struct operation op;
};

/* The fallocates of the files that share WATCH_SLOTS places. */
struct zero_set {
	u64 begun;
	u64 ended;
	u64 last_end;		/* the latest seq_end */
	u64 next;		/* the next place to take, modulo WATCH_SLOTS */
};

BPF_ARRAY(zero_sets, struct zero_set, WATCH_SETS);
BPF_ARRAY(zero_writes, struct zero_write, WATCH_SETS * WATCH_SLOTS);
BPF_PERCPU_ARRAY(seen, u64, OP_KINDS);			/* OP_* -> operations that ended */
BPF_PERCPU_ARRAY(zero_begun, u64, 1);			/* post-EOF fallocates that began */
BPF_ARRAY(zero_flying, u64, 1);				/* those that have not ended */

static inline s64 end_of(struct operation *op)
{
	u64 offset = op->offset < 0 ? 0 : op->offset;
	u64 length = op->length < 0 ? 0 : op->length;

	return offset + length > MAX_BYTE ? MAX_BYTE : offset + length;
}

static inline int is_post_eof(struct operation *op)
{
	return !(op->flags & KEEP_SIZE) && end_of(op) > op->size_begin;
}

/*
 * last_end is at least n from now on. Where two of them meet it is too small for a moment,
 * in which the one that raises it again has not yet counted as ended.
 */
static inline void raise_last_end(struct zero_set *set, u64 n)
{
	u64 before;
	int i;

	for (i = 0; i < 16; i++) {
		before = exchange(&set->last_end, n);
		if (before <= n)
			return;
		n = before;
	}
	count_drop(DROP_UNWATCHED);
}

/* A fallocate has begun: give it a place, and the number of its begin once more. */
static inline void fallocate_begun(struct operation *op)
{
	u32 at = op->ino % WATCH_SETS;
	struct zero_set *set = zero_sets.lookup(&at);
	struct zero_write *zero = 0;
	u64 *counter, until;
	int first = 0, i;

	if (!set || !is_post_eof(op))
		return;
	counter = zero_begun.lookup(&first);
	if (counter)
		(*counter)++;
	fetch_add(&set->begun, 1);
	counter = zero_flying.lookup(&first);
	if (counter)
		__sync_fetch_and_add(counter, 1);
	/* The oldest, but rather one that has ended: some wait for a lock while a hundred others get it. */
#pragma clang loop unroll(disable)
	for (i = 0; i < PLACES_TRIED; i++) {
		u32 place;

		op->slot = fetch_add(&set->next, 1) % WATCH_SLOTS + 1;
		place = at * WATCH_SLOTS + op->slot - 1;
		zero = zero_writes.lookup(&place);
		if (!zero || READ_ONCE(zero->until) != MAX_NUMBER)
			break;
	}
	if (!zero)
		return;
	if (fetch_add(&zero->writers, 1)) {
		fetch_add(&zero->writers, -1);
		fetch_add(&set->ended, 1);
		if (counter)
			__sync_fetch_and_add(counter, -1);
		count_drop(DROP_UNWATCHED);
		op->slot = 0;
		return;
	}
	/* Before it is marked as taken, so that whoever misses the one before sees why. */
	until = READ_ONCE(zero->until);
	if (until == MAX_NUMBER)
		count_drop(DROP_UNWATCHED);
	else
		zero->forgotten = until;
	barrier();
	zero->met = 0;
	op->seq_begin = take_numbers(1);
	__builtin_memcpy(&zero->op, op, sizeof(*op));
	zero->since = op->seq_begin;
	zero->until = MAX_NUMBER;
	zero->end = end_of(op);
	fetch_add(&zero->writers, -1);
}

/* A fallocate that has a place has ended; returns what it has met. */
static inline u64 leave_place(struct operation *op)
{
	u32 at = op->ino % WATCH_SETS;
	struct zero_set *set = zero_sets.lookup(&at);
	struct zero_write *zero;
	int first = 0;
	u64 *flying = zero_flying.lookup(&first);
	u64 met = 0;

	if (!set)
		return 0;
	at = at * WATCH_SLOTS + ((op->slot - 1) & (WATCH_SLOTS - 1));
	zero = zero_writes.lookup(&at);
	if (!zero)
		return 0;
	/* If its place is another's, that one has counted it. */
	if (!fetch_add(&zero->writers, 1) && READ_ONCE(zero->since) == op->seq_begin) {
		__builtin_memcpy(&zero->op, op, sizeof(*op));
		zero->until = op->seq_end;
		raise_last_end(set, op->seq_end);
		met = fetch_add(&zero->met, ZERO_ENDED);
	}
	fetch_add(&zero->writers, -1);
	fetch_add(&set->ended, 1);
	if (flying)
		__sync_fetch_and_add(flying, -1);
	return met;
}

static inline void zero_write_ended(struct operation *op)
{
	if (!is_post_eof(op))
		return;
	if (op->slot) {
		if (leave_place(op))
			submit(op);
	} else if (!op->result) {
		/* Begun before anybody could tell of which file, or with somebody else in its place. */
		count_drop(DROP_UNWATCHED);
	}
}

/* Or every later write would be compared with it. */
static inline void end_unseen(struct operation *op)
{
	if (op->op != OP_FALLOCATE || !op->slot)
		return;
	op->seq_end = take_numbers(1);
	leave_place(op);
}

/* Whether a - b < 0 of numbers below 2^63, as a sign bit: BPF can compare only to branch. */
#define BELOW(a, b)	((u64)(a) - (u64)(b))

/*
 * Look at one place for a write that has ended with op and ends before `end`, and note in
 * op->slot what is to be said. Nothing here branches that need not, and nothing is left
 * in registers: the verifier goes through it once for every place, in every state.
 */
static inline void meet(struct operation *op, s64 end, struct zero_write *zero)
{
	u64 writers = READ_ONCE(zero->writers);
	u64 since, apart, other;

	barrier();
	since = READ_ONCE(zero->since);
	apart = BELOW(op->seq_end, since) | BELOW(READ_ONCE(zero->until), op->seq_begin) | BELOW(end - 1, zero->end);
	other = (zero->op.ino ^ op->ino) | (zero->op.dev ^ op->dev);
	/* One that is being filled in may be anything: user space will tell. */
	if (writers || !(apart >> 63 | other)) {
		op->slot |= WRITE_MET;
		if (fetch_add(&zero->met, 1) >= ZERO_ENDED)
			submit(&zero->op);
	}
	barrier();
	op->slot |= BELOW(op->seq_begin, READ_ONCE(zero->forgotten)) >> 63 << WRITE_UNSURE_SHIFT;
}

/* Whether a write that has ended was in the kernel together with a post-EOF fallocate of its set. */
static inline int may_have_met(struct operation *op)
{
	u32 at = op->ino % WATCH_SETS;
	struct zero_set *set = zero_sets.lookup(&at);
	u64 begun, ended;

	if (!set || op->result <= 0)
		return 0;
	ended = READ_ONCE(set->ended);
	barrier();
	begun = READ_ONCE(set->begun);
	barrier();
	return begun != ended || READ_ONCE(set->last_end) >= op->seq_begin;
}

/* Look for those that it has met. */
static inline void write_met(struct operation *op)
{
	u32 at = op->ino % WATCH_SETS * WATCH_SLOTS;
	struct zero_write *zero;
	s64 end = end_of(op);
	int i;

#pragma clang loop unroll(disable)
	for (i = 0; i < WATCH_SLOTS; i++) {
		u32 place = at + i;

		zero = zero_writes.lookup(&place);
		if (!zero)
			break;
		meet(op, end, zero);
	}
	if (op->slot & WRITE_MET)
		submit(op);
	if (op->slot >> WRITE_UNSURE_SHIFT)
		count_drop(DROP_UNWATCHED);
}

/*
 * When a write took effect is compared with when a fallocate did: one in flight now, but
 * for one that begins before the write has ended. Then the pair may be called exposed
 * that was seen to be ordered by the kernel.
 */
static inline int is_applied_of_interest(void)
{
	int first = 0;
	u64 *flying = zero_flying.lookup(&first);

	return flying && *flying;
}

static inline void count_seen(struct operation *op)
{
	int kind = op->op;
	u64 *counter = seen.lookup(&kind);

	if (counter)
		__sync_fetch_and_add(counter, 1);	/* perhaps in an interrupt of one that does it */
}

static inline void leave(struct operation *op)
{
	count_seen(op);
	if (op->op == OP_FALLOCATE)
		zero_write_ended(op);
	else if (op->op != OP_TRUNCATE && may_have_met(op))
		write_met(op);
}

static inline int leave_at_once(struct operation *op)
{
	count_seen(op);
	return !may_have_met(op);
}

/* The write that on_io_submit_end() has looked at last has met something, perhaps: one at a time, for the verifier. */
int on_io_submit_met(struct bpf_raw_tracepoint_args *ctx)
{
	struct submission *s = submission_of_thread();
	struct aio_key key;
	struct aio_write *w;

	if (!s)
		return 0;
	s->at--;
	key = aio_key_of(iocb_at(s));
	s->at++;
	w = aio_writes.lookup(&key);
	if (w)
		write_met(&w->op);
	forget_aio(&key);
	aio_programs.call(ctx, AIO_END);
	return 0;
}
