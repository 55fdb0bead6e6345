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

	mu        sync.Mutex
	runs      [][]string // of each run the files, of which only the newest is served
	ended     bool       // the current run has exited
	removed   bool       // the files are gone
	followers map[*follower]bool
	changed   chan struct{}
}

// follower is one request with follow=true.
type follower struct {
	run, file int
	sent      int // of the file
	creates   int // rotations that it has not noticed yet
}

// NewContainer returns a container whose first run has begun.
func NewContainer(id func(run int) string) *Container {
	return &Container{ID: id, runs: [][]string{{""}}, followers: make(map[*follower]bool), changed: make(chan struct{})}
}

// Stamp formats a time as the kubelet does.
func Stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000000Z07:00") }

// Print adds stamped lines to the current run; the text's last line may lack its newline.
func (c *Container) Print(at time.Time, text string) { c.change(func() { c.print(at, text) }) }

func (c *Container) print(at time.Time, text string) {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(Stamp(at) + " " + line)
		at = at.Add(time.Microsecond)
	}
	files := c.runs[len(c.runs)-1]
	files[len(files)-1] += b.String()
}

// Rotate prints the last lines of the current file and begins a new one. Followers miss those lines, as a
// kubelet's do: it leaves a file for the newest one at once, without reading on to the end of the old one
// (k8s.io/cri-client/pkg/logs ReadLogs).
func (c *Container) Rotate(at time.Time, lost string) {
	c.quiet(func() {
		c.print(at, lost)
		c.rotate()
	})
}

// RotateTwice rotates two times before any follower has noticed. They never see what was printed between;
// they read the newest file, and for the second rotation read it again from its beginning.
func (c *Container) RotateTwice(at time.Time, between, newest string) {
	c.quiet(func() {
		c.rotate()
		c.print(at, between)
		c.rotate()
		c.print(at.Add(time.Millisecond), newest)
	})
}

// RotateAndExit rotates, prints to the new file and ends the run before any follower has noticed. They
// read on to the end of the old file and come to a clean end: what was printed last they never see.
func (c *Container) RotateAndExit(at time.Time, final string) {
	c.quiet(func() {
		c.rotate()
		c.print(at, final)
		c.ended = true
	})
}

// Following returns how many followers have read all there is.
func (c *Container) Following() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for f := range c.followers {
		if !c.behind(f) {
			n++
		}
	}
	return n
}

// behind says whether a follower has not read all there is. The lock is held.
func (c *Container) behind(f *follower) bool {
	return f.creates > 0 || f.sent < len(c.runs[f.run][f.file])
}

// rotate begins a new file. The lock is held.
func (c *Container) rotate() {
	run := len(c.runs) - 1
	c.runs[run] = append(c.runs[run], "")
	for f := range c.followers {
		if f.run == run {
			f.creates++
		}
	}
}

// quiet changes something when every follower has read all there is, so that it is certain what they see.
func (c *Container) quiet(f func()) {
	for {
		c.mu.Lock()
		busy := false
		for f := range c.followers {
			busy = busy || c.behind(f)
		}
		if !busy {
			break
		}
		changed := c.changed
		c.mu.Unlock()
		<-changed
	}
	f()
	c.tell()
	c.mu.Unlock()
}

// Exit ends the current run: followers come to the end.
func (c *Container) Exit() { c.change(func() { c.ended = true }) }

// Restart begins the next run.
func (c *Container) Restart() {
	c.change(func() {
		c.runs = append(c.runs, []string{""})
		c.ended = false
	})
}

// Remove unlinks the files: every new request gets the kubelet's sentence in a 200 body.
func (c *Container) Remove() { c.change(func() { c.removed = true }) }

func (c *Container) change(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
	c.tell()
}

// tell wakes all who wait for a change. The lock is held.
func (c *Container) tell() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// Serve answers a request for the log. As with a real kubelet no header comes before the first byte.
func (c *Container) Serve(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	c.mu.Lock()
	f := &follower{run: len(c.runs) - 1}
	if q.Get("previous") == "true" {
		f.run--
	}
	if f.run < 0 {
		c.mu.Unlock()
		Status(w, http.StatusBadRequest, metav1.StatusReasonBadRequest, "", fmt.Sprintf("previous terminated container %q in pod not found", q.Get("container")))
		return
	}
	f.file = len(c.runs[f.run]) - 1
	removed := c.removed
	if q.Get("follow") == "true" && !removed {
		c.followers[f] = true
		defer c.change(func() { delete(c.followers, f) })
	}
	c.mu.Unlock()
	if removed {
		_, _ = fmt.Fprintf(w, "unable to retrieve container logs for %s", c.ID(f.run))
		return
	}
	for c.step(w, r, f) {
	}
}

// step sends what there is and says whether there may be more to come.
func (c *Container) step(w http.ResponseWriter, r *http.Request, f *follower) bool {
	q := r.URL.Query()
	c.mu.Lock()
	over, changed := c.ended || f.run < len(c.runs)-1, c.changed
	if f.creates > 0 && !over {
		f.file, f.sent, f.creates = len(c.runs[f.run])-1, 0, f.creates-1
	}
	again := f.creates > 0 && !over
	text := c.runs[f.run][f.file]
	c.mu.Unlock()
	part := since(text[f.sent:], q.Get("sinceTime"))
	if n, err := strconv.Atoi(q.Get("limitBytes")); err == nil && n < len(part) {
		part, over = part[:n], true
	}
	if part != "" {
		if _, err := w.Write([]byte(part)); err != nil {
			return false
		}
	}
	if over || q.Get("follow") != "true" {
		return false
	}
	if part != "" {
		Flush(w)
	}
	if again || f.sent != len(text) {
		c.change(func() { f.sent = len(text) })
		return true
	}
	select {
	case <-changed:
		return true
	case <-r.Context().Done():
		return false
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
