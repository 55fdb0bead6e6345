package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"time"

	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// tally counts the numbered lines of the workloads in any text that has them.
type tally struct {
	pods  map[string]*held
	bytes int64
	other int // lines that no workload wrote: a client's own words, or the kubelet's
	cut   int // lines of a workload without their end
}

// held is what there is of one pod's lines.
type held struct {
	have       []bool
	distinct   int
	duplicates int
	last       time.Time // the newest stamp
}

func newTally() *tally { return &tally{pods: make(map[string]*held)} }

// read counts the lines of a text.
func (t *tally) read(r io.Reader) error {
	lines := bufio.NewReaderSize(r, 1<<20)
	for {
		line, err := lines.ReadSlice('\n')
		t.bytes += int64(len(line))
		if len(line) > 0 {
			t.line(line)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (t *tally) file(name string) error {
	f, err := os.Open(name) //nolint:gosec // a file of this program
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // read only
	return t.read(f)
}

func (t *tally) line(line []byte) {
	at := bytes.Index(line, []byte("line "))
	if at < 0 {
		t.other++
		return
	}
	text := line[at+len("line "):]
	if len(text) < 9 || text[7] != ' ' || !bytes.HasSuffix(text, []byte(" .\n")) {
		t.cut++
		return
	}
	n := 0
	for _, c := range text[:7] {
		if c < '0' || c > '9' {
			t.cut++
			return
		}
		n = n*10 + int(c-'0')
	}
	pod, _, _ := bytes.Cut(text[8:], []byte(" "))
	h := t.pods[string(pod)]
	if h == nil {
		h = &held{}
		t.pods[string(pod)] = h
	}
	h.add(n)
	if stamp, _, ok := bundle.ParseStamp(line); ok {
		h.last = stamp
	}
}

func (h *held) add(n int) {
	for n >= len(h.have) {
		h.have = append(h.have, false)
	}
	if h.have[n] {
		h.duplicates++
		return
	}
	h.have[n] = true
	h.distinct++
}

func (h *held) has(n int) bool { return h != nil && n < len(h.have) && h.have[n] }

// merge adds what another tally counted.
func (t *tally) merge(o *tally) {
	t.bytes += o.bytes
	t.other += o.other
	t.cut += o.cut
	for pod, from := range o.pods {
		h := t.pods[pod]
		if h == nil {
			h = &held{}
			t.pods[pod] = h
		}
		h.duplicates += from.duplicates
		for n, have := range from.have {
			if have {
				h.add(n)
			}
		}
		if from.last.After(h.last) {
			h.last = from.last
		}
	}
}

// count sums up, of the lines up to written, what is there, what is there twice, and the gaps.
func (t *tally) count(written map[string]int) (kept, duplicates, gaps int) {
	for pod, lines := range written {
		h := t.pods[pod]
		in := false
		for n := 1; n <= lines; n++ {
			switch has := h.has(n); {
			case has:
				kept++
				in = false
			case !in:
				gaps++
				in = true
			}
		}
		if h != nil {
			duplicates += h.duplicates
		}
	}
	return kept, duplicates, gaps
}
