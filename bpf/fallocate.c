/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fallocate(2), on every file system. It begins when the thread enters the
 * system call: one that waits for the inode lock is already in the kernel.
 *
 * XFS also says when it changes the file: the last of these before the end is
 * t_applied. They fire with the inode locked, just before the change; the size is
 * set last, by xfs_setattr (xfs_falloc_setsize() in v6.18, xfs_vn_setattr_size()
 * in xfs_file_fallocate() before v6.13). See applied.c.
 */

#define XFS_SUPER_MAGIC	0x58465342	/* linux/magic.h */
#define OVERLAYFS_SUPER_MAGIC	0x794c7630

/* Whether the file system says of which inode a truncate(2) sets the size. */
static inline int tells_whose_size(u64 inode)
{
	u64 magic = FIELD(u64, FIELD(u64, inode, OFF_inode_i_sb), OFF_super_block_s_magic), *found;
	int i;

	for (i = 0; i < TELLS_SLOTS; i++) {
		int slot = i;

		found = tells_size.lookup(&slot);
		if (found && (*found == magic || *found == TELLS_ALL))
			return 1;
	}
	return 0;
}

/*
 * Watch the file that this call names, if the thread asked for that. The kernel
 * looks up its own names for the file, which stat(2) does not always tell: overlayfs
 * may have that of the file below.
 */
static inline void learn(u64 file)
{
	u64 id = bpf_get_current_pid_tgid();
	u64 *dev = learning.lookup(&id);
	struct inode_key key;
	int zero = 0;
	u8 why = UNTOLD;
	u64 inode, sb, magic;

	if (!dev || !file)
		return;
	inode = FIELD(u64, file, OFF_file_f_inode);
	sb = FIELD(u64, inode, OFF_inode_i_sb);
	magic = FIELD(u64, sb, OFF_super_block_s_magic);
	key = key_of(inode, sb, magic);
	watched.update(&key, dev);
	if (magic == OVERLAYFS_SUPER_MAGIC)
		why = UNTOLD_OVERLAID;
	if (!tells_whose_size(inode))
		untold.update(&zero, &why);
}

static inline int is_xfs(u64 inode)
{
	return FIELD(u64, FIELD(u64, inode, OFF_inode_i_sb), OFF_super_block_s_magic) == XFS_SUPER_MAGIC;
}

/*
 * Whether this call is no operation: one that names a file, to us or to an eofrace beside us
 * (the kernel has no such mode), or one that fallocate_function.c begins.
 */
static inline int is_no_fallocate(u64 file, u32 mode)
{
	if (mode == NAMING_MODE) {
		learn(file);
		return 1;
	}
	return FALLOCATE_BY_FUNCTION && file && is_xfs(FIELD(u64, file, OFF_file_f_inode));
}

static inline void fallocate_enter(struct call *call, u64 file, u32 mode, u8 whence, s64 offset, u64 length)
{
	if (whence == SEEK_CUR)
		offset += FIELD(s64, file, OFF_file_f_pos);
	else if (whence == SEEK_END)
		offset += inode_size(call->inode);	/* also of one that had begun before: these keep the size */
	call->op.flags = mode;
	call->op.offset = offset;
	call->op.length = length;
}

/*
 * The ioctls that XFS had before there was fallocate(2), and every file system has now:
 * file_ioctl() and ioctl_preallocate() of fs/ioctl.c, since 837a6e7f5cdb (v5.5).
 */
#define IOC_RESVSP		('X' << 8 | 40)	/* linux/falloc.h: type and number of FS_IOC_* */
#define IOC_UNRESVSP		('X' << 8 | 41)
#define IOC_RESVSP64		('X' << 8 | 42)
#define IOC_UNRESVSP64		('X' << 8 | 43)
#define IOC_ZERO_RANGE		('X' << 8 | 57)
#define IOC_SPACE		0x40300000U	/* _IOW of struct space_resv, with no type and number */
#define IOC_SPACE_COMPAT	0x402c0000U	/* the same of a 32-bit process */

struct space_resv {		/* linux/falloc.h */
	s16 type;
	s16 whence;
	s64 start;		/* bytes */
	s64 length;		/* bytes */
};

/* The mode of fallocate(2) that such an ioctl stands for, 0: it is another one. */
static inline u32 space_mode(u32 command, u32 size_and_direction)
{
	if ((command & 0xffff0000U) != size_and_direction)
		return 0;
	switch (command & 0xffff) {
	case IOC_RESVSP:
	case IOC_RESVSP64:
		return KEEP_SIZE;
	case IOC_UNRESVSP:
	case IOC_UNRESVSP64:
		return KEEP_SIZE | PUNCH_HOLE;
	case IOC_ZERO_RANGE:
		return KEEP_SIZE | ZERO_RANGE;
	}
	return 0;
}
