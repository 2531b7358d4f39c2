/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * direct_write_function.c by fentry and fexit. __iomap_dio_rw() has seven arguments; a
 * trampoline of v6.1 takes six, one of v6.12 takes it. The verifier knows the types of
 * the arguments, so that an address has to be made a number.
 */
int on___iomap_dio_rw(unsigned long long *ctx)
{
	begin_write(ctx[0], ARG_NUMBER(0), ctx[1]);
	return 0;
}

int on_iomap_dio_complete_enter(unsigned long long *ctx)
{
	complete_begin(ctx[0]);
	return 0;
}

int on_iomap_dio_complete_return(unsigned long long *ctx)
{
	complete_return(ctx[1]);
	return 0;
}

int on_complete_rw(unsigned long long *ctx)
{
	completed(ARG_NUMBER(0), ctx[1]);
	return 0;
}
