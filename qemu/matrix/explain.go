package main

import (
	"fmt"
	"slices"
	"strings"
)

// rule is a known difference between our kept pages and makedumpfile 1.7.8's.
type rule struct {
	name string
	why  string
	ours bool // it explains pages that only we keep, else pages that only they keep
	of   func(s *subject, p, head page) bool
}

// rules are tried in order. A page that none explains fails the matrix.
func rules() []rule {
	return []rule{}
}

// explanation counts the differing pages of a core by rule.
type explanation struct {
	byRule  map[string]int
	unknown []string // pages that no rule explains, bounded
	failed  int      // how many those are
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
			e.byRule[rules()[i].name]++
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
