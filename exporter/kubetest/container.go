package kubetest

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Container plays the log of one container as a kubelet serves it. Its Serve is a LogHandler.
type Container struct {
	ID func(run int) string // the container ID of a run, for the kubelet's sentences

	mu      sync.Mutex
	runs    []string
	ended   bool // the current run has exited
	removed bool // the files are gone
	changed chan struct{}
}

// NewContainer returns a container whose first run has begun.
func NewContainer(id func(run int) string) *Container {
	return &Container{ID: id, runs: []string{""}, changed: make(chan struct{})}
}

// Stamp formats a time as the kubelet does.
func Stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000000Z07:00") }

// Print adds stamped lines to the current run; the text's last line may lack its newline.
func (c *Container) Print(at time.Time, text string) {
	c.change(func() {
		for line := range strings.Lines(text) {
			c.runs[len(c.runs)-1] += Stamp(at) + " " + line
			at = at.Add(time.Microsecond)
		}
	})
}

// Exit ends the current run: followers come to the end.
func (c *Container) Exit() { c.change(func() { c.ended = true }) }

// Restart begins the next run.
func (c *Container) Restart() {
	c.change(func() {
		c.runs = append(c.runs, "")
		c.ended = false
	})
}

// Remove unlinks the files: every new request gets the kubelet's sentence in a 200 body.
func (c *Container) Remove() { c.change(func() { c.removed = true }) }

func (c *Container) change(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
	close(c.changed)
	c.changed = make(chan struct{})
}

// Serve answers a request for the log.
func (c *Container) Serve(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	c.mu.Lock()
	run := len(c.runs) - 1
	if q.Get("previous") == "true" {
		run--
	}
	removed := c.removed
	c.mu.Unlock()
	if run < 0 {
		Status(w, http.StatusBadRequest, metav1.StatusReasonBadRequest, "", fmt.Sprintf("previous terminated container %q in pod not found", q.Get("container")))
		return
	}
	w.WriteHeader(http.StatusOK)
	Flush(w)
	if removed {
		_, _ = fmt.Fprintf(w, "unable to retrieve container logs for %s", c.ID(run))
		return
	}
	sent := 0
	for {
		c.mu.Lock()
		text, over, changed := since(c.runs[run], q.Get("sinceTime")), c.ended || run < len(c.runs)-1, c.changed
		c.mu.Unlock()
		if n, err := strconv.Atoi(q.Get("limitBytes")); err == nil && n < len(text) {
			text, over = text[:n], true
		}
		_, err := w.Write([]byte(text[sent:]))
		sent = len(text)
		if over || err != nil || q.Get("follow") != "true" {
			return
		}
		Flush(w)
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

// since leaves out the lines before a whole second, as the API does.
func since(text, from string) string {
	at, err := time.Parse(time.RFC3339, from)
	if err != nil {
		return text
	}
	var b strings.Builder
	for line := range strings.Lines(text) {
		stamp, _, _ := strings.Cut(line, " ")
		if t, err := time.Parse(time.RFC3339Nano, stamp); err == nil && t.Before(at) {
			continue
		}
		b.WriteString(line)
	}
	return b.String()
}
