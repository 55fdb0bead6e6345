package bundle

import (
	"bytes"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	// MaxLastLines is how many lines of the end of its log a record shows at most.
	MaxLastLines = 20
	// MaxLastLine is how many bytes it shows of each.
	MaxLastLine = 1024
)

// scanner learns from a text that passes in chunks how many lines it has, its first and last stamp
// and its last lines. It holds some 20 KiB at most, whatever the length of the lines.
type scanner struct {
	newlines int64

	// head is the beginning of the line that the last chunk left open, as far as a record shows it.
	head    []byte
	open    bool // the text so far does not end at a line end
	decided bool // whether the open line has a stamp was looked at

	// first is the first stamp since take was called, last the last one, nil if no line that began
	// since then has one.
	first, last *time.Time

	ring [MaxLastLines][]byte // the last complete lines, each cut to lineHead
	next int                  // where the next complete line goes
	have int
}

// lineHead is a little more than is shown, so that a cut character can be told from a broken one.
const lineHead = MaxLastLine + utf8.UTFMax

// clone copies it, so that neither changes with the other.
func (s *scanner) clone() scanner {
	c := *s
	c.head = bytes.Clone(s.head)
	for i := range s.ring {
		c.ring[i] = bytes.Clone(s.ring[i])
	}
	return c
}

// feed looks at the next chunk of the text.
func (s *scanner) feed(p []byte) {
	if len(p) == 0 {
		return
	}
	s.newlines += int64(bytes.Count(p, newline))
	if s.open {
		p = s.finishOpen(p)
	}
	if len(p) == 0 {
		return
	}
	end := bytes.LastIndexByte(p, '\n') + 1
	if s.first == nil {
		s.findFirst(p)
	}
	s.findLast(p[:end])
	s.keepLines(p[:end])
	if end < len(p) {
		s.head, s.open, s.decided = append(s.head[:0], cut(p[end:], lineHead)...), true, false
		s.decide(false)
	}
}

var newline = []byte{'\n'} //nolint:gochecknoglobals // a constant

// finishOpen takes from p what belongs to the open line, and returns the rest.
func (s *scanner) finishOpen(p []byte) []byte {
	line, rest, ended := bytes.Cut(p, newline)
	s.head = append(s.head, cut(line, lineHead-len(s.head))...)
	s.decide(ended)
	if ended {
		s.keep(s.head)
		s.open = false
	}
	return rest
}

// decide looks for the stamp of the open line as soon as enough of it is there, or when no more will come.
func (s *scanner) decide(ended bool) {
	if s.decided || !ended && len(s.head) < headSize {
		return
	}
	s.decided = true
	if t, _, ok := ParseStamp(s.head); ok {
		if s.first == nil {
			s.first = &t
		}
		s.last = &t
	}
}

// findFirst looks through the lines that begin in p and are long enough to tell, from the front.
func (s *scanner) findFirst(p []byte) {
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 && len(p) < headSize {
			return // decide will see the rest of it
		}
		if t, _, ok := ParseStamp(p); ok {
			s.first = &t
			return
		}
		if i < 0 {
			return
		}
		p = p[i+1:]
	}
}

// findLast looks through complete lines, from the back.
func (s *scanner) findLast(lines []byte) {
	for len(lines) > 0 {
		start := bytes.LastIndexByte(lines[:len(lines)-1], '\n') + 1
		if t, _, ok := ParseStamp(lines[start:]); ok {
			s.last = &t
			return
		}
		lines = lines[:start]
	}
}

// keepLines remembers the last of a chunk of complete lines.
func (s *scanner) keepLines(lines []byte) {
	start := len(lines)
	for n := 0; start > 0 && n < MaxLastLines; n++ {
		start = bytes.LastIndexByte(lines[:start-1], '\n') + 1
	}
	for lines = lines[start:]; len(lines) > 0; {
		line, rest, _ := bytes.Cut(lines, newline)
		s.keep(line)
		lines = rest
	}
}

func (s *scanner) keep(line []byte) {
	s.ring[s.next] = append(s.ring[s.next][:0], cut(line, lineHead)...)
	s.next = (s.next + 1) % MaxLastLines
	s.have = min(s.have+1, MaxLastLines)
}

// take returns the stamps since the last call. The text ends here, or is cut here: the head of a
// line is never on both sides of a cut.
func (s *scanner) take() (first, last *time.Time) {
	if s.open {
		s.decide(true)
	}
	first, last = s.first, s.last
	s.first, s.last = nil, nil
	return first, last
}

// lastLines returns the last lines, an unterminated one included, as valid UTF-8.
func (s *scanner) lastLines() []string {
	var lines []string
	for i := range s.have {
		lines = append(lines, show(s.ring[(s.next-s.have+i+MaxLastLines)%MaxLastLines]))
	}
	if s.open {
		lines = append(lines, show(s.head))
	}
	return lines[max(0, len(lines)-MaxLastLines):]
}

// show cuts a line to what a record shows of it. Bytes that are not UTF-8 become U+FFFD.
func show(line []byte) string {
	text := strings.ToValidUTF8(string(line), "\uFFFD")
	if len(text) <= MaxLastLine {
		return text
	}
	end := MaxLastLine
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end]
}

func cut(p []byte, n int) []byte { return p[:min(len(p), max(n, 0))] }
