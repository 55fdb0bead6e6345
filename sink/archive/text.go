package archive

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// text reads the text of a log from a frame on, object after object, and checks it against the record.
type text struct {
	ctx     context.Context //nolint:containedctx // an io.Reader has no other way to be stopped
	bucket  sink.Bucket
	objects []bundle.Object
	at      place // where to begin
	next    int   // how many objects were begun, from at.object on
	cur     *part
	err     error
}

func (t *text) Read(p []byte) (int, error) {
	for t.err == nil {
		if t.cur == nil {
			if t.at.object+t.next == len(t.objects) {
				t.err = io.EOF
				break
			}
			t.err = t.open()
			continue
		}
		n, err := t.cur.read(p)
		if err == nil {
			return n, nil
		}
		closeErr := t.cur.close()
		t.cur = nil
		if errors.Is(err, io.EOF) {
			err = closeErr
		}
		t.err = err
		if n > 0 {
			return n, nil
		}
	}
	return 0, t.err
}

// Close ends the reading. It may be called at any point.
func (t *text) Close() error {
	t.err = errClosed
	if t.cur == nil {
		return nil
	}
	err := t.cur.close()
	t.cur = nil
	return err
}

// open begins the next object: the first one at its frame, all others at their beginning.
func (t *text) open() error {
	o := &t.objects[t.at.object+t.next]
	var offset, raw int64
	if t.next == 0 {
		offset, raw = t.at.offset, t.at.raw
	}
	t.next++
	_, _, _, c, err := bundle.ParseKey(o.Key)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	body, err := t.bucket.Open(t.ctx, o.Key, offset, -1)
	if err != nil {
		return fmt.Errorf("open log %s: %w", o.Key, err)
	}
	p := &part{object: o, body: body, stored: offset, raw: raw}
	if raw == 0 {
		p.hash = sha256.New()
	}
	if p.text, err = bundle.NewLogReader(storedReader{p}, c); err != nil {
		_ = body.Close()
		return err
	}
	t.cur = p
	return nil
}

// part is one object, or the rest of one from a frame on.
type part struct {
	object      *bundle.Object
	body        io.ReadCloser
	bodyErr     error // what the bucket failed with
	text        *bundle.LogReader
	stored, raw int64     // where in the object and in its text
	hash        hash.Hash // nil unless it is read from its beginning
}

func (p *part) read(b []byte) (int, error) {
	n, err := p.text.Read(b)
	p.raw += int64(n)
	if p.hash != nil {
		p.hash.Write(b[:n])
	}
	switch {
	case p.raw > p.object.RawBytes:
		return 0, p.damaged(fmt.Errorf("it holds more than %d bytes of text", p.object.RawBytes))
	case err == nil:
		return n, nil
	case p.bodyErr != nil:
		return n, fmt.Errorf("read log %s: %w", p.object.Key, p.bodyErr)
	case !errors.Is(err, io.EOF):
		return n, p.damaged(err)
	case p.raw < p.object.RawBytes:
		return n, p.damaged(fmt.Errorf("it ends after %d of %d bytes of text", p.raw, p.object.RawBytes))
	case p.stored != p.object.StoredBytes:
		return n, p.damaged(fmt.Errorf("it has %d stored bytes, not %d", p.stored, p.object.StoredBytes))
	case p.hash != nil && hex.EncodeToString(p.hash.Sum(nil)) != p.object.RawSHA256:
		return n, p.damaged(errors.New("its text has another sha256 than its record says"))
	}
	return n, io.EOF
}

func (p *part) damaged(err error) error { return &DamagedError{Key: p.object.Key, Err: err} }

func (p *part) close() error {
	_ = p.text.Close()
	if err := p.body.Close(); err != nil {
		return fmt.Errorf("close log %s: %w", p.object.Key, err)
	}
	return nil
}

// storedReader passes the stored bytes on, counts them and remembers why they ended.
type storedReader struct{ p *part }

func (s storedReader) Read(b []byte) (int, error) {
	n, err := s.p.body.Read(b)
	s.p.stored += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		s.p.bodyErr = err
	}
	return n, err
}
