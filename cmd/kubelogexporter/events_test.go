package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2"
	"github.com/cloudevents/sdk-go/v2/binding"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/rogpeppe/go-internal/testscript"
	corev1 "k8s.io/api/core/v1"

	"github.com/kubelogexporter/kubelogexporter/exporter"
	"github.com/kubelogexporter/kubelogexporter/sink"
)

// receiver keeps the CloudEvents that are sent to it.
type receiver struct {
	mu     sync.Mutex
	events []*cloudevents.Event
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	e, err := binding.ToEvent(req.Context(), cehttp.NewMessageFromHttpRequest(req))
	if err == nil {
		err = e.Validate()
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
	w.WriteHeader(http.StatusAccepted)
}

func (r *receiver) list() []*cloudevents.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}

// receive VAR starts a receiver of CloudEvents.
func receive(t *testing.T, ts *testscript.TestScript, args []string) {
	r := &receiver{}
	s := httptest.NewServer(r)
	t.Cleanup(s.Close)
	ts.Setenv(args[0], s.URL)
	receivers(ts)[args[0]] = r
}

func receivers(ts *testscript.TestScript) map[string]*receiver {
	return ts.Value("receivers").(map[string]*receiver)
}

// told VAR DIR N waits until a receiver was told of N runs, each once, and compares what it was told with the
// records in an archive. It prints the events.
func told(ts *testscript.TestScript, _ bool, args []string) {
	r := receivers(ts)[args[0]]
	for end := time.Now().Add(20 * time.Second); ; <-time.After(20 * time.Millisecond) {
		if fmt.Sprint(len(r.list())) == args[2] {
			break
		}
		if time.Now().After(end) {
			ts.Fatalf("%d events after 20 s, want %s: %v", len(r.list()), args[2], r.list())
		}
	}
	seen := make(map[string]bool)
	for _, e := range r.list() {
		if seen[e.ID()] {
			ts.Fatalf("event %s came twice", e.ID())
		}
		seen[e.ID()] = true
		record, err := os.ReadFile(filepath.Join(ts.MkAbs(args[1]), e.Subject()))
		ts.Check(err)
		var got, want any
		ts.Check(json.Unmarshal(record, &want))
		ts.Check(json.Unmarshal(e.Data(), &got))
		if !reflect.DeepEqual(got, want) {
			ts.Fatalf("the event says\n%s\nand the record\n%s", e.Data(), record)
		}
		fmt.Fprintf(ts.Stdout(), "%s %s %s %v\n", e.Type(), e.Source(), e.Subject(), e.Extensions())
	}
}

// event MODE TYPE URL TOKEN NAMESPACE POD sends what Knative's ApiServerSource tells of a pod: itself, or for
// types with "ref" a reference to it. MODE is binary or structured.
func event(ts *testscript.TestScript, neg bool, args []string) {
	mode, kind, url, token := args[0], args[1], args[2], args[3]
	pod := clusterOf(ts).pods[args[4]+"/"+args[5]].Pod.DeepCopy()
	pod.APIVersion, pod.Kind = "v1", "Pod"
	var data any = pod
	if strings.Contains(kind, ".ref.") { // which has no UID
		data = corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name}
	}
	e := cloudevents.NewEvent()
	e.SetID("1")
	e.SetSource("https://10.96.0.1:443")
	e.SetType(kind)
	e.SetSubject("/apis/v1/namespaces/" + pod.Namespace + "/pods/" + pod.Name)
	ts.Check(e.SetData(cloudevents.ApplicationJSON, data))
	ctx := binding.WithForceBinary(context.Background())
	if mode == "structured" {
		ctx = binding.WithForceStructured(context.Background())
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, nil)
	ts.Check(err)
	ts.Check(cehttp.WriteRequest(ctx, (*binding.EventMessage)(&e), r))
	var body bytes.Buffer
	_, err = body.ReadFrom(r.Body)
	ts.Check(err)
	send(ts, neg, url, token, r.Header, body.String())
}

// An event says where in S3 the record is, for what is too large to be sent along.
func TestEventNamesTheRecord(t *testing.T) {
	r := &receiver{}
	server := httptest.NewServer(r)
	defer server.Close()
	t.Setenv("K_SINK", server.URL)
	bucket, err := sink.OpenS3(t.Context(), sink.S3Options{Bucket: "logs", Prefix: "prod", Endpoint: "http://127.0.0.1:1", Region: "us-east-1"})
	if err != nil {
		t.Fatal(err)
	}
	o := exporter.Options{Cluster: "c", Bucket: bucket}
	events, err := (&captureFlags{sink: sinkFlags{sink: "s3://logs/prod"}}).notifier(&o, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	stop := events.start()
	o.Archived("cluster=c/_app.0.json", []byte("{}"))
	stop()
	if list := r.list(); len(list) != 1 || list[0].Extensions()["dataref"] != "s3://logs/prod/cluster=c/_app.0.json" {
		t.Errorf("events %v", list)
	}
}
