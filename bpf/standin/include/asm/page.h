/* SPDX-License-Identifier: GPL-2.0-or-later */
/* PAGE_SIZE is given by tracer/attach.py: it is the running kernel's. */
