// Package pagezstd compresses one page of memory at a time into a standard zstd frame (RFC 8878), fast.
package pagezstd
