package sinktest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"github.com/kubelogexporter/kubelogexporter/sink"
)

// hooked is a body that calls a function before each read. It hides ReadAt, as a file with something
// around it would.
type hooked struct {
	r      *bytes.Reader
	before func(at int64) error
}

func (h *hooked) Read(p []byte) (int, error) {
	at := h.r.Size() - int64(h.r.Len())
	if err := h.before(at); err != nil {
		return 0, err
	}
	return h.r.Read(p[:min(len(p), 64<<10)])
}

func (h *hooked) Seek(offset int64, whence int) (int64, error) { return h.r.Seek(offset, whence) }

func testBrokenBody(t *testing.T, b sink.Bucket) {
	broken := errors.New("disk is broken")
	body := &hooked{bytes.NewReader(noise(1 << 20)), func(at int64) error {
		if at >= 500<<10 {
			return broken
		}
		return nil
	}}
	if err := b.Put(t.Context(), "broken", body); !errors.Is(err, broken) {
		t.Errorf("got %v, want the reader's own error", err)
	}
	absent(t, b, "broken")
	put(t, b, "broken", []byte("whole")) // the name is free
}

// testShrinkingBody puts a body that has less to give when it is read a second time. A bucket that
// reads once does not notice.
func testShrinkingBody(t *testing.T, b sink.Bucket) {
	whole := noise(1 << 20)
	passes := 0
	body := &hooked{bytes.NewReader(whole), func(at int64) error {
		if at == 0 {
			passes++
		}
		if passes > 1 && at >= 500<<10 {
			return io.EOF
		}
		return nil
	}}
	if err := b.Put(t.Context(), "shrinking", body); err != nil {
		absent(t, b, "shrinking")
	} else if got := get(t, b, "shrinking", 0, -1); !bytes.Equal(got, whole) {
		t.Errorf("an object of %d bytes was stored as %d", len(whole), len(got))
	}
}

func testCancelledWithinPut(t *testing.T, b sink.Bucket) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	body := &hooked{bytes.NewReader(noise(1 << 20)), func(at int64) error {
		if at >= 500<<10 {
			cancel()
		}
		return nil
	}}
	if err := b.Put(ctx, "cancelled", body); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	absent(t, b, "cancelled")
}
