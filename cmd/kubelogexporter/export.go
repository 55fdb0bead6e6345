package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kubelogexporter/kubelogexporter/exporter"
	"github.com/kubelogexporter/kubelogexporter/sink/archive"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

type exportCommand struct {
	captureFlags
	a         *app
	progress  string
	quiet     bool
	output    string
	noHeaders bool
	export    string // of the configuration
	empty     bool   // nothing may match
}

func newExportCommand(a *app) *cobra.Command {
	x := &exportCommand{a: a}
	cmd := &cobra.Command{
		Use:   "export [POD...]",
		Short: "Archive the logs of the selected pods once, now",
		Long: `Archive the logs of the selected pods once and end. What running containers have
written so far is archived too, as a snapshot. Runs that are in the archive
already are left alone, and of running containers only what is new is added.

With --config the exports of a file say what is archived, or one of them, with
--export: so a Kubernetes CronJob can be the scheduler. With --allow-empty its Job
does not fail when there is nothing to archive.

The runs that were archived are printed on stdout, all else on stderr.`,
		Example: a.examples(`
  {} export -n shop -l app=cart
  {} export -n shop cart-7c5d pay-0 --sink s3://logs/incident-42
  {} export -A -o json
  {} export --config config.yaml --export nightly`),
		RunE: a.begin(x.run),
	}
	x.register(a, cmd, ".spool-export", false, "warn")
	f := cmd.Flags()
	f.StringVar(&x.progress, "progress", "auto", "how to show progress on stderr: auto, bar, plain or none")
	f.BoolVarP(&x.quiet, "quiet", "q", false, "no progress and no summary")
	f.StringVarP(&x.output, "output", "o", "", "output format: "+strings.Join(runFormats(), ", "))
	f.BoolVar(&x.noHeaders, "no-headers", false, "no column headers")
	f.StringVar(&x.export, "export", "", "`name` of the one export of --config to run (default: all)")
	f.BoolVar(&x.empty, "allow-empty", false, "end with exit code 0 in place of 3 if nothing matches")
	complete(cmd, "progress", words("auto", "bar", "plain", "none"))
	complete(cmd, "output", words(runFormats()...))
	return cmd
}

func (x *exportCommand) run(cmd *cobra.Command, pods []string) error {
	ctx := cmd.Context()
	if err := checkRunFormat(x.output); err != nil {
		return err
	}
	if x.kube.all && len(pods) > 0 {
		return usagef("pods are named in one namespace: give --namespace in place of --all-namespaces")
	}
	if x.quiet {
		x.progress = "none"
	}
	show, err := newProgress(x.a.stderr, x.progress)
	if err != nil {
		return err
	}
	if err := x.load(x.a, cmd); err != nil {
		return err
	}
	if x.export != "" && x.settings == nil {
		return usagef("--export names an export of a configuration: give it with --config")
	}
	log, err := x.log.logger(show)
	if err != nil {
		return err
	}
	quietClient(log)
	o, target, err := x.open(ctx, ".spool-export", log)
	if err != nil {
		return err
	}
	if o.Namespaces = x.kube.namespaces; len(o.Namespaces) == 0 && !x.kube.all {
		o.Namespaces = []string{target.namespace}
	}
	o.Pods = pods
	if x.settings != nil {
		if len(pods) > 0 {
			return usagef("pods cannot be named with --config: its exports select them")
		}
		o.Namespaces = x.kube.namespaces // none: those that the exports name, or all
		if err := errors.Join(x.settings.options(&o), x.settings.only(&o, x.export)); err != nil {
			return err
		}
	}
	events, err := x.notifier(&o, log)
	if err != nil {
		return err
	}
	e, err := exporter.New(o)
	if err != nil {
		return startError(err)
	}
	defer e.Close() //nolint:errcheck // the end of the process gives the spool back too
	begun := time.Now()
	stop, stopEvents := show.start(func() string { return line(e.Progress()) }), events.start()
	err = e.Export(ctx)
	stopEvents()
	stop()
	return x.allow(x.finish(ctx, o, e.Progress(), time.Since(begun), err))
}

// allow makes a note of the error that nothing matched, if that may be.
func (x *exportCommand) allow(err error) error {
	coded := (*codeError)(nil)
	if !x.empty || !errors.As(err, &coded) || coded.code != exitNoMatch {
		return err
	}
	if !x.quiet {
		fmt.Fprintf(x.a.stderr, "note: %s\n", err)
	}
	return nil
}

// finish prints what became of the export and returns its error.
func (x *exportCommand) finish(ctx context.Context, o exporter.Options, p exporter.Progress, took time.Duration, failed error) error {
	for _, err := range p.Failures {
		fmt.Fprintf(x.a.stderr, "error: %s\n", err)
	}
	if ctx.Err() == nil {
		if err := x.print(ctx, o, p); err != nil && failed == nil {
			failed = err
		}
	}
	if !x.quiet && p.Pods > 0 {
		fmt.Fprintln(x.a.stderr, summary(p, took, x.sink.sink))
	}
	switch {
	case failed != nil:
		return x.word(failed)
	case x.settings != nil && p.Runs == 0:
		return x.noRuns()
	case p.Pods == 0:
		return x.noPods(o)
	case len(p.Failures) > 0:
		return &codeError{
			error: fmt.Errorf("the logs of %s could not be read", count(len(p.Failures), "container", "containers")), code: exitPartial,
			hints: []string{"run the same command again: what is archived already is left alone"},
		}
	case len(o.Pods) > p.Pods:
		return &codeError{
			error: fmt.Errorf("%d of the %d named pods are not in namespace %s", len(o.Pods)-p.Pods, len(o.Pods), strings.Join(o.Namespaces, ", ")),
			code:  exitPartial, hints: []string{"kubectl get pods -n " + o.Namespaces[0]},
		}
	}
	return nil
}

// word adds to an export's error where its captures are, if the storage is to blame.
func (x *exportCommand) word(err error) error {
	away := (*exporter.StorageError)(nil)
	if !errors.As(err, &away) {
		return err
	}
	hints := append(advice(err), "once that is mended, run the same command again: what waits in "+away.Spool+" is archived first")
	return &codeError{error: err, code: exitStorage, hints: hints}
}

// noRuns says that a file's exports take nothing of what there is.
func (x *exportCommand) noRuns() error {
	who := "the exports take"
	if x.export != "" {
		who = "export " + x.export + " takes"
	}
	return &codeError{
		error: errors.New(who + " no container run that there is now"), code: exitNoMatch,
		hints: []string{x.a.name + " config explain POD --config " + x.settings.file + " says which export would take a pod, and why"},
	}
}

func (x *exportCommand) noPods(o exporter.Options) error {
	what := "no pods"
	if len(o.Pods) > 0 {
		what = "no pod named " + strings.Join(o.Pods, " or ")
	}
	if x.kube.selector != "" {
		what += " with labels " + x.kube.selector
	}
	where, look := " in any namespace that this identity may see", "kubectl get pods -A --show-labels"
	if len(o.Namespaces) > 0 {
		where = " in namespace " + strings.Join(o.Namespaces, ", ")
		look = "kubectl get pods --show-labels -n " + o.Namespaces[0]
	}
	return &codeError{
		error: errors.New(what + where), code: exitNoMatch,
		hints: []string{look, x.a.name + " ls shows what was archived of pods that are gone"},
	}
}

// print lists the runs that this export has archived.
func (x *exportCommand) print(ctx context.Context, o exporter.Options, p exporter.Progress) error {
	t := newRunTable(x.output, x.noHeaders, time.Now())
	arc := archive.New(o.Bucket)
	slices.Sort(p.Keys)
	var failed error
	for _, key := range slices.Compact(p.Keys) {
		k, _, _, _, err := bundle.ParseKey(key)
		if err != nil {
			return err
		}
		r, err := arc.Record(ctx, k)
		if err != nil {
			failed = err // one that is still in the spool, or an archive that cannot be read
			continue
		}
		t.add(r)
	}
	if err := t.print(x.a.stdout); err != nil {
		return err
	}
	if failed != nil {
		return readError(failed)
	}
	return nil
}

func summary(p exporter.Progress, took time.Duration, where string) string {
	s := fmt.Sprintf("%s, %s archived (%s of log) in %s to %s", count(p.Pods, "pod", "pods"),
		count(len(p.Keys)-p.Spooled, "container run", "container runs"), size(p.Bytes), took.Round(100*time.Millisecond), where)
	if p.Already > 0 {
		s += fmt.Sprintf("; %d were there before", p.Already)
	}
	if n := len(p.Failures); n > 0 {
		s += fmt.Sprintf("; %d failed", n)
	}
	return s
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
