package exporter

import (
	"strings"
	"testing"
	"time"
)

// A log of one line without a newline, or of one that is longer than what is read at a time, begins with
// the line that it has.
func TestHeadOfOneLine(t *testing.T) {
	for name, line := range map[string]string{"no newline": "hi", "a long line": strings.Repeat("x", 40<<10) + "\n"} {
		for _, probed := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				w := newTrapped(t, nil)
				pod, c := w.pod("one-line")
				c.Print(time.Now(), line)
				if probed {
					w.kube.SetPod(pod)
					w.run(nil)
					w.until("a look at the first line", func() bool { return len(w.kube.Requests("limitBytes=")) > 0 })
					<-time.After(50 * time.Millisecond)
				}
				c.Exit()
				exit(pod, 0)
				w.kube.SetPod(pod)
				if !probed {
					w.run(nil)
				}
				if rec := w.await(1)[0]; !rec.Verdict.Complete {
					t.Errorf("%d lines, verdict %+v", rec.Lines, rec.Verdict)
				}
				w.account()
			})
		}
	}
}
