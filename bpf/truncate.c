/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ftruncate(2), on every file system. offset is the new size, length is 0.
 * truncate(2) and open(2) with O_TRUNC name a path, which is not resolved here.
 * applied.c says when XFS sets the size, and from which.
 */
static inline void truncate_enter(struct call *call, u64 regs)
{
	call->op.offset = SYSCALL_ARG(regs, 1);
}
