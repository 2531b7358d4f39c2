/* SPDX-License-Identifier: GPL-2.0-or-later */
/* direct_write_function.c by kprobes and a kretprobe. */
int on___iomap_dio_rw(struct pt_regs *ctx)
{
	begin_write(KPROBE_ARG(0), KPROBE_ARG(0), KPROBE_ARG(1));
	return 0;
}

int on_iomap_dio_complete_enter(struct pt_regs *ctx)
{
	complete_begin(KPROBE_ARG(0));
	return 0;
}

int on_iomap_dio_complete_return(struct pt_regs *ctx)
{
	complete_return(KPROBE_RESULT);
	return 0;
}

int on_complete_rw(struct pt_regs *ctx)
{
	completed(KPROBE_ARG(0), KPROBE_ARG(1));
	return 0;
}
