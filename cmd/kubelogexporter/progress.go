package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/kubelogexporter/kubelogexporter/exporter"
)

const (
	barInterval   = 100 * time.Millisecond
	plainInterval = 5 * time.Second
	barWidth      = 24
)

// progress shows how far a command is: on a terminal as one line that is drawn again and again,
// elsewhere as a line every few seconds. Log lines written through it do not disturb the drawn line.
type progress struct {
	w     io.Writer
	style string     // bar, plain or none
	width func() int // of the terminal

	mu    sync.Mutex
	drawn string // the line on the screen
}

func newProgress(w io.Writer, style string) (*progress, error) {
	f, _ := w.(*os.File)
	terminal := f != nil && term.IsTerminal(int(f.Fd())) //nolint:gosec // a descriptor fits
	switch style {
	case "bar", "plain", "none":
	case "auto":
		style = "plain"
		if terminal {
			style = "bar"
		}
	default:
		return nil, usagef("--progress: %q is none of auto, bar, plain and none", style)
	}
	width := func() int {
		if terminal {
			if n, _, err := term.GetSize(int(f.Fd())); err == nil && n > 0 { //nolint:gosec // as above
				return n
			}
		}
		return 80
	}
	return &progress{w: w, style: style, width: width}, nil
}

// start shows what text returns until stop is called. It is in ASCII, so that its length is its width.
func (p *progress) start(text func() string) (stop func()) {
	if p.style == "none" {
		return func() {}
	}
	interval := plainInterval
	if p.style == "bar" {
		interval = barInterval
		p.draw(text())
	}
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				p.draw(text())
			case <-end:
				p.clear()
				return
			}
		}
	}()
	return func() { close(end); <-ended }
}

func (p *progress) draw(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.style == "plain" {
		fmt.Fprintln(p.w, text)
		return
	}
	text = text[:min(len(text), p.width()-1)] // a line that wraps could not be drawn over
	if text != p.drawn {
		fmt.Fprint(p.w, "\r"+text+strings.Repeat(" ", max(0, len(p.drawn)-len(text))))
		p.drawn = text
	}
}

func (p *progress) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
}

func (p *progress) erase() {
	if p.drawn != "" {
		fmt.Fprint(p.w, "\r"+strings.Repeat(" ", len(p.drawn))+"\r")
		p.drawn = ""
	}
}

// Write passes log lines on, above the drawn line.
func (p *progress) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	text := p.drawn
	p.erase()
	n, err := p.w.Write(b)
	p.redraw(text)
	return n, err
}

// print writes elsewhere, above the drawn line if that is the same terminal.
func (p *progress) print(w io.Writer, text string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	drawn := p.drawn
	p.erase()
	_, err := io.WriteString(w, text)
	p.redraw(drawn)
	return err
}

func (p *progress) redraw(text string) {
	if text != "" {
		fmt.Fprint(p.w, "\r"+text)
		p.drawn = text
	}
}

// line says how far an export is.
func line(p exporter.Progress) string {
	if p.Runs == 0 {
		return "looking for pods"
	}
	full := barWidth * p.Done / p.Runs
	s := fmt.Sprintf("[%s%s] %d of %d container runs read, %s, %s", strings.Repeat("#", full), strings.Repeat(".", barWidth-full),
		p.Done, p.Runs, count(p.Pods, "pod", "pods"), size(p.Bytes))
	if p.Spooled > 0 {
		s += fmt.Sprintf(", %d to upload", p.Spooled)
	}
	if n := len(p.Failures); n > 0 {
		s += fmt.Sprintf(", %d failed", n)
	}
	return s
}
