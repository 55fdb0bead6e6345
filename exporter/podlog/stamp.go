package podlog

import (
	"bytes"
	"time"
)

// maxStamp is the longest stamp the kubelet prints: RFC 3339 with nine digits and a numeric zone.
const maxStamp = len("2006-01-02T15:04:05.000000000+07:00")

// parseStamp reads the stamp that begins a line of a log fetched with timestamps=true. The kubelet
// prints exactly nine fractional digits and the zone of its node, then one space
// (k8s.io/cri-client/pkg/logs: timeFormatOut).
func parseStamp(line []byte) (time.Time, bool) {
	if len(line) > maxStamp+1 {
		line = line[:maxStamp+1]
	}
	i := bytes.IndexByte(line, ' ')
	if i < len("2006-01-02T15:04:05.000000000Z") || line[19] != '.' || !digits(line[20:29]) {
		return time.Time{}, false
	}
	if zone := line[29]; zone != 'Z' && zone != '+' && zone != '-' {
		return time.Time{}, false
	}
	t, err := time.Parse(time.RFC3339Nano, string(line[:i]))
	return t, err == nil
}

func digits(b []byte) bool {
	for _, c := range b {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}
