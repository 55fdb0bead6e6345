package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	coordination "k8s.io/client-go/kubernetes/typed/coordination/v1"

	"github.com/kubelogexporter/kubelogexporter/exporter"
	"github.com/kubelogexporter/kubelogexporter/exporter/config"
	"github.com/kubelogexporter/kubelogexporter/exporter/schedule"
)

const (
	// schedulesFile is the file in the spool that remembers up to where the schedules are dealt with.
	schedulesFile = ".kubelogexporter-schedules"
	// schedulesLease is the Lease that does so in the namespace of the program's own pod.
	schedulesLease = "kubelogexporter-schedules"
)

// starts remember up to where the schedules are dealt with: in a file, and in a pod also in a Lease, which
// outlives the spool and which other replicas see. Where the Lease cannot be had the file is all there is.
type starts struct {
	file      *schedule.FileState
	lease     *schedule.LeaseState // nil outside of a pod
	namespace string
	log       *slog.Logger
	told      sync.Once
}

func openStarts(target *kubeTarget, spool string, log *slog.Logger) (*starts, error) {
	s := &starts{log: log, namespace: target.namespace}
	var err error
	s.file, err = schedule.OpenFileState(filepath.Join(spool, schedulesFile))
	switch {
	case errors.Is(err, schedule.ErrDamaged): // no reason to let logs be lost
		log.Warn("the last starts of schedules are not known: what was missed is not caught up", "err", err)
	case err != nil:
		return nil, err
	}
	if target.pod {
		client, err := coordination.NewForConfig(target.config)
		if err != nil {
			return nil, fmt.Errorf("make client for leases: %w", err)
		}
		s.lease = schedule.NewLeaseState(client.Leases(target.namespace), schedulesLease)
	}
	return s, nil
}

// leaseRights are the rights that the Lease needs.
func leaseRights(namespace string) []exporter.Permission {
	lease := exporter.Permission{Verb: "create", Group: "coordination.k8s.io", Resource: "leases", Namespace: namespace}
	all := []exporter.Permission{lease}
	lease.Name = schedulesLease
	for _, lease.Verb = range []string{"get", "update"} {
		all = append(all, lease)
	}
	return all
}

// Load implements schedule.State: the later of the two times.
func (s *starts) Load(ctx context.Context, name string) (time.Time, error) {
	last, err := s.file.Load(ctx, name)
	if s.lease == nil || err != nil {
		return last, err
	}
	leased, err := s.lease.Load(ctx, name)
	if err != nil {
		s.tell(err)
	}
	if leased.After(last) {
		last = leased
	}
	return last, nil
}

// Store implements schedule.State.
func (s *starts) Store(ctx context.Context, name string, t time.Time) error {
	if s.lease != nil {
		switch err := s.lease.Store(ctx, name, t); {
		case errors.Is(err, schedule.ErrTaken):
			return err
		case err != nil:
			s.tell(err)
		}
	}
	return s.file.Store(ctx, name, t)
}

func (s *starts) tell(err error) {
	if !apierrors.IsForbidden(err) {
		s.log.Warn("the last start of a schedule is known in the spool only for now", "err", err)
		return
	}
	s.told.Do(func() {
		s.log.Warn("the last starts of schedules are kept in the spool only, and are lost with it", "err", err,
			"fix", "add the component config-file of deploy/, or grant get, create and update on leases.coordination.k8s.io in namespace "+s.namespace)
	})
}

// scheduleLine is what "schedules" says of an export.
type scheduleLine struct {
	Export   string     `json:"export"`
	Cron     string     `json:"cron"`
	TimeZone string     `json:"timeZone"`
	WatchFor string     `json:"watchFor,omitempty"`
	Suspend  bool       `json:"suspend,omitempty"`
	LastDue  *time.Time `json:"lastDue,omitempty"`
	Next     *time.Time `json:"next,omitempty"`
}

func newSchedulesCommand(a *app) *cobra.Command {
	flags := captureFlags{compression: "zstd"}
	var output string
	cmd := &cobra.Command{
		Use:   "schedules",
		Short: "Show when the exports of a configuration were due last and start next",
		Long: `Show when the exports of a configuration with a schedule were due last and start
next. What is shown as last was started then, unless it was skipped or missed: the
program's log and its metric kubelogexporter_schedule_missed_total tell. It is read
where "run" keeps it: in the spool, and in a pod in a Lease of its namespace. For an
export with watchFor these are the times at which its windows open.`,
		Example: a.examples(`
  {} schedules --config config.yaml
  kubectl -n kubelogexporter exec deploy/kubelogexporter -- /kubelogexporter schedules`),
		Args: argCount(0, 0, "no arguments"),
		RunE: a.begin(func(cmd *cobra.Command, _ []string) error {
			if flags.config == "" {
				return usagef("schedules are in a configuration file: give it with --config")
			}
			if err := flags.load(a, cmd); err != nil {
				return err
			}
			lines, err := flags.schedules(cmd.Context(), slog.New(slog.NewTextHandler(a.stderr, nil)))
			if err != nil {
				return err
			}
			return printAs(a.stdout, output, map[string]any{"items": lines}, func(w io.Writer) error { return printSchedules(w, lines) })
		}),
	}
	cmd.Flags().StringVar(&flags.config, "config", "", "configuration `file`")
	cmd.Flags().StringVar(&flags.spool, "spool", "", "`directory` of the program's spool (default: as for run)")
	_ = cmd.MarkFlagFilename("config", "yaml", "yml")
	cmd.Flags().StringVarP(&output, "output", "o", "", "output format: json or yaml (default: a table)")
	complete(cmd, "output", words("json", "yaml"))
	return cmd
}

// schedules reads the state that a running program keeps.
func (c *captureFlags) schedules(ctx context.Context, log *slog.Logger) ([]scheduleLine, error) {
	o, target, err := c.open(ctx, ".spool", log)
	if err != nil {
		return nil, err
	}
	state, err := openStarts(target, o.Spool, log)
	if err != nil {
		return nil, err
	}
	lines := []scheduleLine{}
	for i := range c.settings.config.Exports {
		x := &c.settings.config.Exports[i]
		if x.Schedule == nil {
			continue
		}
		line, err := scheduleOf(ctx, x, state)
		if err != nil {
			return nil, fmt.Errorf("export %s: %w", x.Name, err)
		}
		lines = append(lines, line)
	}
	return lines, nil
}

func scheduleOf(ctx context.Context, x *config.Export, state schedule.State) (scheduleLine, error) {
	s, err := schedule.Parse(scheduleSpec(x.Schedule, x.WatchFor))
	if err != nil {
		return scheduleLine{}, err
	}
	spec := s.Spec()
	line := scheduleLine{Export: x.Name, Cron: spec.Cron, TimeZone: spec.TimeZone, Suspend: spec.Suspend}
	now := time.Now()
	last, from := time.Time{}, now
	if spec.WatchFor > 0 {
		line.WatchFor = spec.WatchFor.String()
		if !spec.Suspend {
			last = s.Last(now)
		}
	} else if last, err = state.Load(ctx, x.Name); err != nil {
		return line, err
	} else if !last.IsZero() && last.Before(now) {
		from = last // "@every" counts from here
	}
	if !last.IsZero() && (spec.WatchFor > 0 || s.Starts(last)) {
		line.LastDue = &last
	}
	if next := s.Next(from).Add(s.JitterOf(x.Name)); !spec.Suspend && !s.Next(from).IsZero() {
		line.Next = &next
	}
	return line, nil
}

func printSchedules(w io.Writer, lines []scheduleLine) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "EXPORT\tSCHEDULE\tTIME ZONE\tWATCHES FOR\tLAST DUE\tNEXT")
	for _, l := range lines {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", l.Export, l.Cron, cmp.Or(l.TimeZone, "UTC"), cmp.Or(l.WatchFor, "-"), stampOf(l.LastDue), nextOf(l))
	}
	return t.Flush()
}

func nextOf(l scheduleLine) string {
	if l.Suspend {
		return "suspended"
	}
	return stampOf(l.Next)
}

func stampOf(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}
