"""Compares a kdump-compressed file with the raw core of the same crash.

usage: pages.py DUMP RAW MAKEDUMPFILE'S

drgn with libkdumpfile reads every page that the second bitmap of DUMP lists, by
its physical address; the bytes must be those of RAW, an ELF core. Pages that
the bitmap does not list must not be readable. The bitmap is then compared with that of
makedumpfile's dump of RAW. Prints one JSON object.
"""
import json
import struct
import sys

import drgn

PAGE = 4096


class Kdump:
    """Headers and bitmaps, read here once more, by nobody's library."""

    def __init__(self, path):
        self.path = path
        with open(path, "rb") as f:
            head = f.read(PAGE)
            if head[:8] != b"KDUMP   ":
                raise SystemExit(f"{path}: no kdump signature")
            self.version, = struct.unpack_from("<i", head, 8)
            self.status, block, self.sub_blocks, self.map_blocks, max32 = struct.unpack_from("<IiiII", head, 424)
            if block != PAGE:
                raise SystemExit(f"{path}: block size {block}")
            sub = f.read(self.sub_blocks * PAGE)
            self.dump_level, = struct.unpack_from("<i", sub, 8)
            self.max_mapnr, = struct.unpack_from("<Q", sub, 96)
            half = self.map_blocks // 2 * PAGE
            self.ram = f.read(half)
            self.dumped = f.read(half)

    def listed(self):
        return {8 * i + bit for i, byte in enumerate(self.dumped) if byte for bit in range(8) if byte >> bit & 1}


def loads(path):
    """The PT_LOAD segments of an ELF core: (paddr, size, offset)."""
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
            segments.append((paddr, filesz, offset))
    return segments


def main(ours_path, raw_path, theirs_path):
    ours, theirs = Kdump(ours_path), Kdump(theirs_path)
    keep, they_keep = ours.listed(), theirs.listed()
    prog = drgn.Program()
    prog.set_core_dump(ours_path)
    different, unreadable, hidden, ram, not_ram = [], [], [], set(), set(keep)
    with open(raw_path, "rb") as raw:
        for paddr, size, offset in sorted(loads(raw_path)):
            for pfn in range(paddr // PAGE, (paddr + size) // PAGE):
                if pfn in ram:
                    continue  # the kernel's image has a segment of its own
                ram.add(pfn)
                not_ram.discard(pfn)
                if pfn in keep:
                    raw.seek(offset + pfn * PAGE - paddr)
                    try:
                        if prog.read(pfn * PAGE, PAGE, True) != raw.read(PAGE):
                            different.append(pfn)
                    except Exception:
                        unreadable.append(pfn)
                elif pfn % 64 == 0:
                    try:
                        prog.read(pfn * PAGE, PAGE, True)
                        hidden.append(pfn)
                    except drgn.FaultError:
                        pass
    ram_bits = sum(byte.bit_count() for byte in ours.ram)
    json.dump({
        "ram": len(ram), "ram_in_bitmap1": ram_bits, "kept": len(keep), "compared": len(keep & ram),
        "level": ours.dump_level, "status": ours.status,
        "different": different[:20], "n_different": len(different),
        "unreadable": unreadable[:20], "n_unreadable": len(unreadable),
        "readable_though_left_out": hidden[:20],
        "outside_ram": sorted(not_ram)[:20], "n_outside_ram": len(not_ram),
        "they_keep": len(they_keep),
        "only_they_keep": sorted(they_keep - keep)[:200], "n_only_they_keep": len(they_keep - keep),
        "only_we_keep": sorted(keep - they_keep)[:200], "n_only_we_keep": len(keep - they_keep),
    }, sys.stdout)


main(*sys.argv[1:])
