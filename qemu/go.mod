module github.com/ukdump/ukdump/qemu

go 1.26.0

require (
	github.com/klauspost/compress v1.20.3
	github.com/ukdump/ukdump v0.0.0
	golang.org/x/crypto v0.58.0
	golang.org/x/sys v0.49.0
)

require (
	github.com/anchore/go-lzo v0.1.1 // indirect
	github.com/kr/fs v0.1.0 // indirect
	github.com/pkg/sftp v1.13.12 // indirect
)

replace github.com/ukdump/ukdump => ../
