package bundle

import "encoding/binary"

// The zstd seekable format, version 0.1.0: a skippable frame at the end of the object that lists the
// frames before it, and a footer by which a reader finds it from the end.
// https://github.com/facebook/zstd/blob/dev/contrib/seekable_format/zstd_seekable_compression_format.md
const (
	seekFrameMagic  = 0x184D2A5E
	seekFooterMagic = 0x8F92EAB1
	seekChecksums   = 1 << 7 // in the descriptor: each entry has a checksum
	seekHeaderSize  = 8
	seekEntrySize   = 12
	seekFooterSize  = 9
)

type seekEntry struct {
	stored, raw uint32
	// checksum is the low half of the XXH64 of the frame's text, little-endian. A zstd frame ends with
	// this very number, so it costs nothing.
	checksum [4]byte
}

func seekTableSize(frames int) int64 {
	return seekHeaderSize + seekEntrySize*int64(frames) + seekFooterSize
}

func appendSeekTable(b []byte, entries []seekEntry) []byte {
	le := binary.LittleEndian
	b = le.AppendUint32(b, seekFrameMagic)
	b = le.AppendUint32(b, uint32(seekTableSize(len(entries))-seekHeaderSize))
	for _, e := range entries {
		b = le.AppendUint32(b, e.stored)
		b = le.AppendUint32(b, e.raw)
		b = append(b, e.checksum[:]...)
	}
	b = le.AppendUint32(b, uint32(len(entries)))
	b = append(b, seekChecksums)
	return le.AppendUint32(b, seekFooterMagic)
}
