package exporter

import (
	"testing"
	"time"

	"github.com/kubelogexporter/kubelogexporter/exporter/kubetest"
)

// An HTTP/2 server that wants to be rid of its client: no log suffers.
func TestTrapGoAway(t *testing.T) {
	t.Parallel()
	away := kubetest.GoAway()
	for how, traps := range map[string][]kubetest.Trap{
		"on every read": {away, away, away},
		"and the stream is cut": {
			func(h kubetest.LogHandler) kubetest.LogHandler { return away(kubetest.BreakAfter(40)(h)) },
			kubetest.BreakAfter(60),
		},
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			w := newTrapped(t, kubetest.NewHTTP2(t))
			logs := make(map[string]string)
			w.kube.NextLogs(traps...)
			for _, name := range []string{"a", "bb", "ccc"} {
				pod, log := w.dead(name, 3)
				logs[name] = log
				w.kube.SetPod(pod)
			}
			w.run(nil)
			for _, rec := range w.await(3) {
				w.want(rec, logs[rec.Pod.Name])
			}
			w.account()
		})
	}
}

// A stream that is open when the server sends GOAWAY goes on, and what comes after it uses another connection.
func TestTrapGoAwayUnderStream(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Options){"dying": nil, "live": live} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newTrapped(t, kubetest.NewHTTP2(t))
			pod, c := w.pod("streamed")
			c.Print(time.Now(), "one\n")
			w.kube.SetPod(pod)
			w.run(change)
			w.until("its first look, or stream", func() bool { return len(w.kube.Requests("/log")) > 0 })
			if change == nil {
				w.dies(pod)
			}
			w.until("a stream", func() bool { return c.Following() > 0 })
			w.kube.NextLogs(kubetest.GoAway(), nil, kubetest.GoAway())
			dead, log := w.dead("b", 3)
			w.kube.SetPod(dead)
			w.want(w.await(1)[0], log)
			if w.kube.Traps() > 1 {
				t.Error("no GOAWAY was sent under the stream")
			}
			c.Print(time.Now(), "two\n")
			if streams := w.kube.Requests("follow=true"); len(streams) != 1 {
				t.Errorf("streams %q", streams)
			}
			c.Exit()
			exit(pod, 0)
			w.kube.SetPod(pod)
			if rec := byPod(w.await(2), pod.Name); w.words(rec) != "one two" || !rec.Verdict.Complete {
				t.Errorf("log %q, verdict %+v, requests %q", w.words(rec), rec.Verdict, w.kube.Requests("/log"))
			}
			w.account()
		})
	}
}
