package exporter

import (
	"context"
	"errors"
	"io"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/kubelogexporter/kubelogexporter/exporter/redact"
	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// adopt gives a record to what an earlier process had read of runs that nobody knows any more, once every
// pod has been seen.
func (e *Exporter) adopt(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for len(e.leftovers.pods()) > 0 {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if e.Ready() != nil {
			continue
		}
		for id, pod := range e.leftovers.pods() {
			if e.tracker.knows(pod) {
				continue
			}
			for _, left := range e.leftovers.take(id) {
				if err := e.adoptOne(left); err != nil {
					e.log.Warn("cannot give a record to a capture that was not finished; the next start tries again", "namespace", left.about.Namespace, "pod", left.about.Pod.Name, "err", err)
				}
			}
		}
	}
}

// redactorOf returns the redactor of the export that takes a run which is known from a record only, nil if
// it has none. Where several may take it, or none takes it any more, the secrets are taken out all the same.
func (e *Exporter) redactorOf(rec *bundle.Record) *redact.Redactor {
	pod := &podInfo{namespace: rec.Namespace, name: rec.Pod.Name, uid: types.UID(rec.Pod.UID), labels: flat(rec.Pod.Labels), owners: rec.Pod.Owners, node: rec.Pod.NodeName}
	v := view{id: idOf(rec), kind: rec.Container.Type, restart: rec.Container.RestartCount, image: rec.Container.Image, imageID: rec.Container.ImageID}
	if rec.State.StartedAt != nil {
		v.startedAt = *rec.State.StartedAt
	}
	all := e.exports.Load()
	list, _ := e.candidates(all, &run{view: v}, moment{pod: pod})
	if len(list) == 0 {
		list = all.list
	}
	for _, x := range list {
		if x.Redact != nil {
			return x.Redact
		}
	}
	return nil
}

// adoptOne makes a snapshot of a leftover.
func (e *Exporter) adoptOne(left *leftover) error {
	text, done, err := left.text(e.spool)
	if err != nil {
		return err
	}
	defer done()
	rec := *left.about
	redactor := (*redact.Redactor)(nil)
	if !left.redacted() {
		if redactor = e.redactorOf(&rec); redactor != nil {
			rec.Capture.Redaction = &bundle.Redaction{Rules: redactor.Names()}
		}
	}
	about, err := bundle.Encode(&rec)
	if err != nil {
		return err
	}
	out, err := newOutput(e.spool, e.encoders, bundle.Zstd, about)
	if err != nil {
		return err
	}
	defer out.abort()
	out.redact(redactor)
	fill := func() error {
		_, err := io.Copy(out, text)
		return err
	}
	if left.redacted() {
		err = out.copy(left.about.Capture.Redaction.Rules, false, fill)
	} else {
		err = fill()
	}
	if err != nil {
		return err
	}
	unproven := bundle.Part{State: bundle.Unproven, Cause: bundle.CauseTailUnproven, Evidence: []string{"the exporter ended while it read"}}
	rec.State.Running, rec.State.FinishedAt = true, nil
	rec.Verdict = bundle.Verdict{Head: unproven, Middle: unproven, Tail: unproven}
	if err := out.seal(&rec); err != nil {
		return err
	}
	if rec.RawBytes > 0 {
		run, err := bundle.KeyOf(&rec)
		if err != nil {
			return err
		}
		if err := out.publish(&rec); err != nil {
			return err
		}
		if err := putRecord(e.spool, run.Record(), &rec); err != nil && !errors.Is(err, sink.ErrExists) {
			return err
		}
		e.ship.add(run.Record(), &rec)
	}
	return left.remove(e.spool)
}
