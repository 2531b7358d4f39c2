/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Files that somebody can change by storing into memory. No hook sees a store; what is
 * noted is that a file is mapped so: when mmap(2) asks for it, and when XFS is told that
 * a page is about to become dirty, which shows a mapping that was made before, or that
 * mprotect(2) has made writable since. User space does the counting, because that
 * matters only for files of which operations are recorded.
 */
#define PROT_WRITE_BIT		2		/* asm-generic/mman-common.h */
#define MAP_TYPE_MASK		0xf
#define MAP_SHARED_TYPE		1
#define MAP_SHARED_VALIDATE_TYPE	3
#define MAP_ANONYMOUS_BIT	0x20
#define FMODE_WRITE_BIT		2		/* linux/fs.h */

BPF_HASH(mapped, struct inode_key, u64, 4096);	/* inode, dev as the record has it -> how often that was seen */

/* Files without blocks: to be mapped is what they are for, and nothing of them is ever on a disk. */
static inline int is_memory(u64 inode)
{
#if BY_FILE
	return 0;	/* whoever names one means it */
#else
	u64 magic = FIELD(u64, FIELD(u64, inode, OFF_inode_i_sb), OFF_super_block_s_magic);

	return magic == 0x01021994 || magic == 0x858458f6 || magic == 0x958458f6;	/* tmpfs, ramfs, hugetlbfs */
#endif
}

static inline void note_mapping(u64 inode)
{
	struct inode_key key = {};
	struct operation op = {};
	u64 *count, one = 1;

	if (!identify(&op, inode) || is_memory(inode))
		return;
	key.ino = op.ino;
	key.dev = op.dev;
	count = mapped.lookup(&key);
	if (count)
		__sync_fetch_and_add(count, 1);
	else if (mapped.update(&key, &one))
		count_drop(DROP_MAP);
}

/* Whether stores to what mmap(2) is asked for change a file. */
static inline int maps_file(u64 prot, u32 flags)
{
	u32 type = flags & MAP_TYPE_MASK;

	if (!(prot & PROT_WRITE_BIT) || flags & MAP_ANONYMOUS_BIT)
		return 0;
	return type == MAP_SHARED_TYPE || type == MAP_SHARED_VALIDATE_TYPE;
}

static inline void map_enter(u64 file)
{
	if (file && FIELD(u32, file, OFF_file_f_mode) & FMODE_WRITE_BIT)	/* or it is EBADF, EACCES */
		note_mapping(FIELD(u64, file, OFF_file_f_inode));
}

/* Of xfs_filemap_page_mkwrite(): a tracepoint of its own since 1171de329692 (v6.13). */
#if XFS_WRITE_FAULT
int on_xfs_write_fault(struct bpf_raw_tracepoint_args *ctx)
{
	note_mapping(ctx->args[0] + OFF_xfs_inode_i_vnode);
	return 0;
}
#else
int on_xfs_filemap_fault(struct bpf_raw_tracepoint_args *ctx)
{
	if ((u8)ctx->args[2])
		note_mapping(ctx->args[0] + OFF_xfs_inode_i_vnode);
	return 0;
}
#endif
