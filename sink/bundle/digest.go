package bundle

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// A record ends with a line of its own that holds the SHA-256 of everything before that line. It is of
// bytes and not of what they mean: so a reader can check a record of a later minor version, whose
// fields it does not know, and so can anybody with head and sha256sum.
const (
	digestOpen  = `  "digest": "`
	digestClose = "\"\n}\n"
	digestEnd   = len(digestOpen) + 2*sha256.Size + len(digestClose)
)

// hasDigest says whether records of a version end with a digest: all but 1.0 do.
func hasDigest(version string) bool { return minorOf(version) >= 1 }

// minorOf returns the minor number of a version 1.x, and -1 for anything else.
func minorOf(version string) int {
	_, minor, _ := strings.Cut(version, ".")
	n, err := strconv.Atoi(minor)
	if err != nil || checkVersion(version) != nil {
		return -1
	}
	return n
}

// appendDigest ends an encoded record with its digest.
func appendDigest(b []byte) []byte {
	b = append(bytes.TrimSuffix(b, []byte("\n}\n")), ",\n"...)
	sum := sha256.Sum256(b)
	b = append(b, digestOpen...)
	b = hex.AppendEncode(b, sum[:])
	return append(b, digestClose...)
}

// ErrDigest says that a record does not fit its digest.
var ErrDigest = errors.New("it was changed after it was written")

// checkDigest compares the bytes of a record with the digest at their end.
func checkDigest(b []byte) error {
	n := len(b) - digestEnd
	if n < 0 || !bytes.HasPrefix(b[n:], []byte(digestOpen)) || !bytes.HasSuffix(b, []byte(digestClose)) {
		return fmt.Errorf("it does not end with its digest, so %w", ErrDigest)
	}
	sum := sha256.Sum256(b[:n])
	said := string(b[n+len(digestOpen) : len(b)-len(digestClose)])
	if is := hex.EncodeToString(sum[:]); said != is {
		return fmt.Errorf("its bytes have the sha256 %s and its digest says %q, so %w", is, said, ErrDigest)
	}
	return nil
}
