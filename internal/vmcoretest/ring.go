package vmcoretest

// RingLayout is what VMCOREINFO says of the printk ring of 5.10 and later, where
// it is apart (kernel/printk/printk_ringbuffer.h).
const RingLayout = `
	info SIZE(printk_ringbuffer)=88
	info OFFSET(printk_ringbuffer.desc_ring)=0
	info OFFSET(printk_ringbuffer.text_data_ring)=48
	info OFFSET(prb_desc_ring.count_bits)=0
	info OFFSET(prb_desc_ring.descs)=8
	info OFFSET(prb_desc_ring.infos)=16
	info OFFSET(prb_desc_ring.head_id)=24
	info OFFSET(prb_data_ring.size_bits)=0
	info OFFSET(prb_data_ring.data)=8
	info OFFSET(atomic_long_t.counter)=0
	info SIZE(prb_desc)=24
	info OFFSET(prb_desc.state_var)=0
	info OFFSET(prb_desc.text_blk_lpos)=8
	info OFFSET(prb_data_blk_lpos.begin)=0
	info OFFSET(prb_data_blk_lpos.next)=8
	info SIZE(printk_info)=88
	info OFFSET(printk_info.ts_nsec)=8
	info OFFSET(printk_info.text_len)=16
`

// OneRecord is a ring with one record, "panic" at 1 s, in the 32 KiB at 0x1004000 of
// a kernel image at 0x1000000.
const OneRecord = RingLayout + `
	info SYMBOL(prb)=ffffffff81004000
	data 0x1004000 0xffffffff81005000
	data 0x1005000 0 0xffffffff81006000 0xffffffff81007000 7
	data 0x1005030 10 0xffffffff81008000
	data 0x1006000 0x8000000000000007 0 16
	data 0x1007000 1 1000000000 5
	data 0x1008000 7 "panic"
`
