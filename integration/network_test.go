package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kubelogexporter/kubelogexporter/exporter"
	"github.com/kubelogexporter/kubelogexporter/exporter/kubetest"
	"github.com/kubelogexporter/kubelogexporter/integration/s3server"
	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/archive"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// TestBadNetwork puts Toxiproxy between an exporter and a real MinIO, and takes a fault away when the exporter
// has met it for a while. Meanwhile pods end. Afterwards every run is archived, each object in one version, and
// every byte of them is what its record says.
func TestBadNetwork(t *testing.T) {
	t.Parallel() // it waits most of the time
	s := s3server.ForTest(t, s3server.MinIO)
	proxies := startToxiproxy(t)
	for name, fault := range map[string]struct {
		toxics []toxic
		down   bool // nobody listens
		lasts  time.Duration
		drains bool // the fault hinders, and does not stop
		locked bool // the bucket locks its objects
	}{
		"latency":              {toxics: []toxic{{"latency", "upstream", map[string]int{"latency": 300, "jitter": 250}}}, drains: true},
		"slow link":            {toxics: []toxic{{"bandwidth", "upstream", map[string]int{"rate": 64}}}, drains: true},
		"small pieces":         {toxics: []toxic{{"slicer", "upstream", map[string]int{"average_size": 700, "size_variation": 600, "delay": 500}}}, drains: true},
		"reset in the request": {toxics: []toxic{{"reset_peer", "upstream", map[string]int{"timeout": 50}}}, lasts: 8 * time.Second},
		"cut in the request":   {toxics: []toxic{{"limit_data", "upstream", map[string]int{"bytes": 100 << 10}}}, lasts: 8 * time.Second},
		"cut in the answer":    {toxics: []toxic{{"limit_data", "downstream", map[string]int{"bytes": 100}}}, lasts: 8 * time.Second},
		"cut, locked objects":  {toxics: []toxic{{"limit_data", "downstream", map[string]int{"bytes": 100}}}, lasts: 8 * time.Second, locked: true},
		"nobody listens":       {down: true, lasts: 8 * time.Second},
		// Longer than the exporter waits for a connection on which nothing moves.
		"black hole": {toxics: []toxic{{"timeout", "upstream", map[string]int{"timeout": 0}}}, lasts: 70 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newNetworkWorld(t, s, proxies, fault.locked)
			w.end(3) // while all is well
			w.await(3, 30*time.Second)
			for _, toxic := range fault.toxics {
				w.proxy.add(t, toxic)
			}
			w.proxy.enable(t, !fault.down)
			w.end(12)
			if !fault.drains {
				<-time.After(fault.lasts)
				if n := len(w.records()); n == 15 {
					t.Error("the fault was not felt")
				}
				if !strings.Contains(w.log.String(), "cannot upload") && !strings.Contains(w.log.String(), "holding") {
					t.Errorf("nothing was said of it:\n%s", w.log.String())
				}
				w.proxy.enable(t, true)
				for _, toxic := range fault.toxics {
					w.proxy.remove(t, toxic)
				}
			}
			w.await(15, 2*time.Minute)
			w.check(15)
		})
	}
}

// networkWorld is an exporter between an API server of our own and a bucket behind a proxy.
type networkWorld struct {
	t      *testing.T
	kube   *kubetest.Server
	proxy  *proxy
	direct *sink.S3 // the bucket without the proxy
	client *minio.Client
	bucket string
	// objects are the options that objects are stored with.
	objects sink.ObjectOptions
	log     *syncBuffer
	pods    int
}

func newNetworkWorld(t *testing.T, s *s3server.Server, proxies *toxiproxy, locked bool) *networkWorld {
	t.Helper()
	w := &networkWorld{t: t, kube: kubetest.New(t), bucket: fmt.Sprintf("network-%x", rand.Uint32()), log: &syncBuffer{}}
	u, err := url.Parse(s.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	w.client, err = minio.New(u.Host, &minio.Options{Creds: credentials.NewStaticV4(s.AccessKey, s.SecretKey, ""), Region: "us-east-1"})
	if err == nil {
		err = w.client.MakeBucket(t.Context(), w.bucket, minio.MakeBucketOptions{ObjectLocking: locked})
	}
	if err == nil && !locked { // a bucket that locks has versions
		err = w.client.EnableVersioning(t.Context(), w.bucket)
	}
	if err != nil {
		t.Fatal(err)
	}
	w.direct = openBucket(t, s, w.bucket, "", sink.ObjectOptions{})
	if locked {
		w.objects = sink.ObjectOptions{LockMode: "governance", LockFor: time.Hour}
	}
	w.proxy = proxies.create(t, w.bucket, u.Host)
	behind := *s
	behind.Endpoint = "http://" + w.proxy.Listen
	e, err := exporter.New(exporter.Options{
		Kube: w.kube.Config(), Bucket: openBucket(t, &behind, w.bucket, "", w.objects), Spool: t.TempDir(), Cluster: "test", Version: "test",
		Log: slog.New(slog.NewTextHandler(w.log, nil)), Grace: 10 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, e.Close()); err != nil {
			t.Errorf("exporter: %v", err)
		}
	})
	return w
}

// end makes pods and ends them. Each third one has a long log that does not compress well.
func (w *networkWorld) end(pods int) {
	for range pods {
		w.pods++
		i := w.pods
		id := fmt.Sprintf("containerd://%064x", i)
		at := time.Now().Add(-3 * time.Second)
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprintf("pod-%d", i), UID: types.UID(fmt.Sprintf("00000000-0000-0000-0000-%012d", i))},
			Spec:       corev1.PodSpec{NodeName: "node", Containers: []corev1.Container{{Name: "app"}}},
			Status: corev1.PodStatus{Phase: corev1.PodFailed, ContainerStatuses: []corev1.ContainerStatus{{
				Name: "app", ContainerID: id,
				State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
					ContainerID: id, ExitCode: 1, StartedAt: metav1.NewTime(at), FinishedAt: metav1.NewTime(at.Add(time.Second)),
				}},
			}}},
		}
		text := logText(at, i)
		w.kube.Log("shop", pod.Name, "app", func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write(text) })
		w.kube.SetPod(pod)
	}
}

func logText(at time.Time, i int) []byte {
	lines := 5
	if i%3 == 0 {
		lines = 5000
	}
	rnd := rand.New(rand.NewPCG(uint64(i), 1)) //nolint:gosec // not a secret
	var text bytes.Buffer
	for n := range lines {
		fmt.Fprintf(&text, "%s line %d of %d: %016x%016x%016x\n", kubetest.Stamp(at.Add(time.Duration(n)*100*time.Microsecond)), n, i, rnd.Uint64(), rnd.Uint64(), rnd.Uint64())
	}
	return text.Bytes()
}

// records returns the keys of all records, as they are stored.
func (w *networkWorld) records() []string {
	w.t.Helper()
	var keys []string
	for o, err := range w.direct.List(w.t.Context(), bundle.NamespacePrefix("test", "shop"), sink.ListOptions{}) {
		if err != nil {
			w.t.Fatal(err)
		}
		if strings.HasSuffix(o.Key, ".json") {
			keys = append(keys, o.Key)
		}
	}
	return keys
}

func (w *networkWorld) await(n int, limit time.Duration) {
	w.t.Helper()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(limit); len(w.records()) < n; <-tick.C {
		if time.Now().After(end) {
			w.t.Fatalf("%d of %d records within %s:\n%s", len(w.records()), n, limit, w.log.String())
		}
	}
}

// check looks at every byte that is stored.
func (w *networkWorld) check(runs int) {
	w.t.Helper()
	total, err := archive.New(w.direct).Verify(w.t.Context(), archive.VerifyOptions{Level: archive.LevelData},
		func(f archive.Finding) { w.t.Errorf("verify: %s %s: %v", f.Kind, f.Key, f.Err) })
	if err != nil || total.Runs != int64(runs) || total.Objects != int64(runs) {
		w.t.Errorf("verify: %+v, %v", total, err)
	}
	for o := range w.client.ListObjectsIter(w.t.Context(), w.bucket, minio.ListObjectsOptions{Recursive: true}) {
		if o.Err != nil {
			w.t.Fatal(o.Err)
		}
		if n := versions(w.t, w.client, w.bucket, o.Key); n != 1 {
			w.t.Errorf("%s has %d versions", o.Key, n)
		}
		if w.objects.LockMode != "" && !strings.HasPrefix(o.Key, ".") {
			w.locked(o.Key)
		}
	}
}

// locked checks that an object cannot be deleted for as long as was asked for.
func (w *networkWorld) locked(key string) {
	w.t.Helper()
	mode, until, err := w.client.GetObjectRetention(w.t.Context(), w.bucket, key, "")
	if err != nil || *mode != minio.Governance || time.Until(*until) < 50*time.Minute {
		w.t.Errorf("%s: retention %v until %v, %v", key, mode, until, err)
	}
	info, err := w.client.StatObject(w.t.Context(), w.bucket, key, minio.StatObjectOptions{})
	if err == nil {
		err = w.client.RemoveObject(w.t.Context(), w.bucket, key, minio.RemoveObjectOptions{VersionID: info.VersionID})
	}
	if err == nil {
		w.t.Errorf("%s: the version was removed that is locked", key)
	}
}
