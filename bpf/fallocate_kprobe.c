/* SPDX-License-Identifier: GPL-2.0-or-later */
/* fallocate_function.c by kprobe and kretprobe. */
int on_xfs_file_fallocate(struct pt_regs *ctx)
{
	fallocate_begin(KPROBE_ARG(0), KPROBE_ARG(1), KPROBE_ARG(2), KPROBE_ARG(3));
	return 0;
}

int on_xfs_file_fallocate_return(struct pt_regs *ctx)
{
	fallocate_return(KPROBE_RESULT);
	return 0;
}
