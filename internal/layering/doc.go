// Package layering holds the rules of the house: which package may import
// which, and what no source file may hold. It has no use outside its own test,
// which go test ./... runs.
//
// A new package gets its floor in the table that Floors returns. The rules look at
// the files themselves rather than at one build of them, so that they hold for
// every architecture and build tag.
package layering
