/* SPDX-License-Identifier: GPL-2.0-or-later */
/* do_truncate(idmap, dentry, length, time_attrs, file), in this order since 643fe55a0679 (v5.12). */
int on_do_truncate(struct pt_regs *ctx)
{
	u64 inode = FIELD(u64, KPROBE_ARG(1), OFF_dentry_d_inode);

	truncates_path(inode, inode_size(inode));
	return 0;
}
