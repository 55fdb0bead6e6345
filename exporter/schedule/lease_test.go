package schedule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordination "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/rest"
)

// leaseServer is as much of an API server as one Lease needs.
type leaseServer struct {
	mu        sync.Mutex
	lease     *coordinationv1.Lease
	version   int
	forbidden bool
}

func (s *leaseServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	refuse := func(code int32, reason metav1.StatusReason) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(int(code))
		_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: "Failure", Code: code, Reason: reason, Message: string(reason)})
	}
	sent := &coordinationv1.Lease{}
	if r.Method != http.MethodGet {
		if err := json.NewDecoder(r.Body).Decode(sent); err != nil {
			refuse(http.StatusBadRequest, metav1.StatusReasonBadRequest)
			return
		}
	}
	switch {
	case s.forbidden:
		refuse(http.StatusForbidden, metav1.StatusReasonForbidden)
		return
	case r.Method != http.MethodPost && s.lease == nil:
		refuse(http.StatusNotFound, metav1.StatusReasonNotFound)
		return
	case r.Method == http.MethodPost && s.lease != nil:
		refuse(http.StatusConflict, metav1.StatusReasonAlreadyExists)
		return
	case r.Method == http.MethodPut && sent.ResourceVersion != s.lease.ResourceVersion:
		refuse(http.StatusConflict, metav1.StatusReasonConflict)
		return
	}
	if r.Method != http.MethodGet {
		s.version++
		s.lease = sent
		s.lease.ResourceVersion = strconv.Itoa(s.version)
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(s.lease)
}

func newLeaseServer(t *testing.T) (*leaseServer, coordination.LeaseInterface) {
	t.Helper()
	s := &leaseServer{}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	client, err := coordination.NewForConfig(&rest.Config{Host: server.URL, ContentConfig: rest.ContentConfig{ContentType: "application/json"}, QPS: -1})
	if err != nil {
		t.Fatal(err)
	}
	return s, client.Leases("here")
}

func TestLeaseState(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server, leases := newLeaseServer(t)
	s := NewLeaseState(leases, "starts")
	if at, err := s.Load(ctx, "a"); err != nil || !at.IsZero() {
		t.Errorf("of no lease: %v, %v", at, err)
	}
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name string
		at   time.Time
		want error
	}{
		{"a", noon, nil},
		{"b", noon.Add(-time.Minute), nil},
		{"a", noon, ErrTaken},
		{"a", noon.Add(-time.Minute), ErrTaken},
		{"a", noon.Add(time.Minute), nil},
		{"a", noon.AddDate(-1, 0, 0), nil}, // the clock was wrong by a year
	} {
		if err := s.Store(ctx, c.name, c.at); !errors.Is(err, c.want) {
			t.Errorf("store %s %s: %v", c.name, c.at, err)
		}
	}
	again := NewLeaseState(leases, "starts")
	for name, want := range map[string]time.Time{"a": noon.AddDate(-1, 0, 0), "b": noon.Add(-time.Minute), "c": {}} {
		if at, err := again.Load(ctx, name); err != nil || !at.Equal(want) {
			t.Errorf("load %s: %v, %v, want %v", name, at, err, want)
		}
	}
	server.lease.Annotations[annotationPrefix+"b"] = "yesterday"
	if _, err := again.Load(ctx, "b"); err == nil {
		t.Error("a time that is none is taken")
	}
	if err := again.Store(ctx, "b", noon); err != nil {
		t.Errorf("a time that is none is not mended: %v", err)
	}
	server.forbidden = true
	if _, err := again.Load(ctx, "a"); err == nil {
		t.Error("a refusal is not told")
	}
	if err := again.Store(ctx, "a", noon.AddDate(0, 0, 1)); err == nil || errors.Is(err, ErrTaken) {
		t.Errorf("a refusal is told as %v", err)
	}
}

// Of several processes one stores a time, and the others are told so.
func TestLeaseStateRace(t *testing.T) {
	t.Parallel()
	_, leases := newLeaseServer(t)
	for minute := range 5 {
		var won, lost atomic.Int32
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() {
				switch err := NewLeaseState(leases, "starts").Store(t.Context(), "a", time.Date(2026, 3, 1, 12, minute, 0, 0, time.UTC)); {
				case err == nil:
					won.Add(1)
				case errors.Is(err, ErrTaken):
					lost.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		if all.Wait(); won.Load() != 1 || lost.Load() != 2 {
			t.Errorf("%d won, %d lost", won.Load(), lost.Load())
		}
	}
}

// sharedState is a State that several Runners share.
type sharedState struct {
	*memState
	one sync.Mutex
}

func (s *sharedState) Store(ctx context.Context, name string, t time.Time) error {
	s.one.Lock()
	defer s.one.Unlock()
	if !t.After(s.get(name)) {
		return ErrTaken
	}
	return s.memState.Store(ctx, name, t)
}

// Two Runners start each export once, and the one that is left goes on alone.
func TestRunnersShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log journal
		o := Options{State: &sharedState{memState: newState()}}
		set := map[string]Entry{"a": {parse(t, Spec{Cron: "*/20 * * * *"}), log.export("a", time.Second)}}
		one, stopOne := begin(t, o, set)
		two, stopTwo := begin(t, o, set)
		time.Sleep(time.Hour + time.Minute)
		log.expect(t, "a@01T00:20:00+0s a@01T00:40:00+0s a@01T01:00:00+0s")
		a, b := status(t, one, "a"), status(t, two, "a")
		if a.Started+b.Started != 3 || a.Skipped+b.Skipped != 3 || a.Failed+b.Failed != 0 {
			t.Errorf("%+v\n%+v", a, b)
		}
		stopOne()
		time.Sleep(20 * time.Minute)
		log.expect(t, "a@01T01:20:00+0s")
		stopTwo()
	})
}

// Two processes, many schedules that are due in the same minute, one Lease: each is started once.
func TestLeaseStateOfManySchedules(t *testing.T) {
	t.Parallel()
	s := &leaseServer{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(2 * time.Millisecond) // as an API server takes
		s.ServeHTTP(w, r)
	}))
	defer server.Close()
	client, err := coordination.NewForConfig(&rest.Config{Host: server.URL, ContentConfig: rest.ContentConfig{ContentType: "application/json"}, QPS: -1})
	if err != nil {
		t.Fatal(err)
	}
	const schedules = 24
	var started, taken atomic.Int32
	var all sync.WaitGroup
	for range 2 {
		state := NewLeaseState(client.Leases("here"), "starts")
		for i := range schedules {
			all.Go(func() {
				switch err := state.Store(t.Context(), fmt.Sprint("export-", i), time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)); {
				case err == nil:
					started.Add(1)
				case errors.Is(err, ErrTaken):
					taken.Add(1)
				default:
					t.Error(err)
				}
			})
		}
	}
	all.Wait()
	if started.Load() != schedules || taken.Load() != schedules {
		t.Errorf("%d starts and %d refusals", started.Load(), taken.Load())
	}
}
