package notify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloudevents/sdk-go/v2/binding"
	ce "github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
)

const key = "logs/cluster=c/namespace=n/date=2026-11-23/p/uid/_é +.0.0123456789ab.json"

func mustNew(t *testing.T, o Options) *Notifier {
	t.Helper()
	if o.Source == "" {
		o.Source = "/kubelogexporter/c"
	}
	n, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// begin runs a Notifier and returns what stops it.
func begin(t *testing.T, n *Notifier) func() {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- n.Run(ctx) }()
	return func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// TestSDK lets the CloudEvents project's own library read what is sent, through a real server.
func TestSDK(t *testing.T) {
	events := make(chan *ce.Event, 10)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || r.URL.Path != "/in" {
			t.Errorf("%s %s", r.Method, r.URL)
		}
		m := cehttp.NewMessageFromHttpRequest(r)
		if m.ReadEncoding() != binding.EncodingStructured {
			t.Errorf("encoding %s", m.ReadEncoding())
		}
		e, err := binding.ToEvent(r.Context(), m)
		if err != nil {
			t.Error(err)
			return
		}
		events <- e
		w.WriteHeader(http.StatusAccepted)
	}))
	defer server.Close()
	n := mustNew(t, Options{
		Sink: server.URL + "/in", Archive: "s3://bucket/", MaxData: 100,
		Extensions: map[string]string{"team": "shop"},
	})
	stop := begin(t, n)
	defer stop()
	when := time.Date(2026, 11, 23, 12, 0, 0, 5, time.FixedZone("", 3600))
	record := `{"formatVersion": "1.0", "pod": {"name": "a<b"}}`
	ids := make(map[string]bool)
	for _, run := range []Run{
		{Key: key, Record: []byte(record), Time: when},
		{Key: key, Record: []byte(record), Time: when},
		{Key: key + "2", Record: []byte(`"` + strings.Repeat("x", 200) + `"`), Time: when},
	} {
		if err := n.Notify(run); err != nil {
			t.Fatal(err)
		}
		e := <-events
		if err := e.Validate(); err != nil {
			t.Error(err)
		}
		ids[e.ID()] = true
		if e.Type() != Type || e.Source() != "/kubelogexporter/c" || e.Subject() != run.Key || !e.Time().Equal(when) || e.SpecVersion() != "1.0" || e.Extensions()["team"] != "shop" {
			t.Errorf("event %s", e)
		}
		if ref := fmt.Sprint(e.Extensions()["dataref"]); !strings.HasPrefix(ref, "s3://bucket/logs/cluster=c/") || !strings.Contains(ref, "_%C3%A9%20+.0") {
			t.Errorf("dataref %s", ref)
		}
		if len(run.Record) > 100 {
			if e.Data() != nil || e.DataContentType() != "" {
				t.Errorf("a record of %d bytes came along: %s", len(run.Record), e)
			}
			continue
		}
		var got, want any
		if err := errors.Join(json.Unmarshal(e.Data(), &got), json.Unmarshal(run.Record, &want)); err != nil || e.DataContentType() != "application/json" {
			t.Errorf("%v in %s", err, e)
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("data %v, want %v", got, want)
		}
	}
	if len(ids) != 2 {
		t.Errorf("%d ids of two keys", len(ids))
	}
}

// receiver answers in memory, for tests in virtual time.
type receiver struct {
	mu     sync.Mutex
	answer func(attempt int) (int, http.Header, error)
	times  []time.Duration // of attempts, since the beginning
	start  time.Time
}

func (r *receiver) RoundTrip(req *http.Request) (*http.Response, error) {
	_, _ = io.Copy(io.Discard, req.Body)
	_ = req.Body.Close()
	r.mu.Lock()
	r.times = append(r.times, time.Since(r.start))
	attempt := len(r.times)
	r.mu.Unlock()
	code, header, err := r.answer(attempt)
	if code < 0 { // hangs
		<-req.Context().Done()
		err = req.Context().Err()
	}
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: code, Status: http.StatusText(code), Header: header, Body: io.NopCloser(strings.NewReader("x"))}, nil
}

func (r *receiver) attempts() []time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.times
}

func TestRetries(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer func(attempt int) (int, http.Header, error)
		want   Counts
		tries  int           // at least; exactly if no more than three
		last   time.Duration // the last attempt is not before
	}{
		{"taken", func(int) (int, http.Header, error) { return 204, nil, nil }, Counts{Delivered: 1}, 1, 0},
		{"away for a while", func(n int) (int, http.Header, error) {
			if n < 3 {
				return 0, nil, errors.New("connection refused")
			}
			return 200, nil, nil
		}, Counts{Delivered: 1, Retries: 2}, 3, time.Second},
		{"busy", func(n int) (int, http.Header, error) {
			if n == 1 {
				return 429, http.Header{"Retry-After": {"60"}}, nil
			}
			return 202, nil, nil
		}, Counts{Delivered: 1, Retries: 1}, 2, time.Minute},
		{"no rights yet", func(n int) (int, http.Header, error) {
			if n < 2 {
				return 403, nil, nil
			}
			return 202, nil, nil
		}, Counts{Delivered: 1, Retries: 1}, 2, 0},
		{"moved", func(int) (int, http.Header, error) {
			return 302, http.Header{"Location": {"http://elsewhere.example/"}}, nil
		}, Counts{Expired: 1}, 20, time.Hour},
		{"too large", func(int) (int, http.Header, error) { return 413, nil, nil }, Counts{Rejected: 1}, 1, 0},
		{"bad", func(int) (int, http.Header, error) { return 400, nil, nil }, Counts{Rejected: 1}, 1, 0},
		{"broken for ever", func(int) (int, http.Header, error) { return 500, nil, nil }, Counts{Expired: 1}, 20, time.Hour},
		{"hangs", func(n int) (int, http.Header, error) {
			if n == 1 {
				return -1, nil, nil
			}
			return 200, nil, nil
		}, Counts{Delivered: 1, Retries: 1}, 2, attemptTimeout},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &receiver{answer: c.answer, start: time.Now()}
				n := mustNew(t, Options{Sink: "http://sink.example/", Client: &http.Client{Transport: r, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}})
				stop := begin(t, n)
				if err := n.Notify(Run{Key: key, Record: []byte("{}")}); err != nil {
					t.Fatal(err)
				}
				time.Sleep(2 * time.Hour)
				got := n.Counts()
				if got.Retries > 10 {
					got.Retries = 0
				}
				if got != c.want {
					t.Errorf("counts %+v, want %+v", got, c.want)
				}
				times := r.attempts()
				if len(times) < c.tries || c.tries <= 3 && len(times) != c.tries || times[len(times)-1] < c.last || times[len(times)-1] > c.last+5*time.Minute {
					t.Errorf("attempts at %v", times)
				}
				stop()
			})
		})
	}
}

// TestNeverWaits: a receiver that hangs costs its events, and nobody's time.
func TestNeverWaits(t *testing.T) {
	for name, o := range map[string]Options{"events": {MaxEvents: 10}, "bytes": {MaxBytes: 12 << 10}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &receiver{answer: func(int) (int, http.Header, error) { return -1, nil, nil }, start: time.Now()}
				o.Sink, o.Client = "http://sink.example/", &http.Client{Transport: r}
				n := mustNew(t, o)
				stop := begin(t, n)
				record := []byte(`"` + strings.Repeat("x", 700) + `"`)
				for range 100 {
					if err := n.Notify(Run{Key: key, Record: record}); err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
				}
				if d := time.Since(r.start); d != 0 {
					t.Errorf("100 calls took %s", d)
				}
				if c := n.Counts(); c.Waiting+c.Dropped != 100 || c.Waiting < 10 || c.Waiting > 10+Workers {
					t.Errorf("counts %+v", c)
				}
				stop()
				if d := time.Since(r.start); d > drainTime {
					t.Errorf("the stop took %s", d)
				}
				if err := n.Notify(Run{Key: key, Record: record}); err != nil {
					t.Fatal(err)
				}
				if c := n.Counts(); c.Waiting != 0 || c.Expired+c.Dropped != 101 || n.bytes != 0 {
					t.Errorf("counts %+v, %d bytes", c, n.bytes)
				}
			})
		})
	}
}

// TestStopDelivers: what waits for its next attempt, or for a worker, gets one when the program stops.
func TestStopDelivers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{start: time.Now()}
		r.answer = func(int) (int, http.Header, error) {
			if time.Since(r.start) < time.Minute {
				return 503, http.Header{"Retry-After": {"3600"}}, nil
			}
			return 200, nil, nil
		}
		n := mustNew(t, Options{Sink: "http://sink.example/", Client: &http.Client{Transport: r}})
		stop := begin(t, n)
		for range 20 {
			if err := n.Notify(Run{Key: key, Record: []byte("{}")}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute + time.Second)
		stop()
		if c := n.Counts(); c != (Counts{Delivered: 20, Retries: Workers}) {
			t.Errorf("counts %+v", c)
		}
	})
}

func TestRefuses(t *testing.T) {
	for _, o := range []Options{
		{}, {Sink: "sink.example"}, {Sink: "ftp://sink.example"}, {Sink: "http://"}, {Sink: "http://a b/"},
		{Sink: "http://a", Source: ":"},
		{Sink: "http://a", Extensions: map[string]string{"id": "x"}},
		{Sink: "http://a", Extensions: map[string]string{"Team": "x"}},
		{Sink: "http://a", Extensions: map[string]string{"": "x"}},
	} {
		if o.Source == "" && o.Extensions != nil {
			o.Source = "/x"
		}
		if _, err := New(o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
	n := mustNew(t, Options{Sink: "http://a"})
	for _, run := range []Run{{Key: "", Record: []byte("{}")}, {Key: "k", Record: []byte("{")}, {Key: "k"}} {
		if err := n.Notify(run); err == nil {
			t.Errorf("%+v was taken", run)
		}
	}
}

func TestFromEnv(t *testing.T) {
	env := map[string]string{"K_SINK": "http://broker.example/ns/default", "K_CE_OVERRIDES": `{"extensions":{"team":"shop","stage":"prod"}}`}
	o, err := Options{Extensions: map[string]string{"stage": "test"}}.FromEnv(func(name string) string { return env[name] })
	if err != nil || o.Sink != env["K_SINK"] || !maps.Equal(o.Extensions, map[string]string{"team": "shop", "stage": "test"}) {
		t.Errorf("%+v, %v", o, err)
	}
	o, err = Options{Sink: "http://mine"}.FromEnv(func(string) string { return "" })
	if err != nil || o.Sink != "http://mine" || o.Extensions != nil {
		t.Errorf("%+v, %v", o, err)
	}
	env["K_CE_OVERRIDES"] = "{"
	if _, err := (Options{}).FromEnv(func(name string) string { return env[name] }); err == nil {
		t.Error("half a document was taken")
	}
}

// What a receiver stumbles over holds up no other event.
func TestStumbles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var stumbled atomic.Int64
		client := &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			body, err := io.ReadAll(r.Body)
			code := http.StatusOK
			if strings.Contains(string(body), "poison") {
				stumbled.Add(1)
				code = http.StatusInternalServerError
			}
			return &http.Response{StatusCode: code, Status: http.StatusText(code), Header: http.Header{}, Body: io.NopCloser(strings.NewReader(""))}, err
		})}
		n, err := New(Options{Sink: "http://in.example", Source: "/x", Client: client})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = n.Run(ctx) }()
		for i := range 2 * Workers {
			_ = n.Notify(Run{Key: fmt.Sprint("poison-", i), Record: []byte("{}")})
		}
		synctest.Wait()
		for i := range 10 {
			_ = n.Notify(Run{Key: fmt.Sprint("good-", i), Record: []byte("{}")})
		}
		synctest.Wait()
		if c := n.Counts(); c.Delivered != 10 || c.Waiting != 2*Workers {
			t.Errorf("%+v", c)
		}
		time.Sleep(time.Minute)
		if stumbled.Load() < 4*Workers {
			t.Errorf("tried %d times", stumbled.Load())
		}
		cancel()
		<-done
		if c := n.Counts(); c.Expired != 2*Workers || c.Waiting != 0 {
			t.Errorf("%+v", c)
		}
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
