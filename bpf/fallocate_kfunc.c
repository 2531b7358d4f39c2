/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fallocate_function.c by fentry and fexit, which bcc calls kfunc and kretfunc. ctx has
 * the function's arguments, then its result.
 */
int on_xfs_file_fallocate(unsigned long long *ctx)
{
	fallocate_begin(ctx[0], ctx[1], ctx[2], ctx[3]);
	return 0;
}

int on_xfs_file_fallocate_return(unsigned long long *ctx)
{
	fallocate_return(ctx[4]);
	return 0;
}
