/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * System calls, through the two raw tracepoints that see them all. The perf
 * tracepoints of single calls would cost other processes less, but they need
 * tracefs, and are skipped without notice while a task on the same CPU is in
 * bpf(2) (bpf_disable_instrumentation()); a raw tracepoint's misses are counted.
 *
 * What several of them share is called once: it is inlined wherever it is called, and
 * the compiler needs its time for every copy.
 */
/*
 * System calls of 32-bit processes, by numbers of their own (asm/unistd_32.h, x86). What
 * open(2) and io_submit(2) do is not looked at: to ask at lseek(2), which has the number of
 * creat(2), would cost others.
 */
#define IA32_write		4
#define IA32_ioctl		54
#define IA32_truncate		92
#define IA32_ftruncate		93
#define IA32_writev		146
#define IA32_pwrite64		181
#define IA32_sendfile		187
#define IA32_truncate64		193
#define IA32_ftruncate64	194
#define IA32_sendfile64		239
#define IA32_splice		313
#define IA32_fallocate		324
#define IA32_pwritev		334
#define IA32_copy_file_range	377
#define IA32_pwritev2		379

static inline int changes_data(u32 command)
{
	return command == FICLONE || command == FICLONERANGE || space_mode(command, IOC_SPACE_COMPAT);
}

/* What a call changes on that file is not recorded. */
static inline void lose_call(u32 fd, int why)
{
	struct operation op = {};
	u64 file = file_of(fd);

	if (file && identify(&op, FIELD(u64, file, OFF_file_f_inode)))
		count_drop(why);
}

static inline void compat_enter(u32 fd)
{
	if (is_compat())
		lose_call(fd, DROP_COMPAT);
}

/* flags: a write's RWF_*, a fallocate's mode; whence: what a fallocate's offset counts from. */
static inline void call_enter(u64 regs, u32 fd, u8 kind, u8 copies, s64 offset, u64 length, u32 flags, u8 whence, u8 before)
{
	u64 file = file_of(fd);
	struct call call = {};

	if (is_compat())
		return;
	if (kind == OP_MAPPING) {
		map_enter(file);
		return;
	}
	if (kind == OP_FALLOCATE && !before && is_no_fallocate(file, flags))
		return;
	if (begin_on_file(&call, file, kind))
		return;
	if (before && begin_before(&call.op))
		return;
	if (kind == OP_FALLOCATE)
		fallocate_enter(&call, file, flags, whence, offset, length);
	else if (kind == OP_TRUNCATE)
		truncate_enter(&call, regs);
	else
		write_enter(&call, file, offset, length, flags);
	call.copies = copies;
	enter_call(&call, before);
}

/* A thread enters a system call, or is about to leave one that it had entered before anybody looked. */
static inline int call_of_thread(struct bpf_raw_tracepoint_args *ctx, u64 nr, u8 before)
{
	u64 regs = ctx->args[0];
	u8 kind = OP_DIRECT_WRITE;
	s64 offset = -1;
	u64 length = 0;
	u64 flags = 0;
	u8 fd_arg = 0;		/* which argument names the file */
	struct space_resv space;
	struct submission *s;
	u8 copies = 0;
	u8 whence = 0;
	int cloned;
	u32 fd;

	switch (nr) {
	case NR_io_submit:
	case NR_io_uring_enter:
		if (before)
			return 0;
		kind = nr == NR_io_submit ? OP_AIO_WRITE : OP_URING_WRITE;
		length = SYSCALL_ARG(regs, 1);
		s = submit_enter(kind == OP_AIO_WRITE ? length : (u32)length, SYSCALL_ARG(regs, 2), kind);
		if (s && kind == OP_AIO_WRITE)
			aio_enter(ctx, s);
		return 0;
	case NR_creat:
		kind = OP_OPEN;
		flags = O_TRUNC_BIT;
		break;
	case NR_open:
		kind = OP_OPEN;
		flags = SYSCALL_ARG(regs, 1);
		break;
	case NR_openat:
	case NR_open_by_handle_at:
		kind = OP_OPEN;
		flags = SYSCALL_ARG(regs, 2);
		break;
	case NR_openat2:
		kind = OP_OPEN;
		read_user(&flags, sizeof(flags), (void *)SYSCALL_ARG(regs, 2));	/* open_how.flags */
		break;
	case NR_truncate:
		kind = OP_PATH;
		length = SYSCALL_ARG(regs, 1);
		break;
	case NR_mmap:
		if (!maps_file(SYSCALL_ARG(regs, 2), SYSCALL_ARG(regs, 3)))
			return 0;
		kind = OP_MAPPING;
		fd_arg = 4;
		break;
	case NR_fallocate:
		kind = OP_FALLOCATE;
		flags = SYSCALL_ARG(regs, 1);
		offset = SYSCALL_ARG(regs, 2);
		length = SYSCALL_ARG(regs, 3);
		break;
	case NR_ftruncate:
		kind = OP_TRUNCATE;
		break;
	case NR_write:
		length = SYSCALL_ARG(regs, 2);
		break;
	case NR_writev:
		break;
	case NR_pwrite64:
		length = SYSCALL_ARG(regs, 2);
		offset = SYSCALL_ARG(regs, 3);
		break;
	case NR_pwritev2:
		flags = SYSCALL_ARG(regs, 5);
		offset = SYSCALL_ARG(regs, 3);
		break;
	case NR_pwritev:
		offset = SYSCALL_ARG(regs, 3);
		break;
	case NR_copy_file_range:
	case NR_splice:
		copies = COPY_BYTES;
		fd_arg = 2;
		offset = named_offset(SYSCALL_ARG(regs, 3));
		length = SYSCALL_ARG(regs, 4);
		break;
	case NR_sendfile:
		copies = COPY_BYTES;
		length = SYSCALL_ARG(regs, 3);
		break;
	case NR_ioctl:
		flags = space_mode(SYSCALL_ARG(regs, 1), IOC_SPACE);
		if (flags) {
			if (read_user(&space, sizeof(space), (void *)SYSCALL_ARG(regs, 2)) ||
			    (before && space.whence == SEEK_CUR)) {
				lose_call(SYSCALL_ARG(regs, 0), DROP_PLACE);
				return 0;
			}
			kind = OP_FALLOCATE;
			whence = space.whence;
			offset = space.start;
			length = space.length;
			break;
		}
		copies = COPY_WHOLE;
		cloned = clone_range(SYSCALL_ARG(regs, 1), SYSCALL_ARG(regs, 2), &offset, &length);
		if (cloned < 0)
			lose_call(SYSCALL_ARG(regs, 0), DROP_PLACE);
		if (cloned <= 0)
			return 0;
		break;
	case IA32_write:
	case IA32_ftruncate:
	case IA32_writev:
	case IA32_pwrite64:
	case IA32_sendfile:
	case IA32_ftruncate64:
	case IA32_sendfile64:
	case IA32_fallocate:
	case IA32_pwritev:
	case IA32_pwritev2:
		compat_enter(FIELD(u32, regs, OFF_pt_regs_compat_arg0));
		return 0;
	case IA32_ioctl:
		if (changes_data(FIELD(u32, regs, OFF_pt_regs_compat_arg1)))
			compat_enter(FIELD(u32, regs, OFF_pt_regs_compat_arg0));
		return 0;
	case IA32_splice:
	case IA32_copy_file_range:
		compat_enter(FIELD(u32, regs, OFF_pt_regs_compat_arg2));
		return 0;
	case IA32_truncate:
	case IA32_truncate64:
		if (is_compat() && is_selected() && may_be_traced(UNTOLD))
			count_drop(DROP_COMPAT);
		return 0;
	default:
		return 0;
	}
	if (kind == OP_OPEN && (!(flags & O_TRUNC_BIT) || flags & O_PATH_BIT))
		return 0;
	if (kind == OP_OPEN || kind == OP_PATH) {
		path_enter(kind, length, before);
		return 0;
	}
	fd = fd_arg == 4 ? SYSCALL_ARG(regs, 4) : fd_arg == 2 ? SYSCALL_ARG(regs, 2) : SYSCALL_ARG(regs, 0);
	call_enter(regs, fd, kind, copies, offset, length, flags, whence, before);
	return 0;
}

int on_sys_enter(struct bpf_raw_tracepoint_args *ctx)
{
	return call_of_thread(ctx, ctx->args[1], 0);
}

/* -1: nothing is known of the call. */
static inline int call_exit(s64 result)
{
	u64 id = bpf_get_current_pid_tgid();
	struct call *call = calls.lookup(&id);
	int ended = 1;

	if (!call)
		return -1;
	count_placing(call, -1);
	if (call->kind == OP_OPEN) {
		ended = open_exit(call, result);
		result = 0;
	} else if (call->kind == OP_PATH) {
		ended = path_exit(call, result);
	} else if (call->op.op) {
		/* A write that never came to iomap: buffered, refused before, or a file system that does without. */
		if (call->copies) {
			call->op.op = OP_BUFFERED_WRITE;
			copied(&call->op, call->copies, &result);
		} else if (call->kind == OP_DIRECT_WRITE && !call->op.length && result > 0) {
			call->op.length = result;
		}
		if (result > 0 && !is_placed(call, result)) {
			count_drop(DROP_PLACE);
			ended = 0;
		}
	} else {
		end_failed(call->kiocb, call->kiocb_seq, result);
		ended = 0;
	}
	if (ended && call->dentry)
		note_dentry(&call->op, call->inode, call->dentry);
	if (ended)
		finish(&call->op, call->inode, result);
	calls.delete(&id);
	return 0;
}

BPF_PROG_ARRAY(exit_programs, 1);

/* Of a marked thread. */
int on_exit_from_before(struct bpf_raw_tracepoint_args *ctx)
{
	u64 id = bpf_get_current_pid_tgid();
	struct marked *found = marked_threads.lookup(&id);
	struct marked thread;

	if (!found)
		return 0;
	thread = *found;
	marked_threads.delete(&id);
	if (thread.kiocb) {
		end_failed(thread.kiocb, thread.kiocb_seq, ctx->args[1]);
		return 0;
	}
	call_of_thread(ctx, FIELD(u64, ctx->args[0], OFF_pt_regs_nr), 1);
	call_exit(ctx->args[1]);
	return 0;
}

static inline void exit_from_before(struct bpf_raw_tracepoint_args *ctx)
{
	u64 id = bpf_get_current_pid_tgid();

	if (marked_threads.lookup(&id))
		exit_programs.call(ctx, 0);
}

int on_sys_exit(struct bpf_raw_tracepoint_args *ctx)
{
	switch (KNOWN_FIELD(u64, ctx->args[0], OFF_pt_regs_nr)) {
	case NR_io_submit:
	case NR_io_uring_enter:
		submit_exit(ctx);
		break;
	case NR_io_getevents:
	case NR_io_pgetevents:
		fetched(ctx);
		break;
	case NR_fallocate:
	case NR_ftruncate:
	case NR_truncate:
	case NR_creat:
	case NR_open:
	case NR_openat:
	case NR_openat2:
	case NR_open_by_handle_at:
	case NR_write:
	case NR_writev:
	case NR_pwrite64:
	case NR_pwritev:
	case NR_pwritev2:
	case NR_copy_file_range:
	case NR_sendfile:
	case NR_splice:
	case NR_ioctl:
		if (call_exit(ctx->args[1]))
			exit_from_before(ctx);
		break;
	}
	return 0;
}
