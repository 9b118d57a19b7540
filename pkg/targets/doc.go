// Package targets stores the files of a crash dump: on a disk, in a mounted
// directory and, through the same two interfaces, on servers.
//
// Use [Open] with a URL, [Target.Create] for each file, [File.Commit] when a
// file is whole, and [Target.Close] at the end. [Parse] checks a URL without
// touching anything, for the machine that builds a capture image.
//
//	disk:///crash?dev=LABEL=CRASH&fstype=ext4&opts=noatime
//	file:///var/crash
//	sftp://kdump@server/crash?key=/etc/kdump/key&known_hosts=/etc/kdump/known_hosts
//
// # A file is either whole or visibly not
//
// A file named NAME is written as [IncompleteName](NAME) in the same
// directory: "vmcore" as "vmcore-incomplete", and a dotted name keeps its
// extension as Fedora's kdump does: "vmcore-dmesg.txt" as
// "vmcore-dmesg-incomplete.txt". Only Commit gives it its name, after its bytes
// are on stable storage. Whatever interrupts a capture leaves NAME-incomplete,
// never a NAME that holds less than was written. Commit never replaces an
// existing NAME.
//
// The package does not choose names, estimate sizes, retry on another target
// or prune old dumps. It does not hash: a dump's header is rewritten at the
// end, so only the finished bytes are worth hashing.
//
// # What every implementation promises
//
// Remote targets fit the same interfaces. This is what callers may rely on and
// what an implementer has to provide:
//
//   - Every File is an [io.Writer] with its own position, which starts at 0 and
//     which WriteAt does not move.
//   - A File that can be written at offsets is also an [io.WriterAt]; parallel
//     WriteAt calls whose ranges do not overlap are allowed, as io.WriterAt says.
//     A protocol with a round trip may cut one call into many packets in flight.
//     A stream-only protocol (FTP) has no WriteAt: such a File is given the
//     flattened format. [io.ReaderAt] is there where bytes can be read back
//     before Commit.
//   - The caller's buffer is never retained. A File that queues writes copies
//     them into a buffer of its own, of a fixed size, and blocks when it is full.
//   - A queued write may fail after the call returned. The error is kept: every
//     later call returns it, and Commit returns it whatever happened in between.
//     A File with such an error can only be closed.
//   - A lost connection is the target's own business. It keeps the bytes that
//     the server has not acknowledged, in that same bounded buffer, reconnects,
//     cuts the remote file back to the acknowledged length and goes on. It never
//     asks the caller for bytes again and never trusts the size the server tells
//     for a resume. When the buffer does not reach back far enough, the File
//     fails for good with an [Error] whose Temporary field is set: a new attempt
//     that starts anew may work. Nothing resumes across processes.
//   - The context bounds the call it is given to, not the life of the Target or
//     File. Transfers are bounded by the target's own deadline for lack of
//     progress. A context does not interrupt a system call on a local disk or on
//     a network file system that does not answer: the bound there is the process,
//     which its parent kills.
//   - A protocol without sync checks the size at Commit, which then succeeds,
//     and the File says so through [Unconfirmed].
//   - Methods of a Target are safe for concurrent use.
//
// # Space
//
// Nothing is allocated ahead of the writes. Space is asked first by the caller,
// and nobody else writes to the target in a capture kernel, so the estimate
// already knows what fallocate(2) would tell; fallocate costs a truncation and
// the conversion of unwritten extents on ext4 and xfs, writes real zeros on
// file systems without such extents, and would turn the holes a dump leaves for
// unused page descriptors into allocated blocks.
//
// vfat holds no file of 4 GiB or more: see [MaxFileSize].
package targets
