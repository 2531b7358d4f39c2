/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * When, and from which size, XFS changed a file in a fallocate or truncate.
 *
 * The size is set in xfs_setattr_size(): it waits for direct I/O in flight, which
 * may raise i_size meanwhile, and then sets the new size whatever i_size is by now.
 * In order of time, the hooks are:
 *
 *   xfs_setattr			before that wait
 *   xfs_zero_eof		behind it, if the new size was beyond i_size before it:
 *				i_size read here is what the new size replaces
 *   xfs_itruncate_extents_start	behind it, if not, with the size set already
 *
 * So in v6.1 and v6.18. Writers are locked out from before the first to the end.
 */
static inline void note_space(u64 xfs_inode)
{
	struct call *call = call_on(xfs_inode);

	changed_by(xfs_inode + OFF_xfs_inode_i_vnode);
	if (!call)
		return;
	call->op.t_applied = bpf_ktime_get_ns();
	call->space = 1;
}

int on_xfs_alloc_file_space(struct bpf_raw_tracepoint_args *ctx)
{
	note_space(ctx->args[0]);
	return 0;
}

int on_xfs_zero_file_space(struct bpf_raw_tracepoint_args *ctx)
{
	note_space(ctx->args[0]);
	return 0;
}

int on_xfs_free_file_space(struct bpf_raw_tracepoint_args *ctx)
{
	note_space(ctx->args[0]);
	return 0;
}

/*
 * Fires for a change of anything. A fallocate takes set-user-id bits away before all
 * else (file_modified(), fbe7e5200365, v5.18): that one sets no size. The one that does
 * comes after the blocks were allocated. A truncation changes all in one.
 */
int on_xfs_setattr(struct bpf_raw_tracepoint_args *ctx)
{
	u64 inode = ctx->args[0] + OFF_xfs_inode_i_vnode;
	struct call *call;

	changed_by(inode);
	truncates_path(inode, inode_size(inode));
	call = call_on(ctx->args[0]);
	if (!call)
		return 0;
	call->op.t_applied = bpf_ktime_get_ns();
	if (!call->space && call->kind == OP_FALLOCATE)
		return 0;
	call->sizing = 1;
	call->op.size_applied = inode_size(call->inode);
	return 0;
}

int on_xfs_zero_eof(struct bpf_raw_tracepoint_args *ctx)
{
	struct call *call = call_on(ctx->args[0]);

	if (!call || !call->sizing)
		return 0;
	call->op.t_applied = bpf_ktime_get_ns();
	call->op.size_applied = inode_size(call->inode);
	return 0;
}

int on_xfs_itruncate_extents_start(struct bpf_raw_tracepoint_args *ctx)
{
	struct call *call = call_on(ctx->args[0]);

	if (call && call->sizing)
		call->op.t_applied = bpf_ktime_get_ns();
	return 0;
}
