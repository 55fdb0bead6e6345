package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

func TestSize(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{
		0: "0B", 1023: "1023B", 1024: "1.0KiB", 1536: "1.5KiB", 102348: "99.9KiB", 102349: "100KiB",
		10 << 20: "10.0MiB", 74500000: "71.0MiB", 1 << 40: "1.0TiB", 1<<63 - 1: "8192PiB",
	} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %s, want %s", n, got, want)
		}
	}
}

// Whatever a kubeconfig calls a cluster, keys take what it becomes.
func TestClusterName(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"kind-kind": "kind-kind",
		"arn:aws:eks:eu-west-1:1234:cluster/Prod": "arn-aws-eks-eu-west-1-1234-cluster-prod",
		"gke_project_europe-west1-b_main":         "gke-project-europe-west1-b-main",
		"https://api.Cluster.example:6443":        "https---api.cluster.example-6443",
		"..a..-b-.":                               "a.b",
		"":                                        "default",
		"ü":                                       "default",
		"0123456789012345678901234567890123456789012345678901234567890123-x": "2345678901234567890123456789012345678901234567890123-x",
	} {
		got := clusterName(name)
		if err := bundle.CheckCluster(got); err != nil {
			t.Errorf("clusterName(%q): %v", name, err)
		}
		if got != want && len(name) < 64 {
			t.Errorf("clusterName(%q) = %q, want %q", name, got, want)
		}
	}
}

func FuzzClusterName(f *testing.F) {
	f.Add("arn:aws:eks:eu-west-1:1234:cluster/Prod")
	f.Add("0123456789012345678901234567890123456789012345678901234567890-.-x")
	f.Fuzz(func(t *testing.T, name string) {
		if err := bundle.CheckCluster(clusterName(name)); err != nil {
			t.Errorf("clusterName(%q): %v", name, err)
		}
	})
}

func TestVerdict(t *testing.T) {
	t.Parallel()
	proven := bundle.Part{State: bundle.Proven}
	late := bundle.Part{State: bundle.Unproven, Cause: bundle.CauseNotWitnessed}
	still := bundle.Part{State: bundle.Unproven, Cause: bundle.CauseStillRunning}
	rotated := bundle.Part{State: bundle.Lost, Cause: bundle.CauseRotated}
	hole := bundle.Part{State: bundle.Lost, Cause: bundle.CauseJoinFailed}
	gone := bundle.Part{State: bundle.Lost, Cause: bundle.CauseNodeLost}
	for _, c := range []struct {
		head, middle, tail bundle.Part
		running            bool
		short, long        string
	}{
		{proven, proven, proven, false, "complete", ""},
		{late, proven, proven, false, "head unproven", "head of the log unproven (not_witnessed)"},
		{late, proven, late, false, "head, tail unproven", "head, tail of the log unproven (not_witnessed)"},
		{rotated, proven, late, false, "head lost: rotated", "head of the log lost (rotated); tail of the log unproven (not_witnessed)"},
		{rotated, hole, proven, false, "head, middle lost: rotated, join_failed", "head, middle of the log lost (rotated; join_failed)"},
		{gone, gone, gone, false, "lost: node_lost", "the log is lost (node_lost)"},
		{proven, proven, still, true, "running", "the container had not ended when this was read"},
		{rotated, proven, still, true, "head lost: rotated", "head of the log lost (rotated); the container had not ended when this was read"},
	} {
		r := &bundle.Record{State: bundle.State{Running: c.running}, Verdict: bundle.Verdict{Head: c.head, Middle: c.middle, Tail: c.tail}}
		r.Verdict.Complete = c.short == "complete"
		if got := verdict(r); got != c.short {
			t.Errorf("verdict %q, want %q", got, c.short)
		}
		if got := lacking(r); got != c.long {
			t.Errorf("lacking %q, want %q", got, c.long)
		}
	}
}

// What tenants write into their pods does not reach the terminal as it is.
func TestTableIsPrintable(t *testing.T) {
	for _, format := range []string{"", "wide"} {
		table := newRunTable(format, false, time.Now())
		table.add(&bundle.Record{
			Namespace: "shop", Pod: bundle.Pod{Name: "cart", Owners: []bundle.Owner{{Kind: "Job", Name: "x\x1b]0;owned\x07\rshop"}}},
			State: bundle.State{Reason: "Error\x1b[2J\nshop\tforged"},
		})
		var out bytes.Buffer
		if err := table.print(&out); err != nil {
			t.Fatal(err)
		}
		if strings.ContainsAny(out.String(), "\x1b\x07\r\t") || strings.Count(out.String(), "\n") != 2 {
			t.Errorf("%q", out.String())
		}
	}
}
