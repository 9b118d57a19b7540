"""Run inside gdb on an ELF dump: reads every segment by its virtual address.

usage: gdb -ex 'python import sys; sys.argv = ["gdb.py", DUMP, RAW, KEEP]' -x gdb.py

The bytes must be those that RAW has at the same virtual address: of its segments
the first that holds it. A page that the bitmap KEEP does not list, bit pfn%8 of
byte pfn/8, may be zeros. Prints one JSON object.
"""
import json
import struct
import sys

import gdb

PAGE = 4096
CHUNK = 1 << 20


def loads(path):
    """The PT_LOAD segments of an ELF core: (vaddr, size in the file, offset, paddr)."""
    with open(path, "rb") as f:
        e = f.read(64)
        phoff, shoff = struct.unpack_from("<QQ", e, 32)
        size, num = struct.unpack_from("<HH", e, 54)
        if num == 0xFFFF:  # PN_XNUM: sh_info of section 0
            f.seek(shoff + 44)
            num, = struct.unpack("<I", f.read(4))
        f.seek(phoff)
        table = f.read(size * num)
    segments = []
    for i in range(num):
        kind, _, offset, vaddr, paddr, filesz, _, _ = struct.unpack_from("<IIQQQQQQ", table, i * size)
        if kind == 1 and filesz:
            segments.append((vaddr, filesz, offset, paddr))
    return segments


def main(dump, raw_path, keep_path):
    with open(keep_path, "rb") as f:
        keep = f.read()
    gdb.execute("core-file " + dump)
    inferior = gdb.selected_inferior()
    raw_loads, segments = loads(raw_path), loads(dump)
    compared, filler, different = 0, 0, []
    with open(raw_path, "rb") as raw:
        for vaddr, size, _, paddr in segments:
            start, length, offset, _ = next(s for s in raw_loads if s[0] <= vaddr < s[0] + s[1])
            if vaddr + size > start + length:
                different.append(vaddr)
                continue
            for at in range(vaddr, vaddr + size, CHUNK):
                n = min(CHUNK, vaddr + size - at)
                raw.seek(offset + at - start)
                want = raw.read(n)
                try:
                    got = bytes(inferior.read_memory(at, n))
                except gdb.MemoryError:
                    different.append(at)
                    continue
                for i in range(0, n, PAGE) if got != want else ():
                    pfn = (paddr + at - vaddr + i) // PAGE
                    if got[i:i + PAGE] == want[i:i + PAGE]:
                        continue
                    if keep[pfn >> 3] >> (pfn & 7) & 1 or got[i:i + PAGE].count(0) < PAGE:
                        different.append(at + i)
                    else:
                        filler += 1
                compared += n // PAGE
    print(json.dumps({"segments": len(segments), "compared": compared - filler, "different": len(different), "where": ["%#x" % d for d in different[:8]]}))


main(*sys.argv[1:])
