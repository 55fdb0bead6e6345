package nodelog

import (
	"bytes"
	"time"
)

const (
	// secondLen is the part of a stamp that stays the same for all lines of one second.
	secondLen = len("2006-01-02T15:04:05")
	// stampOut is how the kubelet prints stamps, RFC3339NanoFixed in k8s.io/cri-client/pkg/logs;
	// the runtime writes time.RFC3339Nano, which has no trailing zeros.
	stampOut = "2006-01-02T15:04:05.000000000Z07:00"
	// maxHeader is how far into a line its stamp, stream and tags may reach. A header of today has at
	// most 45 bytes; the kubelet knows no limit, but then it holds whole lines in memory.
	maxHeader = 4 << 10
)

// The streams, as indices.
const (
	stdout = iota
	stderr
)

// parser turns the lines of CRI log files into what the kubelet prints of them with timestamps. It
// follows parseCRILog, write and ReadLogs of k8s.io/cri-client/pkg/logs/logs.go (v0.37.2), also where
// that is odd: pieces of stdout and stderr are joined to one line as they come, and an entry without
// content makes the next one begin with a stamp. Docker's json-file format, which the kubelet reads
// too, is not read here: its lines count as malformed.
type parser struct {
	state state
	cur   entry
	some  bool // the entry in progress has content

	glued bool // the next entry continues a printed line, so it gets no stamp
	cut   bool // a file ended in the middle of a full line: a newline is due before anything else

	// The second of the latest stamp, and the zone behind its fraction, as read and as printed, with
	// the blank. Stamps of one second differ in the fraction only, so they need no parsing.
	second          [secondLen]byte
	zone, zoneOut   []byte
	at              time.Time // the stamp that was parsed last, which has that second
	first           time.Time // the very first stamp
	last            time.Time // at, when a file ended
	begun           bool      // a stamp of this file was parsed
	open            [2]bool   // the stream's last entry was a piece of a line
	lines           [2]int64
	malformed, cuts int64
	backwards       int64 // files that begin well before the end of the one before
}

type state int

const (
	atHeader state = iota
	inContent
	inMalformed
)

// entry is one line of the file.
type entry struct {
	stream  int
	partial bool
}

// convert appends the text of src to dst. It leaves the end of src unused if that is part of a
// header: at most maxHeader bytes, which must come again with more behind them.
func (p *parser) convert(dst, src []byte) (out []byte, used int) {
	pos := 0
	for pos < len(src) {
		switch p.state {
		case atHeader:
			n, ok := 0, false
			if dst, n, ok = p.header(dst, src[pos:]); !ok {
				return dst, pos
			}
			pos += n
		case inContent:
			dst, pos = p.content(dst, src, pos)
		case inMalformed:
			end := bytes.IndexByte(src[pos:], '\n')
			if end < 0 {
				return dst, len(src)
			}
			pos += end + 1
			p.state = atHeader
		}
	}
	return dst, pos
}

// end takes what convert left unused at the end of a file. The kubelet prints a last line without a
// newline as it stands. If another file follows, such a line was cut off, by a full disk or a crash;
// it is ended then, so that the next line keeps its stamp. A partial line may still be continued, unless
// its next part may be missing.
func (p *parser) end(rest []byte, broken bool) {
	switch {
	case p.state == inContent:
		p.cuts++
		p.glued = p.some && p.cur.partial
		p.cut = !p.cur.partial
	case p.state == inMalformed:
		p.cuts++
	case len(rest) > 0:
		p.cuts++
		p.malformed++
	}
	if broken && p.glued {
		p.glued, p.cut = false, true
	}
	p.state = atHeader
	p.last, p.begun = p.at, false
	p.zone = p.zone[:0] // the next stamp is to be parsed
}

func (p *parser) content(dst, src []byte, pos int) ([]byte, int) {
	end := bytes.IndexByte(src[pos:], '\n')
	if end < 0 {
		p.some = true
		return append(dst, src[pos:]...), len(src)
	}
	end += pos
	switch {
	case !p.cur.partial:
		dst = append(dst, src[pos:end+1]...)
		p.glued = false
	default:
		dst = append(dst, src[pos:end]...)
		p.glued = p.some || end > pos
	}
	p.state = atHeader
	return dst, end + 1
}

// header takes the header of an entry off src and appends the stamp, if the entry begins a printed
// line. It is not ok if the header is not complete.
func (p *parser) header(dst, src []byte) (out []byte, n int, ok bool) {
	if out, n, ok = p.quick(dst, src); ok {
		return out, n, true
	}
	line := src[:min(len(src), maxHeader)]
	whole := len(line) == maxHeader
	if end := bytes.IndexByte(line, '\n'); end >= 0 {
		line, whole = line[:end], true
	}
	stamp, rest, found := bytes.Cut(line, []byte{' '})
	stream, rest, found2 := bytes.Cut(rest, []byte{' '})
	tags, _, found3 := bytes.Cut(rest, []byte{' '})
	if !found || !found2 || !found3 {
		if whole {
			p.malformed++
			p.state = inMalformed
		}
		return dst, 0, whole
	}
	e := entry{}
	switch string(stream) {
	case "stdout":
	case "stderr":
		e.stream = stderr
	default:
		stamp = nil
	}
	t, err := time.Parse(time.RFC3339Nano, string(stamp))
	if err != nil {
		p.malformed++
		p.state = inMalformed
		return dst, 0, true
	}
	tag, _, _ := bytes.Cut(tags, []byte{':'}) // "forward compatible": the first tag counts
	e.partial = string(tag) == "P"
	printed := t.AppendFormat(nil, stampOut)
	p.remember(stamp, printed, t)
	if dst = p.begin(dst, e); !p.glued {
		dst = append(append(dst, printed...), ' ')
	}
	return dst, len(stamp) + 1 + len(stream) + 1 + len(tags) + 1, true
}

// quick is header for an entry as the runtimes write it, with a stamp in the second of the latest.
func (p *parser) quick(dst, src []byte) (out []byte, n int, ok bool) {
	if len(p.zone) == 0 || len(src) < secondLen+1 || string(src[:secondLen]) != string(p.second[:]) {
		return dst, 0, false
	}
	i, digits := secondLen, 0
	if src[i] == '.' {
		for i++; i < len(src) && src[i]-'0' <= 9; i++ {
			digits++
		}
		if digits == 0 || digits > 9 {
			return dst, 0, false
		}
	}
	fraction := src[i-digits : i]
	const tagged = len("stdout F ")
	if len(src) < i+len(p.zone)+tagged || string(src[i:i+len(p.zone)]) != string(p.zone) {
		return dst, 0, false
	}
	i += len(p.zone)
	var e entry
	switch string(src[i : i+tagged]) {
	case "stdout F ":
	case "stderr F ":
		e.stream = stderr
	case "stdout P ":
		e.partial = true
	case "stderr P ":
		e.stream, e.partial = stderr, true
	default:
		return dst, 0, false
	}
	if dst = p.begin(dst, e); !p.glued {
		dst = append(dst, p.second[:]...)
		dst = append(dst, '.')
		dst = append(dst, fraction...)
		dst = append(dst, "000000000"[digits:]...)
		dst = append(dst, p.zoneOut...)
	}
	return dst, i + tagged, true
}

func (p *parser) begin(dst []byte, e entry) []byte {
	if p.cut {
		dst = append(dst, '\n')
		p.cut = false
	}
	if !p.open[e.stream] {
		p.lines[e.stream]++
	}
	p.open[e.stream] = e.partial
	p.cur, p.some, p.state = e, false, inContent
	return dst
}

// remember keeps what quick needs of a stamp that was parsed and printed.
func (p *parser) remember(stamp, printed []byte, t time.Time) {
	if p.first.IsZero() {
		p.first = t
	}
	// Two goroutines of the runtime stamp the lines of the two streams, and clocks are set: a minute
	// is more than that, and less than the hour by which names in local time can go back.
	if !p.begun && t.Before(p.last.Add(-time.Minute)) {
		p.backwards++
	}
	p.at, p.begun = t, true
	if len(stamp) <= secondLen || string(stamp[:secondLen]) != string(printed[:secondLen]) {
		return // an unusual way to write it
	}
	zone := stamp[secondLen:]
	if zone[0] == '.' {
		zone = bytes.TrimLeft(zone[1:], "0123456789")
	}
	if len(zone) == 0 || (zone[0] != 'Z' && zone[0] != '+' && zone[0] != '-') {
		return
	}
	copy(p.second[:], stamp)
	p.zone = append(append(p.zone[:0], zone...), ' ')
	p.zoneOut = append(append(p.zoneOut[:0], printed[len("2006-01-02T15:04:05.000000000"):]...), ' ')
}
