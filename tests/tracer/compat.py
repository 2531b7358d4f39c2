"""System calls as a 32-bit process makes them: a script that other processes run.

python tests/tracer/compat.py FILE    a write of 4 bytes, pwrite64, fallocate, FS_IOC_ZERO_RANGE and ftruncate64
                                      on FILE by int 0x80
"""

import ctypes
import mmap
import os
import struct
import sys

_MAP_32BIT = 0x40
_CODE = bytes.fromhex("53 55 57 56 31 ed 89 f8 89 f3 89 d1 44 89 c6 44 89 cf 8b 54 24 28 cd 80 5e 5f 5d 5b c3")
"""
push rbx, rbp, rdi, rsi; ebp = 0; eax = edi (the call's number), ebx = esi, ecx = edx, esi = r8d, edi = r9d, edx = the
seventh argument; int 0x80; pop; ret. (asm/unistd_32.h: the arguments are ebx, ecx, edx, esi, edi, ebp.)
"""

WRITE, IOCTL, PWRITE64, FTRUNCATE64, FALLOCATE = 4, 54, 181, 194, 324
ZERO_RANGE = 0x402C5839


def main(path: str) -> None:
    file = os.open(path, os.O_RDWR)
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(_CODE)
    numbers = [ctypes.c_uint32] * 7
    call = ctypes.CFUNCTYPE(ctypes.c_int64, *numbers)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    data = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_32BIT)
    address = ctypes.addressof(ctypes.c_char.from_buffer(data))

    def system_call(number: int, ebx: int, ecx: int = 0, edx: int = 0, esi: int = 0, edi: int = 0) -> int:
        result: int = call(number, ebx, ecx, 0, esi, edi, edx)
        return result - (1 << 32) if result >> 31 & 1 else result

    assert system_call(WRITE, file, address, 4) == 4
    assert system_call(PWRITE64, file, address, 4, 8, 0) == 4
    assert system_call(FALLOCATE, file, 0, 0, 0, 8192) == 0
    data[:44] = struct.pack("<hhqqiI16x", 0, os.SEEK_SET, 4096, 4096, 0, 0)
    assert system_call(IOCTL, file, ZERO_RANGE, address) == 0
    assert system_call(IOCTL, file, 0x5421, address) == 0  # FIONBIO: none of ours
    assert system_call(FTRUNCATE64, file, 4096, 0) == 0
    assert os.fstat(file).st_size == 4096
    assert system_call(20, 0) == os.getpid()


if __name__ == "__main__":
    main(sys.argv[1])
