package targets

import (
	"cmp"
	"context"
	"io"
	"math"
	"net"
	"time"
)

// Target is a place that takes dump directories. Names are slash separated and
// relative to the path in the target's URL: printable ASCII without
// "*:<>?\| and without "..".
type Target interface {
	// Space is what an unprivileged writer could still store, in bytes, or
	// ErrSpaceUnknown.
	Space(ctx context.Context) (free uint64, err error)

	// Create starts the file name, under [IncompleteName] of it, and makes the
	// directories in front of it. It replaces an incomplete file that an
	// earlier attempt left, and refuses to start a file that is already
	// complete (errors.Is(err, fs.ErrExist)). When ctx ends while bytes of the
	// file wait for a server, the file fails.
	Create(ctx context.Context, name string) (File, error)

	// List is the contents of one directory, "" being the top, sorted by name.
	// A directory that is not there is fs.ErrNotExist.
	List(ctx context.Context, dir string) ([]Entry, error)

	// Remove takes away a file, or a directory with all that is in it. Nothing
	// there is not an error. When it returns, the removal is durable where the
	// protocol can tell.
	Remove(ctx context.Context, name string) error

	// Rename never replaces: a to that exists is fs.ErrExist.
	Rename(ctx context.Context, from, to string) error

	// Close makes everything durable and lets the target go: syncs, unmounts,
	// disconnects. It may block as long as the device or server does; the
	// process being killed is what bounds it.
	Close() error
}

// Entry is one name in a directory.
type Entry struct {
	Name    string // without directories
	Dir     bool
	Size    int64 // bytes; of a directory: meaningless
	ModTime time.Time
}

// File is a file being written. Those of disk:// and file:// are also
// io.WriterAt and io.ReaderAt. After an error of any call the file can only be
// closed: Commit returns that first error again.
type File interface {
	io.Writer

	// Commit makes the bytes durable and gives the file its name. When it
	// fails, the file keeps its incomplete name, except where the very last
	// step, the durability of the name, is what failed. Commit ends the file;
	// Close after it does nothing.
	Commit() error

	// Close without Commit leaves the incomplete file behind.
	Close() error

	// Size is one past the highest byte written so far.
	Size() int64
}

// Options are what a target needs from its surroundings.
type Options struct {
	// Log takes lines an operator should see. nil: they are dropped.
	Log func(format string, a ...any)

	// MountDir is where disk:// mounts; made if it is missing. Empty: a new
	// temporary directory, removed by Close.
	MountDir string

	// Driver, if not nil, is called with the type of a file system before it is
	// mounted, to load what the kernel needs for it. Its error is logged; the
	// mount shows whether it mattered.
	Driver func(ctx context.Context, fstype string) error

	// Dial connects to servers. nil: a net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	// Moved, if not nil, is called, by any goroutine, when a server of sftp:// or
	// ftp:// has taken bytes that it did not have, or given some back: a call of
	// a File may take long for many of them. What is sent again does not count.
	Moved func()

	// Stall is how long a server may do nothing before its connection is given
	// up. 0: 30 s. It bounds the lack of progress, not a transfer.
	Stall time.Duration

	// Reconnect is how long a target that can resume tries to get back a
	// connection that it lost, before the file fails. 0: 3 minutes.
	Reconnect time.Duration
}

const (
	defaultStall     = 30 * time.Second
	defaultReconnect = 3 * time.Minute
)

func (o Options) stall() time.Duration     { return cmp.Or(o.Stall, defaultStall) }
func (o Options) reconnect() time.Duration { return cmp.Or(o.Reconnect, defaultReconnect) }

func (o Options) logf(format string, a ...any) {
	if o.Log != nil {
		o.Log(format, a...)
	}
}

func (o Options) moved() {
	if o.Moved != nil {
		o.Moved()
	}
}

func (o Options) driver(ctx context.Context, fstype string) {
	if o.Driver == nil {
		return
	}
	if err := o.Driver(ctx, fstype); err != nil {
		o.logf("driver for %s: %v", fstype, err)
	}
}

// Open connects to the target. The deadline of ctx bounds the wait for a device
// that has not appeared yet, and the connecting; without one it may wait for
// ever. Nothing is written but the directory that the URL names, if missing.
func Open(ctx context.Context, url string, opts Options) (Target, error) {
	s, err := Parse(url)
	if err != nil {
		return nil, err
	}
	for _, sc := range schemes() {
		if sc.name == s.Scheme {
			return sc.open(ctx, s, opts)
		}
	}
	panic("targets: parsed scheme " + s.Scheme + " is not in the table")
}

// scheme is one kind of target. Those without functions are known words that
// this build leaves out.
type scheme struct {
	name  string
	form  string // what a URL of it looks like, for error messages
	parse func(u *rawURL) (Spec, error)
	open  func(ctx context.Context, s Spec, opts Options) (Target, error)

	port    int                   // TCP port of the server, where the URL has none
	modules func(s Spec) []string // nil: none; see Spec.Modules
}

// schemes is the table: a new target adds its line here and its file.
func schemes() []scheme {
	return []scheme{
		{name: "disk", form: "disk:///DIR?dev=LABEL=NAME", parse: parseDisk, open: openDisk},
		{name: "file", form: "file:///DIR", parse: parseFile, open: openFile},
		{name: "raw", form: "raw:///dev/NAME", parse: parseRaw, open: openRaw},
		{name: "nfs", form: "nfs://HOST/EXPORT/DIR", parse: parseNFS, open: openNFS, port: nfsPort, modules: nfsModules},
		{name: "cifs", form: "cifs://USER@HOST/SHARE/DIR?password-file=FILE", parse: parseCIFS, open: openCIFS, port: cifsPort, modules: cifsModules},
		{name: "sftp", form: "sftp://USER@HOST/DIR?key=FILE&known_hosts=FILE", parse: parseSFTP, open: openSFTP, port: sshPort},
		{name: "ftp", form: "ftp://USER@HOST/DIR?password-file=FILE", parse: parseFTP, open: openFTP, port: ftpPort},
		{name: "ftps", form: "ftps://USER@HOST/DIR?password-file=FILE&fingerprint=SHA256:SUM", parse: parseFTPS, open: openFTPS, port: ftpPort},
	}
}

// MaxFileSize is the size in bytes that no file on t can pass, because of the
// format of the file system; math.MaxInt64 when there is no such limit, or none
// is known.
func MaxFileSize(t Target) int64 {
	if l, ok := t.(interface{ maxFileSize() int64 }); ok {
		return l.maxFileSize()
	}
	return math.MaxInt64
}

// SyncTime is how long Commit may wait for f's server to write what it has to its
// disk, without anything that moves; 0 where that does not depend on the size.
func SyncTime(f File) time.Duration {
	if s, ok := f.(interface{ syncTime() time.Duration }); ok {
		return s.syncTime()
	}
	return 0
}

// Unconfirmed tells why a file that was committed without error may still not
// be on stable storage: the protocol has no way to ask. Empty: it is.
func Unconfirmed(f File) string {
	if u, ok := f.(interface{ unconfirmed() string }); ok {
		return u.unconfirmed()
	}
	return ""
}
