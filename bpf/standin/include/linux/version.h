/* SPDX-License-Identifier: GPL-2.0-or-later */
/* bcc's helpers ask for a version; the kernel ignores it since 6c4fc209fcf9 (v5.0). */
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define LINUX_VERSION_CODE KERNEL_VERSION(5, 14, 0)
