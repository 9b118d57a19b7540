package vmcoretest

import "strings"

// Large describes a machine with so much RAM, "1T" for instance, nearly all of which
// level 31 leaves out: of each 8 GiB the first 32 MiB are the kernel's, then come
// user pages, free blocks and page cache. All struct pages can be read, though the
// file holds those of 8 GiB only. The info lines up to data are what makedumpfile
// wants beyond what a core of a test has.
func Large(ram string) string {
	return strings.Replace(`
	kernel 0x1000000 16M
	load 0x100000 RAM vaddr=0xffff888000100000
	info SYMBOL(init_uts_ns)=ffffffff81100000
	info OFFSET(uts_namespace.name)=0
	info SYMBOL(node_online_map)=ffffffff81101000
	info SIZE(nodemask_t)=128
	info SIZE(pglist_data)=174208
	info SIZE(zone)=1536
	info SIZE(free_area)=88
	info SIZE(list_head)=16
	info OFFSET(pglist_data.node_zones)=0
	info OFFSET(pglist_data.nr_zones)=171552
	info OFFSET(pglist_data.node_start_pfn)=171560
	info OFFSET(pglist_data.node_spanned_pages)=171576
	info OFFSET(pglist_data.node_id)=171584
	info OFFSET(zone.free_area)=256
	info OFFSET(zone.vm_stat)=1344
	info OFFSET(zone.spanned_pages)=144
	info OFFSET(free_area.free_list)=0
	info OFFSET(list_head.next)=0
	info OFFSET(list_head.prev)=8
	info SYMBOL(vmap_area_list)=ffffffff81102000
	info OFFSET(vmap_area.va_start)=0
	info OFFSET(vmap_area.list)=40
	data 0xffffffff81100000 "Linux"
	data 0xffffffff81100082 "6.1.0-test"
	data 0xffffffff81101000 1
	memmap extreme 0xffffea0000000000 0x2000000 repeat=128M
	page 0x2000 0xfe000 mapping=0x1 _refcount=1
	page 0x100000 0x80000 _mapcount=0xffffff7f private=3
	page 0x180000 0x40000 flags=0x10 mapping=0xffff888000200000 _refcount=1
	page 0x1c0000 0x40000 _mapcount=0xffffff7f private=3`, "RAM", ram, 1)
}
