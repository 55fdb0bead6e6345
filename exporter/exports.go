package exporter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/kubelogexporter/kubelogexporter/exporter/redact"
	"github.com/kubelogexporter/kubelogexporter/exporter/schedule"
	"github.com/kubelogexporter/kubelogexporter/exporter/selection"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// Export says which runs are captured, when and how. The first one that takes a run decides for it; what
// none takes is not read.
type Export struct {
	// Name is unique among the exports.
	Name string
	// Select decides about runs; nil takes every one.
	Select *selection.Selection
	// Capture says when logs are read; empty means CaptureFinal.
	Capture Capture
	// Compression of the log objects.
	Compression bundle.Compression
	// Redact takes secrets out of the logs; nil takes none.
	Redact *redact.Redactor
	// Schedule is nil for an export that is always on. With a WatchFor it takes the runs that end in one of
	// its windows. Otherwise each of its starts sweeps the running containers; their ends are captured
	// whenever they come.
	Schedule *schedule.Schedule

	everything bool // Select takes every run
}

// windowed says whether the export takes only what ends in its windows.
func (x *Export) windowed() bool { return x.Schedule != nil && x.Schedule.Spec().WatchFor > 0 }

// live says whether runs are followed from their first sight on.
func (x *Export) live() bool { return x.Capture == CaptureLive && !x.windowed() }

// redacted is a text that is no log, such as a termination message, which may be a piece of one.
func (x *Export) redacted(text string) string {
	if x.Redact == nil {
		return text
	}
	text, _ = x.Redact.Text(text)
	return text
}

// exports are those in effect. They are replaced as a whole.
type exports struct{ list []*Export }

func newExports(list []Export) (*exports, error) {
	x := &exports{}
	names := make(map[string]bool)
	for _, e := range list {
		if e.Name == "" || names[e.Name] {
			return nil, fmt.Errorf("set exports: the name %q is empty or taken twice", e.Name)
		}
		names[e.Name] = true
		if e.Select == nil {
			e.Select = selection.All()
		}
		if e.Capture == "" {
			e.Capture = CaptureFinal
		}
		if e.Capture == CaptureLive && e.windowed() {
			return nil, fmt.Errorf("set exports: %s: a log that is followed from its start on cannot be limited to windows", e.Name)
		}
		e.everything = e.Select.Everything()
		x.list = append(x.list, &e)
	}
	return x, nil
}

// redactOtherwise says whether another export has a redactor, so that what is read for this one may have to go
// through that.
func (x *exports) redactOtherwise(than *Export) bool {
	return slices.ContainsFunc(x.list, func(other *Export) bool { return other.Redact != nil && other.Redact != than.Redact })
}

// SetExports replaces the exports while the exporter runs. Captures that were begun go on as they were.
func (e *Exporter) SetExports(list []Export) error {
	x, err := newExports(list)
	if err != nil {
		return err
	}
	e.exports.Store(x)
	e.tracker.reconsider()
	return nil
}

// ErrNoExport says that there is no export of a name.
var ErrNoExport = errors.New("there is no such export")

// HasExport says whether there is an export of a name.
func (e *Exporter) HasExport(name string) bool {
	return slices.ContainsFunc(e.exports.Load().list, func(x *Export) bool { return x.Name == name })
}

// Sweep stores what the running containers that an export takes have written since they were last looked at,
// and returns when it is in the spool. At the first one the whole log is stored.
func (e *Exporter) Sweep(ctx context.Context, name string) error {
	x := e.exports.Load()
	i := slices.IndexFunc(x.list, func(x *Export) bool { return x.Name == name })
	if i < 0 {
		return fmt.Errorf("sweep %q: %w", name, ErrNoExport)
	}
	return e.sweep(ctx, x.list[i], func(r *run) bool {
		taken, d := e.decide(x, r, r.now(), time.Time{})
		return d == selection.Yes && taken == x.list[i]
	})
}

// decide returns which export takes a run. Of an export with windows only the runs count that end in one:
// at is when this one ends, as far as is known; zero leaves windows out of account.
func (e *Exporter) decide(x *exports, r *run, m moment, at time.Time) (*Export, selection.Decision) {
	for _, export := range x.list {
		if !at.IsZero() && export.windowed() {
			if _, open := export.Schedule.Window(at); !open {
				continue
			}
		}
		d := selection.Yes
		if !export.everything { // the usual case, in which no run need be described
			d = e.match(export, r, m)
		}
		if d == selection.No {
			continue
		}
		if only := e.opts.Only; only != "" && only != export.Name {
			return nil, selection.No
		}
		return export, d
	}
	return nil, selection.No
}

func (e *Exporter) match(x *Export, r *run, m moment) selection.Decision {
	v := r.view
	v.term = m.term
	sub := subjectOf(m.pod, v)
	d, err := x.Select.Match(&sub)
	if err != nil {
		e.metrics.selectionErrors.Inc()
		e.undecidable.Do(func() {
			e.log.Warn("cannot decide whether an export takes a run, so it does; more of these are only counted", "export", x.Name,
				"namespace", m.pod.namespace, "pod", m.pod.name, "container", r.id.container, "err", err)
		})
	}
	return d
}

// takes decides about a run whose log would be read now.
func (e *Exporter) takes(r *run, m moment) (*Export, selection.Decision) {
	at := time.Now()
	if e.once { // whoever asks for an export now does not mean its windows
		at = time.Time{}
	} else if m.term != nil && !m.term.FinishedAt.IsZero() {
		at = m.term.FinishedAt.Time
	}
	return e.decide(e.exports.Load(), r, m, at)
}

// settleExport decides for good who takes a run that has ended. What cannot be known any more, such as the
// exit code of a container whose node is gone, never speaks against a log.
func (c *capture) settleExport(m moment) (taken bool, err error) {
	if !c.undecided {
		return true, nil
	}
	x, d := c.e.takes(c.run, m)
	if d == selection.No {
		return false, nil
	}
	if x.Redact != nil || x.Compression != c.export.Compression {
		if err := c.rewrite(x); err != nil {
			return true, err
		}
	}
	c.export, c.undecided = x, false
	return true, nil
}

// rewrite puts what was read before it was known which export takes the run through that export's rules.
func (c *capture) rewrite(x *Export) error {
	if c.out == nil || c.out.draft == nil {
		return nil
	}
	c.out.flush()
	old := c.out
	text, done, err := (&leftover{draft: old.draft}).text(c.e.spool)
	if err != nil {
		return err
	}
	defer done()
	about, err := c.about(x)
	if err != nil {
		return err
	}
	compression := x.Compression
	if c.earlier != nil { // a log has one compression
		compression = c.export.Compression
	}
	out, err := newOutput(c.e.spool, c.e.encoders, compression, about)
	if err != nil {
		return err
	}
	out.redact(x.Redact)
	if c.earlier != nil {
		if err := out.resume(c.earlier); err != nil {
			out.abort()
			return err
		}
	}
	out.parts = old.parts
	out.first, out.firstSecond = old.beginning()
	if _, err := io.Copy(out, text); err != nil {
		out.abort()
		return err
	}
	c.held.end(c.e)
	c.out = out
	return nil
}
