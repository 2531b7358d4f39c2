/* SPDX-License-Identifier: GPL-2.0-or-later */
/* bcc refuses to compile without this option; whether the kernel has BPF shows when a program is loaded. */
#define CONFIG_BPF_SYSCALL 1
