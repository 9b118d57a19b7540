module github.com/ukdump/ukdump/qemu

go 1.26.0

require (
	github.com/klauspost/compress v1.20.3
	github.com/ukdump/ukdump v0.0.0
	golang.org/x/sys v0.49.0
)

replace github.com/ukdump/ukdump => ../
