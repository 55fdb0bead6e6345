package bundle

import "fmt"

// Compression says how log objects are compressed. The zero value is Zstd.
type Compression int

// The compressions. Zstd is the rule; Gzip is for readers that know no zstd.
const (
	Zstd Compression = iota
	Gzip
)

// ParseCompression reads the name of a compression, as a config gives it: zstd or gzip.
func ParseCompression(name string) (Compression, error) {
	switch name {
	case "zstd":
		return Zstd, nil
	case "gzip":
		return Gzip, nil
	}
	return 0, fmt.Errorf("parse compression: %q is neither zstd nor gzip", name)
}

// String returns the name that ParseCompression reads.
func (c Compression) String() string {
	if c == Gzip {
		return "gzip"
	}
	return "zstd"
}

// ext is the last extension of a log object's key.
func (c Compression) ext() string {
	if c == Gzip {
		return "gz"
	}
	return "zst"
}
