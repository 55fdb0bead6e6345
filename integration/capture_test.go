package integration

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// 40 pods that print a last line on SIGTERM are deleted at once: every last line is archived.
func TestGracefulDeletes(t *testing.T) {
	const pods = 40
	c := newCluster(t)
	b := c.export(objectStore(t))
	for i := range pods {
		c.create(shell(fmt.Sprintf("dying-%d", i), `trap 'echo last words; exit 7' TERM; echo started; while true; do sleep 0.2; done`))
	}
	c.until(3*time.Minute, "40 running pods", func() bool { return c.inPhase(corev1.PodRunning) == pods })
	err := c.kube.CoreV1().Pods(c.namespace).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	recs := c.await(b, pods, time.Minute)
	complete, doubted := 0, 0
	for _, rec := range recs {
		text := c.text(b, rec)
		if !bytes.HasSuffix(text, []byte(" last words\n")) {
			t.Errorf("%s: the last line is missing from %q", rec.Pod.Name, text)
		}
		if rec.State.ExitCode == nil || *rec.State.ExitCode != 7 {
			t.Errorf("%s: state %+v", rec.Pod.Name, rec.State)
		}
		if rec.Verdict.Complete {
			complete++
			continue
		}
		t.Logf("%s: verdict %+v, reads %+v, texts %q", rec.Pod.Name, rec.Verdict, rec.Capture.Reads, rec.Capture.KubeletErrors)
		if servedClean(rec) > 1 {
			doubted++
		}
	}
	t.Logf("%d of %d records complete", complete, len(recs))
	if complete < pods*9/10 || doubted > 1 { // a busy kubelet may be quicker to remove a container than to serve its log twice
		t.Errorf("%d of %d records complete, and %d more were served twice", complete, len(recs), doubted)
	}
	if len(recs) != pods {
		t.Errorf("%d records for %d runs", len(recs), pods)
	}
}

// Pods that are deleted one by one, as a rollout does: their containers are removed quickly, and yet it is seen that
// nothing is missing. Sometimes the kubelet is quicker.
func TestGracefulDeletesOneByOne(t *testing.T) {
	const pods = 20
	c := newCluster(t)
	buckets := c.exportBy("final", "live")
	for i := range pods {
		c.create(shell(fmt.Sprintf("one-%d", i), goodbye))
	}
	c.until(2*time.Minute, "the pods to run", func() bool { return c.inPhase(corev1.PodRunning) == pods })
	time.Sleep(time.Second) // they have said hello
	for i := range pods {
		c.remove(fmt.Sprintf("one-%d", i))
		time.Sleep(time.Second)
	}
	for name, b := range buckets {
		complete, doubted := 0, 0
		for _, rec := range c.ended(b, pods) {
			if got := c.said(b, rec); got != "hello goodbye" {
				t.Errorf("%s: %s: log %q", name, rec.Pod.Name, got)
			}
			if rec.Verdict.Complete {
				complete++
				continue
			}
			t.Logf("%s: %s: %+v, reads %+v, texts %q", name, rec.Pod.Name, rec.Verdict.Tail, rec.Capture.Reads, rec.Capture.KubeletErrors)
			if servedClean(rec) > 1 {
				doubted++
			}
		}
		t.Logf("%s: %d of %d complete", name, complete, pods)
		// How often the kubelet is quicker is the machine's choice. Then it serves the log once.
		if complete < pods/2 || doubted > pods/4 {
			t.Errorf("%s: %d of %d complete, and %d more were served twice", name, complete, pods, doubted)
		}
	}
}

// servedClean is how many reads of a log have come to a clean end.
func servedClean(rec *bundle.Record) (n int) {
	for _, read := range rec.Capture.Reads {
		if read.Result == "ok" {
			n++
		}
	}
	return n
}

// podRun names a run of a pod's only container.
type podRun struct {
	pod     string
	restart int32
}

// 10 pods that crash at once and restart: every run has one record, and the log of the right run.
func TestCrashLoops(t *testing.T) {
	t.Parallel() // it waits most of the time
	const pods, ended = 10, 3
	c := newCluster(t)
	buckets := c.exportBy("live")
	buckets["final"] = c.export(objectStore(t))
	for i := range pods {
		pod := shell(fmt.Sprintf("crash-%d", i), `echo "boot $(cat /proc/sys/kernel/random/uuid)"; exit 1`)
		pod.Spec.RestartPolicy = corev1.RestartPolicyAlways
		c.create(pod)
	}
	c.until(3*time.Minute, "three restarts of each pod", func() bool {
		return !slices.ContainsFunc(c.list(), func(pod corev1.Pod) bool {
			s := pod.Status.ContainerStatuses
			return len(s) == 0 || s[0].RestartCount < ended
		})
	})
	for name, b := range buckets {
		var recs []*bundle.Record
		c.until(2*time.Minute, "the records of each pod's first three runs", func() bool {
			recs = slices.DeleteFunc(c.records(b), func(rec *bundle.Record) bool { return rec.State.Running })
			first := make(map[podRun]bool)
			for _, rec := range recs {
				if rec.Container.RestartCount < ended {
					first[podRun{rec.Pod.Name, rec.Container.RestartCount}] = true
				}
			}
			return len(first) == pods*ended
		})
		t.Run(name, func(t *testing.T) { c.checkCrashes(t, b, recs) })
	}
}

// checkCrashes checks the records of pods that print one line and crash.
func (c *cluster) checkCrashes(t *testing.T, b *timed, all []*bundle.Record) {
	recs := make(map[podRun]*bundle.Record)
	ids := make(map[string]bool)
	for _, rec := range all {
		r := podRun{rec.Pod.Name, rec.Container.RestartCount}
		if ids[rec.Container.ContainerID] || recs[r] != nil {
			t.Errorf("%v is archived twice", r)
		}
		ids[rec.Container.ContainerID] = true
		recs[r] = rec
	}
	lost, complete := 0, 0
	boots := make(map[string]podRun)
	for r, rec := range recs {
		text := string(c.text(b, rec))
		if rec.Verdict.Complete {
			complete++
		}
		switch {
		case len(rec.Objects) == 0 && goneBeforeRead(rec, recs[podRun{r.pod, r.restart + 1}]):
			lost++
			continue
		case strings.Count(text, "boot ") != 1:
			t.Errorf("%v: log %q, verdict %+v, reads %+v", r, text, rec.Verdict, rec.Capture.Reads)
		}
		if other, twice := boots[text]; twice {
			for _, rec := range []*bundle.Record{recs[other], rec} {
				t.Errorf("%v and %v have the same log: state %+v, verdict %+v, reads %+v", r, other, rec.State, rec.Verdict, rec.Capture.Reads)
			}
		}
		boots[text] = r
	}
	t.Logf("%d of %d logs complete; %d had been removed by the kubelet before they could be read", complete, len(recs), lost)
	if complete < (len(recs)-lost)/2 { // on a node that is busy the status comes late, and proofs with it
		t.Errorf("%d of %d logs complete", complete, len(recs)-lost)
	}
}

// goneBeforeRead says whether a run without a log could not have been had. The first run is followed by the second without
// any back-off. A second after that one has died too the kubelet removes the log of the first, and what it served before
// may have been either's. A later run's is served for a whole back-off, unless its end is told after that.
func goneBeforeRead(rec, next *bundle.Record) bool {
	if rec.Verdict.Head.Cause == bundle.CauseUnseenRuns { // when the status told of anything, the second one had died too
		return rec.Container.RestartCount == 0 && len(rec.Capture.Reads) == 0
	}
	if rec.Verdict.Head.Cause != bundle.CauseReplacedBeforeRead || next == nil {
		return false
	}
	for _, read := range rec.Capture.Reads {
		late := !read.Time.Before(*next.State.StartedAt)
		switch {
		case read.RawBytes > 0 && read.Result == "ok":
			return late // it may have been the next one's
		case rec.Container.RestartCount > 0 && !late:
			return false
		}
	}
	return true
}

// Every pod of a Job is archived, also when the Job is gone right after.
func TestJob(t *testing.T) {
	t.Parallel() // it waits most of the time
	const completions = 6
	c := newCluster(t)
	b := c.export(objectStore(t))
	n, parallel, ttl := int32(completions), int32(3), int32(5)
	_, err := c.kube.BatchV1().Jobs(c.namespace).Create(t.Context(), &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: "job"},
		Spec: batchv1.JobSpec{Completions: &n, Parallelism: &parallel, TTLSecondsAfterFinished: &ttl,
			Template: corev1.PodTemplateSpec{Spec: shell("x", "echo done $HOSTNAME").Spec}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.await(b, completions, 2*time.Minute)
	c.until(2*time.Minute, "the Job's TTL", func() bool { return len(c.list()) == 0 })
	recs := c.records(b)
	if len(recs) != completions {
		t.Errorf("%d records for %d pods", len(recs), completions)
	}
	for _, rec := range recs {
		if !strings.Contains(string(c.text(b, rec)), "done "+rec.Pod.Name) {
			t.Errorf("%s: log %q", rec.Pod.Name, c.text(b, rec))
		}
		if len(rec.Pod.Owners) != 1 || rec.Pod.Owners[0].Kind != "Job" {
			t.Errorf("owners %+v", rec.Pod.Owners)
		}
	}
}

// What is archived is, byte for byte, what kubectl logs --timestamps prints.
func TestBytes(t *testing.T) {
	scripts := map[string]string{
		"one-byte-lines": `i=0; while [ $i -lt 2000 ]; do echo x; i=$((i+1)); done`,
		"line-20k":       `head -c 20480 /dev/zero | tr '\0' a; echo; echo after`,
		"line-5m":        `head -c 5242880 /dev/zero | tr '\0' b; echo; echo after`,
		"empty":          `true`,
		"binary":         `head -c 300000 /dev/urandom`,
		"no-newline":     `echo first; printf 'last without newline'`,
		"both-streams":   `for i in 1 2 3 4 5; do echo out $i; echo err $i >&2; done`,
	}
	c := newCluster(t)
	b := c.export(objectStore(t))
	for name, script := range scripts {
		c.create(shell(name, `PATH=/bin:/busybox; for a in head tr cat printf; do alias $a="/bin/busybox $a"; done; `+script))
	}
	for _, rec := range c.await(b, len(scripts), 2*time.Minute) {
		want, got := c.kubectlLogs(rec.Pod.Name), c.text(b, rec)
		if !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes archived, kubectl prints %d", rec.Pod.Name, len(got), len(want))
		}
		if rec.Pod.Name != "empty" && len(want) < 10 {
			t.Errorf("%s printed only %q", rec.Pod.Name, want)
		}
		if rec.Verdict.Tail.State != bundle.Proven || rec.Verdict.Middle.State != bundle.Proven {
			t.Errorf("%s: verdict %+v", rec.Pod.Name, rec.Verdict)
		}
	}
}

// 40 pods end at the same moment: the records are in the bucket soon after. On a small machine most
// of the time goes by until the kubelet has reported the ends; that share is logged, and ours, from
// the first read on, has a bound of its own.
func TestLatency(t *testing.T) {
	const pods = 40
	c := newCluster(t)
	b := c.export(objectStore(t))
	start := time.Now().Add(25 * time.Second).Unix()
	for i := range pods {
		c.create(shell(fmt.Sprintf("timed-%d", i), fmt.Sprintf(`sleep $((%d - $(date +%%s))); echo end`, start)))
	}
	var total, theirs, ours []time.Duration
	for _, rec := range c.await(b, pods, 3*time.Minute) {
		key, err := bundle.KeyOf(rec)
		if err != nil {
			t.Fatal(err)
		}
		if rec.LastStamp == nil || len(rec.Capture.Reads) == 0 {
			t.Fatalf("%s has no lines: state %+v, verdict %+v, reads %+v", rec.Pod.Name, rec.State, rec.Verdict, rec.Capture.Reads)
		}
		exit, read, stored := *rec.LastStamp, rec.Capture.Reads[0].Time, b.at(key.Record()) // it exits right after its only line
		total = append(total, stored.Sub(exit))
		theirs = append(theirs, read.Sub(exit))
		ours = append(ours, stored.Sub(read))
	}
	median := func(what string, d []time.Duration) (mid, last time.Duration) {
		slices.Sort(d)
		t.Logf("%s: min %v, median %v, max %v", what, d[0], d[len(d)/2], d[len(d)-1])
		return d[len(d)/2], d[len(d)-1]
	}
	median("exit to first read", theirs)
	if mid, _ := median("first read to record", ours); mid > 1500*time.Millisecond {
		t.Errorf("the exporter's own share has a median of %v, more than 1.5 s", mid)
	}
	if _, last := median("exit to record", total); last > 10*time.Second {
		t.Errorf("the last record came after %v, more than 10 s", last)
	}
}
