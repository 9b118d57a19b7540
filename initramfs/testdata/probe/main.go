// Probe tells how it was compiled.
package main

import (
	"fmt"
	"runtime"
	"time"
)

func callers(pcs []uintptr) int { return runtime.Callers(1, pcs) }

func main() {
	var pcs [1]uintptr
	f, _ := runtime.CallersFrames(pcs[:callers(pcs[:])]).Next()
	fmt.Printf("inlined %v, timer channel %d, %s/%s\n", f.Func == nil, cap(time.NewTimer(0).C), runtime.GOOS, runtime.GOARCH)
}
