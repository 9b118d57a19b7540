// Package wire is what the host and the guest of a server say to each other: one
// JSON object a line, over a virtio serial port.
package wire

// Request is what the host wants. Exactly one of Script, Do and PowerOff is set.
type Request struct {
	ID       int
	Script   string `json:",omitempty"` // for sh -c, with errors on; its output is the reply
	Do       Verb   `json:",omitempty"`
	Daemon   string `json:",omitempty"`
	PowerOff bool   `json:",omitempty"`
	Seconds  int    // until the script is killed
}

// Verb is what is done to a daemon.
type Verb string

// What can be done to a daemon.
const (
	Start  Verb = "start" // and wait until it listens
	Stop   Verb = "stop"  // with SIGKILL, it and its children
	Freeze Verb = "freeze"
	Thaw   Verb = "thaw"
)

// Reply has the ID of its request.
type Reply struct {
	ID    int
	Out   string
	Error string `json:",omitempty"`
}

// MaxOut is how much of a script's output a reply has at most, in bytes.
const MaxOut = 1 << 20
