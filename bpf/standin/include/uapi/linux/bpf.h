/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Empty: bcc includes it, eofrace needs nothing of it. */
