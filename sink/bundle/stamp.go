package bundle

import "time"

const (
	// minStamp and maxStamp are the lengths of the shortest and the longest stamp. The kubelet prints
	// RFC 3339 with exactly nine fractional digits, in the zone of its node.
	minStamp = len("2006-01-02T15:04:05.000000000Z")
	maxStamp = len("2006-01-02T15:04:05.000000000+07:00")
	// headSize is what must be known of a line to tell its stamp: the stamp and the space behind it.
	headSize = maxStamp + 1
)

// ParseStamp reads the stamp at the beginning of a line that was fetched with timestamps=true. It
// returns the time in UTC and the length of the stamp with the space behind it. ok is false if the
// line does not begin with a stamp and a space.
func ParseStamp(line []byte) (t time.Time, n int, ok bool) {
	if len(line) <= minStamp || line[4] != '-' || line[7] != '-' || line[10] != 'T' ||
		line[13] != ':' || line[16] != ':' || line[19] != '.' {
		return time.Time{}, 0, false
	}
	year, ok1 := number(line[0:4])
	month, ok2 := number(line[5:7])
	day, ok3 := number(line[8:10])
	hour, ok4 := number(line[11:13])
	minute, ok5 := number(line[14:16])
	second, ok6 := number(line[17:19])
	nano, ok7 := number(line[20:29])
	if !(ok1 && ok2 && ok3 && ok4 && ok5 && ok6 && ok7) ||
		month < 1 || month > 12 || hour > 23 || minute > 59 || second > 59 {
		return time.Time{}, 0, false
	}
	offset, end, ok := zone(line)
	if !ok || end >= len(line) || line[end] != ' ' {
		return time.Time{}, 0, false
	}
	t = time.Date(year, time.Month(month), day, hour, minute, second, nano, time.UTC)
	if t.Day() != day { // time.Date makes March of February 30
		return time.Time{}, 0, false
	}
	return t.Add(-offset), end + 1, true
}

// zone reads the zone of a stamp and returns where it ends.
func zone(line []byte) (offset time.Duration, end int, ok bool) {
	if line[minStamp-1] == 'Z' {
		return 0, minStamp, true
	}
	if len(line) < maxStamp || line[32] != ':' {
		return 0, 0, false
	}
	hours, ok1 := number(line[30:32])
	minutes, ok2 := number(line[33:35])
	if !ok1 || !ok2 || hours > 23 || minutes > 59 {
		return 0, 0, false
	}
	offset = time.Duration(hours)*time.Hour + time.Duration(minutes)*time.Minute
	switch line[minStamp-1] {
	case '+':
		return offset, maxStamp, true
	case '-':
		return -offset, maxStamp, true
	}
	return 0, 0, false
}

func number(digits []byte) (int, bool) {
	n := 0
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return n, true
}
