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

// namespaces returns those that can hold a run that is taken, if all of them are named. only is as in Options.
func (x *exports) namespaces(only string) []string {
	var all selection.Exports
	for _, e := range x.list {
		if only == "" || e.Name == only {
			all = append(all, e.Select)
		}
	}
	list, _ := all.Namespaces()
	return list
}

// SetExports replaces the exports while the exporter runs. Captures that were begun go on as they were. If the
// new ones name further namespaces, these are watched from now on.
func (e *Exporter) SetExports(list []Export) error {
	x, err := newExports(list)
	if err != nil {
		return err
	}
	e.exports.Store(x)
	select {
	case e.exportsChanged <- struct{}{}:
	default:
	}
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
// and returns when it is in the spool. At the first one the whole log is stored. Until every pod has been seen,
// see Ready, it waits: what runs is not known before.
func (e *Exporter) Sweep(ctx context.Context, name string) error {
	if err := e.awaitSeen(ctx); err != nil {
		return fmt.Errorf("sweep %q: %w", name, err)
	}
	x := e.exports.Load()
	i := slices.IndexFunc(x.list, func(x *Export) bool { return x.Name == name })
	if i < 0 {
		return fmt.Errorf("sweep %q: %w", name, ErrNoExport)
	}
	now := at(time.Now())
	windows := func(other *Export) selection.Decision {
		if other == x.list[i] { // whoever asks for it now does not mean its windows
			return selection.Yes
		}
		return other.during(now, false)
	}
	return e.sweep(ctx, x.list[i], func(r *run) bool {
		taken, d := e.decide(x, r, r.now(), windows)
		return d == selection.Yes && taken == x.list[i]
	})
}

// decide returns which export takes a run: the first whose selection and whose windows do not say No.
func (e *Exporter) decide(x *exports, r *run, m moment, windows func(*Export) selection.Decision) (*Export, selection.Decision) {
	for _, export := range x.list {
		d := windows(export)
		if d == selection.No {
			continue
		}
		if !export.everything { // the usual case, in which no run need be described
			d = min(d, e.match(export, r, m))
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

// candidates returns the exports that may take a run which goes on and of whose end nothing is known: those
// in whose windows it may end, and the first that has none. sure says that there is one, and that it takes
// the run.
func (e *Exporter) candidates(x *exports, r *run, m moment) (list []*Export, sure bool) {
	for _, export := range x.list {
		d := selection.Yes
		if !export.everything {
			d = e.match(export, r, m)
		}
		switch {
		case d == selection.No, export.windowed() && export.Schedule.Spec().Suspend:
		case export.windowed():
			list = append(list, export)
		default:
			return append(list, export), d == selection.Yes && len(list) == 0
		}
	}
	return list, false
}

// span is when a run has ended or will end, as far as is known: not before from, and not after to.
type span struct{ from, to time.Time }

func at(t time.Time) span { return span{t, t} }

// during says whether the export's windows take a run that ends in a span of time. While the run goes on it
// is not said for good.
func (x *Export) during(end span, ended bool) selection.Decision {
	if !x.windowed() {
		return selection.Yes
	}
	_, open := x.Schedule.Window(end.from)
	if !open && !x.Schedule.Spec().Suspend {
		next := x.Schedule.Next(end.from)
		open = !next.IsZero() && !next.After(end.to)
	}
	switch {
	case !open:
		return selection.No
	case ended:
		return selection.Yes
	}
	return selection.Maybe
}

// killTakes is more than passes, as a rule, between a pod's deletionTimestamp, at which the kubelet kills what
// is left of it, and the end of its containers.
const killTakes = 30 * time.Second

// endOf says when a run ends. Where the status does not tell, what is known bounds it.
func (e *Exporter) endOf(m moment) span {
	now := time.Now()
	switch {
	case m.term != nil && !m.term.FinishedAt.IsZero():
		return at(m.term.FinishedAt.Time)
	case m.remembered && m.podGone && !e.known.IsZero(): // while no exporter ran
		return span{e.known, now}
	case m.dying && !m.ended() && now.Before(m.pod.deletion.Add(killTakes)):
		return span{now, m.pod.deletion.Add(killTakes)}
	}
	return at(now)
}

func (e *Exporter) match(x *Export, r *run, m moment) selection.Decision {
	v := view{id: r.id, kind: r.kind, restart: r.restart, image: r.image, startedAt: r.startedAt, term: m.term} // the rest changes under the tracker's lock
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

// takes decides about a run that has ended, or whose pod is being deleted.
func (e *Exporter) takes(r *run, m moment, end span) (*Export, selection.Decision) {
	return e.decide(e.exports.Load(), r, m, func(x *Export) selection.Decision {
		if e.once && e.opts.Only == "" { // whoever asks for all exports now does not mean their windows
			return selection.Yes
		}
		return x.during(end, m.ended())
	})
}

// settleExport decides for good who takes a run that has ended. What cannot be known any more, such as the
// exit code of a container whose node is gone, never speaks against a log.
func (c *capture) settleExport(m moment) (taken bool, err error) {
	if !c.undecided {
		return true, nil
	}
	end := c.e.endOf(m)
	if m.term == nil && c.log != nil && !c.log.Last().IsZero() && c.log.Last().Before(end.from) {
		end.from = c.log.Last()
	}
	x, d := c.e.takes(c.run, m, end)
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
	old := c.out
	if err := old.kept(); err != nil {
		return err
	}
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
		compression = old.compression
	}
	out, err := newOutput(c.e.spool, c.e.encoders, compression, about)
	if err != nil {
		return err
	}
	out.redact(x.Redact)
	if c.earlier != nil {
		err = out.resume(c.earlier)
	}
	out.parts = old.parts
	out.first, out.firstSecond = old.beginning()
	if err == nil {
		_, err = io.Copy(out, text)
	}
	if err == nil {
		err = out.kept()
	}
	if err != nil {
		out.abort()
		return err
	}
	out.cutAs(old)
	c.held.end(c.e)
	c.out = out
	return nil
}
