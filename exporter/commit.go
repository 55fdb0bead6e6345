package exporter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// errSpooled says that this very run is in the spool already, sealed before and not shipped yet, and that ours
// tells of no more.
var errSpooled = errors.New("already in the spool")

// places lets one at a time change what a record in the spool names, or ship it.
type places struct {
	mu   sync.Mutex
	held map[string]chan struct{} // closed when it is free again
}

// hold waits until nobody else holds a record's place.
func (p *places) hold(key string) (release func()) {
	for {
		p.mu.Lock()
		busy, ok := p.held[key]
		if !ok {
			if p.held == nil {
				p.held = make(map[string]chan struct{})
			}
			free := make(chan struct{})
			p.held[key] = free
			p.mu.Unlock()
			return func() {
				p.mu.Lock()
				defer p.mu.Unlock()
				delete(p.held, key)
				close(free)
			}
		}
		p.mu.Unlock()
		<-busy
	}
}

// commit writes the log objects and then the record to the spool. If the run has a record there, of an earlier
// process that could not see its end, say, the one that tells of more stays.
func (c *capture) commit(rec *bundle.Record) (string, error) {
	if c.out != nil {
		if err := c.out.seal(rec); err != nil {
			return "", err
		}
	}
	run, err := bundle.KeyOf(rec)
	if err != nil {
		return "", err
	}
	key := run.Record()
	defer c.e.places.hold(key)()
	spooled, err := c.e.spooled(key)
	if errors.Is(err, errUnreadable) {
		if err := c.e.ship.setAsideRecord(key, err); err != nil {
			return "", err
		}
		spooled, err = c.e.spooled(key) // what is in its place now
	}
	switch {
	case errors.Is(err, sink.ErrNotFound):
		if c.out != nil {
			if err := c.out.publish(rec); err != nil {
				return "", err
			}
		}
		return key, putRecord(c.e.spool, key, rec)
	case err != nil:
		return "", err
	case !fuller(rec, spooled):
		return key, errSpooled
	default:
		return key, c.replace(key, rec, spooled)
	}
}

// errUnreadable says that a record's bytes are none of a record.
var errUnreadable = errors.New("it cannot be read")

// spooled reads a record in the spool.
func (e *Exporter) spooled(key string) (*bundle.Record, error) {
	data, err := readAll(context.Background(), e.spool, key) // a local read, not to be cut short by a stop
	if err != nil {
		return nil, err
	}
	rec, err := bundle.Decode(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	return rec, nil
}

// replace puts a record that tells of more in the place of one that is spooled. Until then that one and its log
// objects stay as they are, so ours get keys that are free.
func (c *capture) replace(key string, rec, spooled *bundle.Record) error {
	ctx := context.Background() // local writes, not to be cut short by a stop
	run, err := bundle.KeyOf(rec)
	if err != nil {
		return err
	}
	old, err := c.e.spool.Stat(ctx, key)
	if err != nil {
		return err
	}
	if c.out != nil {
		if err := errors.Join(c.out.apart(rec), c.out.publish(rec)); err != nil {
			return err
		}
	}
	data, err := bundle.Encode(rec)
	if err != nil {
		return err
	}
	if err := c.e.spool.Replace(ctx, key, bytes.NewReader(data), old); err != nil {
		return err
	}
	c.e.log.Info("replaced a spooled record by one that tells of more of the log", "key", key)
	snapshots := c.e.snapshots[c.run.id] != "" || c.run.storedUnder() != ""
	for _, o := range spooled.Objects {
		if snapshots && o.Key != run.Log(0, c.export.Compression) {
			continue // a snapshot that is not shipped yet may name the same objects, which have numbers
		}
		if slices.ContainsFunc(rec.Objects, func(ours bundle.Object) bool { return ours.Key == o.Key }) {
			continue
		}
		if err := c.e.spool.Remove(o.Key); err != nil && !errors.Is(err, sink.ErrNotFound) {
			c.e.log.Warn("cannot clean the spool; the next start does", "key", o.Key, "err", err)
		}
	}
	return nil
}

// fuller says whether our record tells of more than another of the same run. Complete beats incomplete,
// because it was proven; then the longer log wins; of equals the one that came first stays.
func fuller(ours, theirs *bundle.Record) bool {
	switch {
	case theirs.Verdict.Complete != ours.Verdict.Complete:
		return ours.Verdict.Complete
	case theirs.RawSHA256 == ours.RawSHA256:
		return false
	}
	return ours.RawBytes > theirs.RawBytes
}

func putRecord(spool *sink.Dir, key string, rec *bundle.Record) error {
	data, err := bundle.Encode(rec)
	if err != nil {
		return err
	}
	return spool.Put(context.Background(), key, bytes.NewReader(data)) // a local write, not to be cut short by a stop
}
