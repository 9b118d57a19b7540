package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ukdump/ukdump/pkg/memmap"
)

// rule is a known difference between our kept pages and makedumpfile 1.7.8's.
type rule struct {
	name  string
	why   string
	ours  bool         // it explains pages that only we keep, else pages that only they keep
	class memmap.Class // whose count differs for it
	of    func(s *subject, p, head page) bool
}

// rules are tried in order. A page that none explains fails the matrix.
func rules() []rule {
	return []rule{
		{
			name: "memory that is not online", class: memmap.Offline,
			why: "Nobody fills the struct pages of a section that is not online, and it may be gone: it is not read. makedumpfile does not look.",
			of: func(s *subject, p, _ page) bool {
				return p.section&sectionOnline == 0 && s.class(p.pfn) == "never read"
			},
		},
		{
			name: "tail of a kernel page", class: memmap.User, ours: true,
			why: "Since 7.1 mapping of a compound page's tail holds 0xffffffff. makedumpfile takes its bit 0 for that of anonymous memory and leaves out pages of slab, of large_kmalloc and others of the kernel.",
			of: func(_ *subject, p, head page) bool {
				const slab, largeKmalloc, untyped = 0xf5, 0xf8, 0xff // PGTY_*
				kernel := false
				switch head.mapcount >> 24 {
				case slab, largeKmalloc:
					kernel = true
				case untyped:
					kernel = head.mapping&1 == 0
				}
				return kernel && p.compound&1 != 0 && p.mapping == 0xffffffff
			},
		},
	}
}

// explanation counts the differing pages of a core by rule.
type explanation struct {
	byRule  map[string]int
	more    map[counted]int // by class and level: pages that only makedumpfile counts, less those that only we count
	unknown []string        // pages that no rule explains, bounded
	failed  int             // how many those are
}

const maxUnknown = 8

func (s *subject) explain(e *explanation, all []difference) {
	for _, d := range all {
		p, err := s.page(d.pfn)
		var head page
		if err == nil {
			head, err = s.head(p)
		}
		i := slices.IndexFunc(rules(), func(r rule) bool { return err == nil && r.ours == d.ours && r.of(s, p, head) })
		if i >= 0 {
			r, sign := rules()[i], 1
			if !r.ours {
				sign = -1
			}
			e.byRule[r.name]++
			e.more[counted{class: r.class, level: d.level}] += sign
			continue
		}
		e.failed++
		if len(e.unknown) < maxUnknown {
			who := "only makedumpfile keeps"
			if d.ours {
				who = "only we keep"
			}
			e.unknown = append(e.unknown, fmt.Sprintf("level %d: %s (class %s) %v; head %v %v", d.level, who, s.class(d.pfn), p, head, err))
		}
	}
}

func (e *explanation) String() string {
	var parts []string
	for name, n := range e.byRule {
		parts = append(parts, fmt.Sprintf("%s %d", name, n))
	}
	slices.Sort(parts)
	if e.failed > 0 {
		parts = append(parts, fmt.Sprintf("UNEXPLAINED %d", e.failed))
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}
