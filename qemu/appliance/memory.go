package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const memoryBlocks = "/sys/devices/system/memory"

// changeMemory asks the host for memory, then offers it some, each time waiting
// until that has happened. The host follows the console and acts on "ready to".
func (a *appliance) changeMemory() {
	// The name is 5.10's too; blocks that come later are then in use at once.
	_ = os.WriteFile(memoryBlocks+"/auto_online_blocks", []byte("online"), 0)
	for _, c := range []struct {
		name string
		sign int
	}{{"grow", 1}, {"shrink", -1}} {
		want, _ := strconv.Atoi(a.words["appliance."+c.name])
		if want == 0 {
			continue
		}
		before, changed := meminfo("MemTotal"), 0
		a.say("ready to %s by %d MiB", c.name, want)
		for range 300 {
			if changed = (meminfo("MemTotal") - before) / mib * c.sign; changed >= want {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		a.say("%s: %d MiB of %d", c.name, changed, want)
	}
	if a.words["appliance.offline"] != "" {
		a.say("offline: %s", offlineBlock())
	}
}

// offlineBlock takes one block of memory out of use, the highest that goes.
func offlineBlock() string {
	names, _ := filepath.Glob(memoryBlocks + "/memory[0-9]*")
	number := func(name string) int {
		n, _ := strconv.Atoi(strings.TrimPrefix(filepath.Base(name), "memory"))
		return n
	}
	slices.SortFunc(names, func(a, b string) int { return number(b) - number(a) })
	why := "there is no block"
	for _, name := range names {
		if err := os.WriteFile(name+"/state", []byte("offline"), 0); err != nil {
			why = err.Error()
			continue
		}
		b, _ := os.ReadFile(name + "/state")
		return fmt.Sprintf("%s is %s", filepath.Base(name), strings.TrimSpace(string(b)))
	}
	return why
}
