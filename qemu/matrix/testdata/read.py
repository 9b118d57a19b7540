"""Reads every page of a dump with drgn and compares it with the raw core.

usage: read.py DUMP RAW KEEP

DUMP is kdump-compressed (then drgn reads it with libkdumpfile) or ELF. RAW is the
ELF core that it was made of. KEEP is a bitmap of the pages that DUMP has to hold,
bit pfn%8 of byte pfn/8: each must be that of RAW, and pages of RAM that it does not
list must not be readable; in ELF, where short runs of excluded pages are zeros in
the file, they may be zeros too. Prints one JSON object.
"""
import json
import struct
import sys

import drgn

PAGE = 4096
CHUNK = 256  # pages read at a time


def loads(path):
    """The PT_LOAD segments of an ELF core: (first pfn, pages, offset)."""
    with open(path, "rb") as f:
        e = f.read(64)
        phoff, = struct.unpack_from("<Q", e, 32)
        size, num = struct.unpack_from("<HH", e, 54)
        f.seek(phoff)
        table = f.read(size * num)
    segments = []
    for i in range(num):
        kind, _, offset, _, paddr, filesz, _, _ = struct.unpack_from("<IIQQQQQQ", table, i * size)
        if kind == 1:
            first = -(-paddr // PAGE)
            segments.append((first, (paddr + filesz) // PAGE - first, offset + first * PAGE - paddr))
    return segments


def runs(start, count, keep):
    """Runs of pages that are all listed or all not: (first pfn, pages, listed)."""
    at = start
    while at < start + count:
        listed = keep[at >> 3] >> (at & 7) & 1 if at >> 3 < len(keep) else 0
        end = at + 1
        while end < start + count and (keep[end >> 3] >> (end & 7) & 1 if end >> 3 < len(keep) else 0) == listed:
            end += 1
        yield at, end - at, listed
        at = end


def main(dump, raw_path, keep_path):
    with open(keep_path, "rb") as f:
        keep = f.read()
    with open(dump, "rb") as f:
        elf = f.read(4) == b"\x7fELF"
    prog = drgn.Program()
    prog.set_core_dump(dump)
    compared, different, unreadable, readable, absent = 0, [], [], [], 0
    with open(raw_path, "rb") as raw:
        for first, count, offset in loads(raw_path):
            for pfn, pages, listed in runs(first, count, keep):
                if not listed:
                    absent += pages
                    for p in {pfn, pfn + pages - 1}:
                        try:
                            if prog.read(p * PAGE, PAGE, True).count(0) < PAGE or not elf:
                                readable.append(p)
                        except drgn.FaultError:
                            pass
                    continue
                for at in range(pfn, pfn + pages, CHUNK):
                    n = min(CHUNK, pfn + pages - at)
                    raw.seek(offset + (at - first) * PAGE)
                    want = raw.read(n * PAGE)
                    try:
                        got = prog.read(at * PAGE, n * PAGE, True)
                    except drgn.FaultError:
                        unreadable.append(at)
                        continue
                    compared += n
                    if got != want:
                        different += [at + i for i in range(n) if got[i * PAGE:(i + 1) * PAGE] != want[i * PAGE:(i + 1) * PAGE]]
    json.dump({
        "compared": compared, "absent": absent, "different": len(different), "unreadable": len(unreadable), "readable": len(readable),
        "pfns": {"different": different[:8], "unreadable": unreadable[:8], "readable": readable[:8]},
    }, sys.stdout)


main(*sys.argv[1:])
