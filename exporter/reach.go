package exporter

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
)

// reach watches the requests for objects, and tells once when the API server cannot be reached and
// once when it can again. client-go's reflector retries refused connections without a word.
type reach struct {
	log *slog.Logger

	mu   sync.Mutex
	away bool
}

// wrap is a transport wrapper of a rest.Config.
func (r *reach) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		resp, err := next.RoundTrip(req)
		if !errors.Is(err, context.Canceled) {
			r.note(err)
		}
		return resp, err
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func (r *reach) note(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err != nil && !r.away:
		r.log.Warn("cannot reach the API server, will go on trying", "err", err)
	case err == nil && r.away:
		r.log.Info("the API server answers again")
	}
	r.away = err != nil
}
