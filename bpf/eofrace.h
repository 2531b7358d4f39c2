/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The record, the maps and the helpers of all programs.
 *
 * No structure of the kernel is declared here. A field is read with FIELD() at
 * an offset (OFF_struct_member, bytes) from the running kernel's BTF.
 */

#define OP_AIO_WRITE		1	/* as tracer.operations.Op */
#define OP_URING_WRITE		2
#define OP_DIRECT_WRITE		3
#define OP_BUFFERED_WRITE	4
#define OP_FALLOCATE		5
#define OP_TRUNCATE		6
#define OP_OPEN			7	/* no operation: a call that may turn out to be a truncation */
#define OP_PATH			8	/* the same: truncate(2), until it is known of which file */
#define OP_MAPPING		9	/* no operation: mmap(2) */
#define OP_KINDS		10

#define NONE_RESULT		(-0x7fffffffffffffffLL - 1)
#define NONE_SIZE		(-1LL)
#define AT_ITS_END		(-1LL)	/* t_applied that finish() fills in */

#define TS_COMPAT		2	/* asm/thread_info.h, x86 */

#define EOF_EAGAIN		11
#define EOF_EFAULT		14
#define EOF_ENOTBLK		15

#define O_DIRECT_BIT		OPEN_O_DIRECT
#define O_APPEND_BIT		02000
#define KEEP_SIZE		1	/* linux/falloc.h */
#define PUNCH_HOLE		2
#define ZERO_RANGE		16
#define SEEK_CUR		1	/* linux/fs.h */
#define SEEK_END		2
#define MAX_BYTE		0x7fffffffffffffffULL	/* the largest offset */

/* One operation: the fields and offsets of tracer.operations.OPERATION. */
struct operation {
	u64 seq_begin;		/* number from the one counter, from 1 */
	u64 seq_end;		/* 0: in flight */
	s64 t_begin;		/* ns, CLOCK_MONOTONIC */
	s64 t_end;		/* ns; 0: in flight */
	s64 t_applied;		/* ns; 0: not seen */
	u64 dev;		/* st_dev, as it was given to watch() */
	u64 ino;
	s64 offset;		/* bytes */
	s64 length;		/* bytes */
	s64 size_begin;		/* i_size, bytes; NONE_SIZE: not seen */
	s64 size_end;		/* i_size, bytes; NONE_SIZE: not seen */
	s64 size_applied;	/* i_size just before the change, bytes; NONE_SIZE: not seen */
	s64 result;		/* bytes or 0, or -errno; NONE_RESULT: not seen */
	u64 request;		/* iocb.aio_data or sqe.user_data */
	u32 flags;		/* fallocate mode, or kiocb.ki_flags */
	u32 pid;		/* process (tgid) */
	u32 tid;		/* thread */
	u16 cpu_begin;
	u16 cpu_end;
	char comm[16];
	u8 op;			/* OP_* */
	/* Nobody reads these outside: */
	u8 slot;		/* of watch.c, from 1; 0: none */
	u8 queued;		/* of a struct write, 1: iomap_dio_rw() returned -EIOCBQUEUED */
};

_Static_assert(__builtin_offsetof(struct operation, flags) == 112, "record layout");
_Static_assert(__builtin_offsetof(struct operation, op) == 144, "record layout");
_Static_assert(sizeof(struct operation) == RECORD_BYTES, "record size");

/* A system call on one file that a thread is in. */
struct call {
	struct operation op;	/* what is known of it; op.op 0: the write is in the map writes */
	u64 inode;		/* address of struct inode */
	u64 kiocb;		/* address of the struct kiocb begun in it; 0: none */
	u64 kiocb_seq;		/* its seq_begin */
	u64 dentry;		/* address of struct dentry; 0: the file's name is known */
	u64 file;		/* of a write: address of struct file */
	u8 kind;		/* OP_FALLOCATE, OP_TRUNCATE, OP_OPEN, OP_PATH; OP_DIRECT_WRITE: any write */
	u8 copies;		/* COPY_*: what it writes comes from another file */
	u8 place;		/* PLACE_*: what is yet to be known of its offset */
	u8 by_function;		/* 1: begun by fallocate_function.c */
	u8 space;		/* 1: XFS has begun to allocate or free blocks for it */
	u8 sizing;		/* 1: XFS has begun to set the size for it */
};

#define NOTES_FIRST		1	/* in submission.notes: nothing is known of that thread yet */
#define NOTES_ALWAYS		2	/* it has made writes that did not come to iomap */

/* io_submit(2) or io_uring_enter(2) that a thread is in, on any files. */
struct submission {
	u64 seq_next;		/* next number of the block that was reserved when it began */
	s64 t_begin;		/* ns */
	u64 iocbs;		/* user address of io_submit's array of struct iocb pointers */
	u64 kiocb;		/* address of the last struct kiocb begun in it; 0: none */
	u64 kiocb_seq;		/* its seq_begin */
	u32 total;		/* numbers in the block */
	u32 left;		/* numbers left in it */
	u16 cpu;
	u8 kind;		/* OP_AIO_WRITE, OP_URING_WRITE; 0: over */
	u8 linked;		/* 1: the next io_uring request waits for the last one */
	/* Of io_submit(2), for aio.c: */
	u8 notes;		/* NOTES_*: its iocbs are noted when it begins; 0: they are not */
	u8 late;		/* 1: they are noted when it is over */
	u8 unread;		/* 1: not all completions could be read */
	u8 steps;		/* programs that may yet look for completions, or for what a write has met */
	u32 at;			/* the next iocb to be looked at */
	u32 until;		/* iocbs to be looked at */
	u32 submitted;		/* iocbs that were, when it is over */
	u32 seen;		/* of them, writes to files that are traced */
	u32 noted;		/* writes that are in the map aio_writes */
	u32 direct;		/* of those noted, with O_DIRECT */
	u32 came;		/* of those, that came to iomap */
	u64 iocb;		/* user address of the last struct iocb that came there */
	u32 ring_tail;		/* place behind the last completion when it began; NO_TAIL: not seen */
	u32 event;		/* place of the next completion to be looked at */
	u64 end_inode;		/* address of the struct inode that writes append to; 0: none */
	s64 end_at;		/* bytes; where the next of them goes */
	s64 appended;		/* bytes, by all of them */
};

struct aio_key {
	u64 tgid;		/* process */
	u64 iocb;		/* user address of the struct iocb */
};

/* A write of an io_submit(2) that a thread is in, which has not come to iomap, or whose result nobody has told yet. */
struct aio_write {
	struct operation op;	/* op.op 0: it is expected there */
	u64 inode;		/* address of struct inode */
	u64 heard;		/* programs that came upon its completion: the first one noted op.result */
	u64 sides;		/* of two, its result and its end, how many are known: the second one lets it go */
	u8 direct;		/* 1: to a descriptor with O_DIRECT */
	u8 place;		/* PLACE_* */
	u8 came;		/* 1: it came to iomap after all */
};

/* A direct write between iomap_dio_rw() and iomap_dio_complete(). */
struct write {
	struct operation op;
	u64 inode;		/* address of struct inode */
	u64 iocb;		/* of io_submit: user address of the struct iocb */
	s64 tried;		/* result of an attempt that may not be the last; NONE_RESULT: none */
};

/* A place for one whose struct kiocb hashes there: to insert one into a hash and to delete it costs 300 ns. */
struct placed_write {
	struct write w;		/* op.op 0: free */
	u64 kiocb;		/* address; 0: free */
	u64 takers;		/* writes that have it, or try to get it */
};

/* They go from CPU to CPU, by cache lines of 64 bytes; BPF_F_MMAPABLE has the map begin with a page. */
_Static_assert(sizeof(struct placed_write) == 3 * 64, "as few cache lines as can be");

#define WRITE_PLACES	1024
#define MMAPABLE	(1 << 10)	/* BPF_F_MMAPABLE */

struct inode_key {
	u64 ino;
	u64 dev;		/* kernel's dev_t: of the super block, on btrfs of the subvolume */
};

/* An io_uring request between submission and completion that has not come to iomap. */
struct uring {
	struct operation op;
	u64 inode;		/* address of struct inode; 0: a registered file, known at the end */
	u8 copies;		/* COPY_* */
	u8 place;		/* 1: what it splices goes to the open file's position */
	u8 slot;		/* 1: the file it opens gets no descriptor */
};

/* Of operations that had begun when recording did: before.c. */
struct before {
	u64 numbers;		/* given out so far, of BEFORE_NUMBERS */
	s64 when;		/* ns, CLOCK_MONOTONIC; when recording began */
	u64 lost;		/* 1: a begin that was seen was not kept */
};

/* A thread that was in a system call when recording began. */
struct marked {
	u64 kiocb;		/* address of the struct kiocb that has come to iomap in it; 0: none */
	u64 kiocb_seq;		/* its seq_begin */
};

#define COMPLETING_PLACES	4	/* those that interrupt each other are fewer */
#define COMPLETING_LAST		4096	/* more than complete in one interrupt */

/* Completions of direct writes, and reads, on one CPU. */
struct completing {
	/* From place_of_kiocb() on: those that the first program was run for, and the second was not yet. */
	struct {
		u64 kiocb;	/* 0: none */
		u64 number;	/* runs, then */
	} noted[WRITE_PLACES + COMPLETING_PLACES];
	u64 runs;		/* of the first program */
	u64 busy;		/* 1: it is running */
};

/* When a write took effect: a cache, where one write may push out another's. */
struct applied {
	u64 inode;		/* address of struct inode */
	s64 offset;		/* bytes */
	s64 when;		/* ns */
	s64 size;		/* i_size, bytes */
};

#define APPLIED_SLOTS	4096

static inline u32 applied_slot(u64 inode, s64 offset)
{
	return ((u64)offset >> 9 ^ (u64)offset >> 21 ^ inode >> 7) % APPLIED_SLOTS;
}

#define COPY_BYTES	1	/* its length is its result: copy_file_range(2), sendfile(2), splice(2) */
#define COPY_WHOLE	2	/* all or nothing, and the result is 0: ioctl_ficlone(2) */

#define TELLS_SLOTS	2
#define UNTOLD		1
#define UNTOLD_OVERLAID	2	/* on overlayfs: that below tells, of a file of its own */
#define TELLS_ALL	1	/* in place of a magic number: all of them do, as do_truncate() is seen */

enum drop {
	DROP_RING,		/* no room in the ring: one finished operation */
	DROP_MAP,		/* no room in a map: one operation that began */
	DROP_STALE,		/* an operation whose end was not seen gave way to a later one */
	DROP_BYPASS,		/* an asynchronous write that did not pass through iomap */
	DROP_WAITS,		/* an io_uring request that others had to end before: its begin is not seen */
	DROP_FILE,		/* a truncation of nobody knows which file */
	DROP_PLACE,		/* a write to nobody knows where in its file */
	DROP_UNWATCHED,		/* an operation that the table of watch.c had no room for */
	DROP_THREAD,		/* a change of a watched file by a thread of the kernel */
	DROP_COMPAT,		/* a system call of a 32-bit process on a file that is traced */
	DROP_KINDS,
};

BPF_ARRAY(sequence, u64, 1);				/* numbers given out so far */
BPF_HASH(watched, struct inode_key, u64, 4096);		/* inode -> st_dev */
BPF_HASH(learning, u64, u64, 64);			/* pid_tgid of a thread in watch_file() -> st_dev */
BPF_HASH(calls, u64, struct call, 16384);		/* pid_tgid -> system call of a thread */
BPF_TABLE("lru_hash", u64, struct submission, submissions, 16384);	/* pid_tgid -> its last submission */
BPF_F_TABLE("array", u32, struct placed_write, placed_writes, WRITE_PLACES, MMAPABLE);	/* home_of() -> write in flight */
BPF_HASH(writes, u64, struct write, 65536);		/* address of struct kiocb -> write in flight without a place */
BPF_ARRAY(displaced, u64, 1);				/* writes that are there, or once were: mostly none */
BPF_HASH(aio_writes, struct aio_key, struct aio_write, 16384);
BPF_ARRAY(before_all, struct before, 1);
BPF_HASH(marked_threads, u64, struct marked, 16384);	/* pid_tgid */
BPF_HASH(aio_contexts, u64, u64, 4096);			/* io_submit's context -> process (tgid) that had it */
BPF_ARRAY(applied, struct applied, APPLIED_SLOTS);	/* applied_slot() -> the last write there */
BPF_TABLE("lru_hash", u64, struct operation, punts, 16384);	/* address of struct kiocb -> begin of a write for a worker;
								   seq_begin 0: it begins at iomap; op 0: or not */
BPF_ARRAY(uring_submissions, u8, 1);			/* 1: on_io_uring_submit() sees them */
BPF_HASH(urings, u64, struct uring, 16384);		/* address of struct io_kiocb -> request */
BPF_ARRAY(xfs_by_function, u8, 1);			/* 1: fallocate_function.c sees those of XFS */
BPF_ARRAY(tells_size, u64, TELLS_SLOTS);		/* magic number of a file system that tells whose size is set */
BPF_ARRAY(untold, u8, 1);				/* UNTOLD*: a watched file lies on one that does not */
BPF_PERCPU_ARRAY(drops, u64, DROP_KINDS);		/* enum drop -> operations lost */
BPF_PERCPU_ARRAY(completing_here, struct completing, 1);
BPF_PERCPU_ARRAY(taken, u64, 1);			/* completions that the second program has taken in place of the first */
BPF_RINGBUF_OUTPUT(ring, RING_PAGES);			/* struct operation, finished */

#if BY_PROCESS
struct comm {
	char name[16];
};

BPF_HASH(selected, u32, u8, 16384);			/* process (tgid) that is traced -> 1 */
BPF_HASH(comms, struct comm, u8, 64);			/* name under which an exec is traced -> 1 */
#endif

#if !BY_FILE
#define NAME_PARTS	12
#define NAME_BYTES	64

/* A file, not another one that has its inode number later. */
struct name_key {
	u64 ino;
	u64 dev;		/* st_dev */
	u64 generation;		/* inode.i_generation */
};

/* The way of a file up to the root of its file system, as the operation found it that came first. */
struct name {
	s64 when;		/* ns */
	u32 dev;		/* kernel's dev_t of the super block: what is mounted */
	u32 parts;
	u32 whole;		/* 1: up to the root */
	u8 text[NAME_PARTS * NAME_BYTES];	/* of NAME_BYTES each, the file's own name first; cut off if longer */
};

BPF_TABLE("lru_hash", struct name_key, struct name, names, 4096);
BPF_PERCPU_ARRAY(new_name, struct name, 1);

/* A file that was in the map names a moment ago. */
struct noted {
	struct name_key key;
	s64 when;		/* ns */
};

#define NOTED_SLOTS	64
#define NOTED_NS	100000000	/* user space reads the names more rarely than that */

BPF_PERCPU_ARRAY(noted, struct noted, NOTED_SLOTS);	/* by inode number: whose name need not be looked up again */
#endif

#define barrier()	asm volatile("" : : : "memory")

#define RING_WAITING	0	/* BPF_RB_AVAIL_DATA: bytes that wait for the reader */
#define NO_WAKEUP	1	/* BPF_RB_NO_WAKEUP */
#define WAKEUP		2	/* BPF_RB_FORCE_WAKEUP */

/*
 * bpf_probe_read_user(), by its number: bcc looks up whether the kernel has a helper of that
 * name, for which it reads all of /proc/kallsyms, and that takes as long as to compile the rest.
 */
static long (*read_user)(void *to, u32 size, const void *from) = (void *)BPF_FUNC_probe_read_user;

/*
 * Bytes in a ring that wait for the reader. bcc has no map.ringbuf_query() yet; it makes
 * map.ringbuf_reserve(n), which is not called here, this with n for what is asked.
 */
static u64 (*ring_query)(void *map, u64 what) = (void *)BPF_FUNC_ringbuf_query;
#define bpf_ringbuf_reserve(map, what, flags)	ring_query(map, what)

#define FIELD(type, base, off) ({						\
	type _value = 0;							\
	bpf_probe_read_kernel(&_value, sizeof(_value), (void *)((u64)(base) + (off))); \
	_value; })

/* Several fields of one structure at once: a call of the helper costs more than the bytes. */
#define READ(block, base)	bpf_probe_read_kernel(block, sizeof(block), (void *)(u64)(base))
#define PART(type, block, off)	(*(type *)((block) + (off)))

/*
 * The same for a pointer whose type the verifier knows (TYPED): an argument of a tracepoint
 * that was attached by its BTF, a pointer found behind one. That is one instruction, where
 * the helper is two calls; it is spelled out because bcc's rewriter, and the compiler's
 * arithmetic on addresses, would lose the type.
 */
#if TYPED
#define KNOWN_FIELD(type, base, off) ({						\
	u64 _loaded;								\
	asm volatile("%0 = *(" LOAD_##type " *)(%1 + %2)" : "=r"(_loaded) : "r"((u64)(base)), "i"(off)); \
	(type)_loaded; })
#define LOAD_u8		"u8"
#define LOAD_u16	"u16"
#define LOAD_u32	"u32"
#define LOAD_u64	"u64"
#define LOAD_s64	"u64"
#else
#define KNOWN_FIELD(type, base, off)	FIELD(type, base, off)
#endif

/*
 * An argument of a program whose arguments have known types, as a number: the verifier lets
 * nobody reckon with the address in such a pointer.
 */
#define ARG_NUMBER(n)		FIELD(u64, ctx, 8 * (n))

/* Of a system call's struct pt_regs *, as sys_enter has it. */
#define SYSCALL_ARG(regs, n)	KNOWN_FIELD(u64, regs, OFF_pt_regs_arg##n)

/* Of a kprobe's or kretprobe's struct pt_regs *ctx: an argument of the function, its result. */
#define KPROBE_ARG(n)		(*(u64 *)((char *)ctx + OFF_pt_regs_carg##n))
#define KPROBE_RESULT		(*(s64 *)((char *)ctx + OFF_pt_regs_ret))

/*
 * Atomic steps that return the old value. BPF has had them since 5ca419f2864a and
 * 5ffa25502b5a (v5.12); the compiler in bcc emits them only for -mcpu=v3, which bcc cannot
 * be asked for. So the instructions are spelled out, with the numbers of the registers that
 * the compiler happened to choose.
 */
#define REGISTER(name, operand)							\
	".irp n, 0,1,2,3,4,5,6,7,8,9\n"						\
	".ifc " operand ",r\\n\n.set eofrace_" name ", \\n\n.endif\n"		\
	".endr\n"

/* *p += n */
static inline u64 fetch_add(u64 *p, u64 n)
{
	asm volatile(
		REGISTER("p", "%1") REGISTER("n", "%0")
		".byte 0xdb, eofrace_n << 4 | eofrace_p, 0, 0, 1, 0, 0, 0\n"
		: "+r"(n) : "r"(p) : "memory");
	return n;
}

/* *p = n */
static inline u64 exchange(u64 *p, u64 n)
{
	asm volatile(
		REGISTER("p", "%1") REGISTER("n", "%0")
		".byte 0xdb, eofrace_n << 4 | eofrace_p, 0, 0, 0xe1, 0, 0, 0\n"
		: "+r"(n) : "r"(p) : "memory");
	return n;
}

/* The first of n numbers that nobody else gets. */
static inline u64 take_numbers(u64 n)
{
	int zero = 0;
	u64 *counter = sequence.lookup(&zero);

	return counter ? fetch_add(counter, n) + 1 : 0;
}

static inline void count_drops(int kind, u64 n)
{
	u64 *counter = drops.lookup(&kind);

	if (counter)
		__sync_fetch_and_add(counter, n);
}

static inline void count_drop(int kind)
{
	count_drops(kind, 1);
}

static inline s64 inode_size(u64 inode)
{
	return FIELD(s64, inode, OFF_inode_i_size);
}

static inline u64 current_task(void)
{
#if TYPED
	return (u64)bpf_get_current_task_btf();
#else
	return bpf_get_current_task();
#endif
}

#define BTRFS_SUPER_MAGIC	0x9123683e	/* linux/magic.h */

/*
 * Every btrfs subvolume counts its inodes from 257 on, and has a device of its own for
 * stat(2): btrfs_getattr().
 */
static inline struct inode_key key_of(u64 inode, u64 sb, u64 magic)
{
	struct inode_key key = {};

	key.ino = FIELD(u64, inode, OFF_inode_i_ino);
	if (HAS_BTRFS && magic == BTRFS_SUPER_MAGIC)
		key.dev = FIELD(u32, FIELD(u64, inode - OFF_btrfs_inode_vfs_inode, OFF_btrfs_inode_root), OFF_btrfs_root_anon_dev);
	else
		key.dev = FIELD(u32, sb, OFF_super_block_s_dev);
	return key;
}

#define S_IFMT		0170000
#define S_IFREG		0100000

#if !BY_FILE
/* Of linux/magic.h: regular files there hold no data. */
static inline int is_pseudo(u64 magic)
{
	switch (magic) {
	case 0x9fa0:		/* proc */
	case 0x62656572:	/* sysfs */
	case 0x63677270:	/* cgroup2 */
	case 0x27e0eb:		/* cgroup */
	case 0x64626720:	/* debugfs */
	case 0x74726163:	/* tracefs */
	case 0x73636673:	/* securityfs */
	case 0xf97cff8c:	/* selinuxfs */
	case 0x62656570:	/* configfs */
	case 0xcafe4a11:	/* bpf */
		return 1;
	}
	return 0;
}

/* What stat(2) would say of a dev_t: new_encode_dev(). */
static inline u64 encoded_dev(u64 dev)
{
	u64 minor = dev & 0xfffff;

	return (minor & 0xff) | (dev >> 20) << 8 | (minor & ~0xffULL) << 12;
}

static inline int is_data_file(u16 mode, u64 magic)
{
	return (mode & S_IFMT) == S_IFREG && !is_pseudo(magic);
}
#endif

static inline int is_selected(void)
{
#if BY_PROCESS
	u32 tgid = bpf_get_current_pid_tgid() >> 32;

	return selected.lookup(&tgid) != 0;
#else
	return 1;
#endif
}

static inline int identify_as(struct operation *op, struct inode_key *key, u16 mode, u64 magic)
{
#if BY_FILE
	u64 *dev = watched.lookup(key);

	if (!dev)
		return 0;
	op->dev = *dev;
#else
	if (!is_data_file(mode, magic))
		return 0;
	op->dev = encoded_dev(key->dev);
#endif
	op->ino = key->ino;
	return 1;
}

/* Fill in dev and ino; 0 if the inode is not traced. */
static inline int identify_inode(struct operation *op, u64 inode)
{
	struct inode_key key;
	u64 sb, magic;

	if (!inode)
		return 0;
	sb = FIELD(u64, inode, OFF_inode_i_sb);
	magic = FIELD(u64, sb, OFF_super_block_s_magic);
	key = key_of(inode, sb, magic);
	return identify_as(op, &key, FIELD(u16, inode, OFF_inode_i_mode), magic);
}

/* The same of a pointer whose type is known. */
static inline int identify_known(struct operation *op, u64 inode)
{
	u64 sb = KNOWN_FIELD(u64, inode, OFF_inode_i_sb);
	u64 magic = KNOWN_FIELD(u64, sb, OFF_super_block_s_magic);
	struct inode_key key = {};

	if (HAS_BTRFS && magic == BTRFS_SUPER_MAGIC) {
		key = key_of(inode, sb, magic);
	} else {
		key.ino = KNOWN_FIELD(u64, inode, OFF_inode_i_ino);
		key.dev = KNOWN_FIELD(u32, sb, OFF_super_block_s_dev);
	}
	return identify_as(op, &key, KNOWN_FIELD(u16, inode, OFF_inode_i_mode), magic);
}

/* The same; 0 also if the current process is not traced. */
static inline int identify(struct operation *op, u64 inode)
{
	return is_selected() && identify_inode(op, inode);
}

/* Keep the path of a file when it is first met: once the process is gone, nobody can tell it. */
static inline void note_dentry(struct operation *op, u64 inode, u64 dentry)
{
#if !BY_FILE
	struct name_key key = {};
	struct name *name;
	u64 parent;
	int zero = 0;
	int i;

	key.ino = op->ino;
	key.dev = op->dev;
	key.generation = FIELD(u32, inode, OFF_inode_i_generation);
	if (names.lookup(&key))
		return;
	name = new_name.lookup(&zero);
	if (!name)
		return;
	name->when = bpf_ktime_get_ns();
	name->dev = FIELD(u32, FIELD(u64, inode, OFF_inode_i_sb), OFF_super_block_s_dev);
	name->parts = 0;
	name->whole = 0;
	for (i = 0; i < NAME_PARTS; i++) {
		parent = FIELD(u64, dentry, OFF_dentry_d_parent);
		if (!parent || parent == dentry) {
			name->whole = 1;
			break;
		}
		bpf_probe_read_kernel_str(name->text + i * NAME_BYTES, NAME_BYTES, (void *)FIELD(u64, dentry, OFF_dentry_d_name_name));
		name->parts = i + 1;
		dentry = parent;
	}
	names.update(&key, name);
#endif
}

/* The same for every write: file and inode are pointers whose types are known, op->t_begin is set. */
static inline void note_known_name(struct operation *op, u64 file, u64 inode)
{
#if !BY_FILE
	u32 slot = op->ino % NOTED_SLOTS;
	u32 generation = KNOWN_FIELD(u32, inode, OFF_inode_i_generation);
	struct noted *last = noted.lookup(&slot);

	if (last && last->key.ino == op->ino && last->key.dev == op->dev && last->key.generation == generation &&
	    op->t_begin - last->when < NOTED_NS)
		return;
	note_dentry(op, inode, KNOWN_FIELD(u64, file, OFF_file_f_path_dentry));
	if (last) {
		last->key.ino = op->ino;
		last->key.dev = op->dev;
		last->key.generation = generation;
		last->when = op->t_begin;
	}
#endif
}

static inline void note_name(struct operation *op, u64 file)
{
	note_dentry(op, FIELD(u64, file, OFF_file_f_inode), FIELD(u64, file, OFF_file_f_path_dentry));
}

/* Whether the system call is one of a 32-bit process, with numbers and arguments of its own. */
static inline int is_compat(void)
{
	return KNOWN_FIELD(u32, current_task(), OFF_task_struct_thread_info_status) & TS_COMPAT;
}

/* current->files->fdt->fd[fd], as fdget() does; 0 if there is none. */
static inline u64 file_of(u32 fd)
{
	u64 files = FIELD(u64, bpf_get_current_task(), OFF_task_struct_files);
	u64 fdt = FIELD(u64, files, OFF_files_struct_fdt);

	if (!fdt || fd >= FIELD(u32, fdt, OFF_fdtable_max_fds))
		return 0;
	return FIELD(u64, FIELD(u64, fdt, OFF_fdtable_fd) + 8ULL * fd, 0);
}

#define PF_KTHREAD	0x00200000	/* linux/sched.h */

/*
 * A file system is about to change a file, in no system call of anybody's: a loop device
 * over the file, nfsd. The end of that is not seen. Workers of io_uring are no threads of
 * the kernel. One change may be told in several steps.
 */
static inline void changed_by(u64 inode)
{
#if BY_FILE && !BY_PROCESS
	u64 id = bpf_get_current_pid_tgid();
	struct operation op = {};

	if (!(FIELD(u32, bpf_get_current_task(), OFF_task_struct_flags) & PF_KTHREAD) || calls.lookup(&id))
		return;
	if (identify_inode(&op, inode))
		count_drop(DROP_THREAD);
#endif
}

/* Who and where; not yet seq_begin and t_begin. */
static inline void begin_here(struct operation *op)
{
	u64 id = bpf_get_current_pid_tgid();

	op->pid = id >> 32;
	op->tid = id;
	op->cpu_begin = bpf_get_smp_processor_id();
	op->size_begin = NONE_SIZE;
	op->size_end = NONE_SIZE;
	op->size_applied = NONE_SIZE;
	op->result = NONE_RESULT;
#if TYPED
	u64 task = current_task();

	((u64 *)op->comm)[0] = KNOWN_FIELD(u64, task, OFF_task_struct_comm);
	((u64 *)op->comm)[1] = KNOWN_FIELD(u64, task, OFF_task_struct_comm + 8);
#else
	bpf_get_current_comm(op->comm, sizeof(op->comm));
#endif
}

/* And when. */
static inline void begin_now(struct operation *op)
{
	begin_here(op);
	op->t_begin = bpf_ktime_get_ns();
}

/* Let an operation leave the kernel. The reader looks when it likes; if the ring gets full meanwhile, it is woken. */
static inline void submit(struct operation *op)
{
	u64 waiting = (u64)ring.ringbuf_reserve(RING_WAITING);

	if (ring.ringbuf_output(op, sizeof(*op), waiting < RING_BYTES / 4 ? NO_WAKEUP : WAKEUP))
		count_drop(DROP_RING);
}

/* It had begun before anybody looked (before.c); 0 if there is a number for it. */
static inline int begin_before(struct operation *op);

/* What to make of operations: record.c or watch.c. */
static inline void fallocate_begun(struct operation *op);
static inline void end_unseen(struct operation *op);	/* it has ended, nobody knows when and how */
static inline void leave(struct operation *op);		/* it has ended */
static inline int leave_at_once(struct operation *op);	/* the same of a write; 0: on_io_submit_met() has to do it */
static inline int is_applied_of_interest(void);		/* of a write */

/*
 * The operation is over, whatever its result is. inode 0: its size is not of interest (any
 * more). known: the same as a pointer whose type is known, or 0.
 */
static inline void number_end(struct operation *op, u64 inode, u64 known)
{
	s64 before = !known && inode ? inode_size(inode) : NONE_SIZE;

	op->cpu_end = bpf_get_smp_processor_id();
	op->t_end = bpf_ktime_get_ns();
	if (op->t_applied == AT_ITS_END)
		op->t_applied = op->t_end;
	op->seq_end = take_numbers(1);
	/*
	 * The size comes after the number: read before it, a write that ends in
	 * between would have an earlier number and lie beyond the size, as if this
	 * operation had cut it off. Likewise, what a truncate that begins in between
	 * has cut off is none of a fallocate's doing; so the larger one counts.
	 */
	if (known)
		op->size_end = KNOWN_FIELD(s64, known, OFF_inode_i_size);
	else
		op->size_end = inode ? inode_size(inode) : NONE_SIZE;
	if (op->size_end < before)
		op->size_end = before;
}

/* And let it go. */
static inline void finish_known(struct operation *op, u64 inode, u64 known, s64 result)
{
	op->result = result;
	number_end(op, inode, known);
	leave(op);
}

static inline void finish(struct operation *op, u64 inode, s64 result)
{
	finish_known(op, inode, 0, result);
}

/* Begin a call on one file: 0 if the file is watched and call is filled in, -1 if not. */
static inline int begin_on_file(struct call *call, u64 file, u8 kind)
{
	call->inode = file ? FIELD(u64, file, OFF_file_f_inode) : 0;
	if (!identify(&call->op, call->inode))
		return -1;
	if (NAME_ALL || kind == OP_FALLOCATE)
		note_name(&call->op, file);
	begin_now(&call->op);
	call->op.seq_begin = take_numbers(1);
	call->op.op = kind;
	call->kind = kind;
	call->op.size_begin = inode_size(call->inode);
	return 0;
}

/* The thread is no longer in a call whose end was not seen, if it was in one. */
static inline void forget_call(u64 id)
{
	struct call *call = calls.lookup(&id);

	if (!call)
		return;
	count_drop(DROP_STALE);
	end_unseen(&call->op);
	calls.delete(&id);
}

/* before: it had begun before anybody looked (before.c). */
static inline void enter_call(struct call *call, u8 before)
{
	u64 id = bpf_get_current_pid_tgid();

	if (call->kind == OP_FALLOCATE && !before)
		fallocate_begun(&call->op);
	if (!calls.insert(&id, call))
		return;
	forget_call(id);
	if (calls.update(&id, call))
		count_drop(DROP_MAP);
}

/*
 * The fallocate or truncate of this XFS inode that the thread is in, 0 if none. Events
 * of other inodes do occur in it: memory reclaim may evict one.
 */
static inline struct call *call_on(u64 xfs_inode)
{
	u64 id = bpf_get_current_pid_tgid();
	struct call *call = calls.lookup(&id);

	if (!call || call->kind < OP_FALLOCATE || call->inode != xfs_inode + OFF_xfs_inode_i_vnode)
		return 0;
	return call;
}
