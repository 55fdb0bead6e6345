package main

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kubelogexporter/kubelogexporter/exporter/config"
	"github.com/kubelogexporter/kubelogexporter/sink/archive"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// queryFlags pick archived runs.
type queryFlags struct {
	cluster          string
	namespaces       []string
	all              bool
	container        string
	since            config.Duration
	sinceTime, until string
	patterns         bool // a pattern is taken in place of a pod
}

func (q *queryFlags) register(a *app, cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&q.cluster, "cluster", "", "`name` of the cluster in the archive (default: all)")
	f.StringSliceVarP(&q.namespaces, "namespace", "n", nil, "namespace(s) (default: all)")
	f.BoolVarP(&q.all, "all-namespaces", "A", true, "all namespaces")
	f.StringVarP(&q.container, "container", "c", "", "`name` of the container")
	f.Var(&q.since, "since", "only what is newer than this `duration`, such as 2h or 7d")
	f.Lookup("since").DefValue = "" // there is none
	f.StringVar(&q.sinceTime, "since-time", "", "only what is not older than this RFC 3339 `time`")
	cmd.MarkFlagsMutuallyExclusive("since", "since-time")
	cmd.MarkFlagsMutuallyExclusive("namespace", "all-namespaces")
	complete(cmd, "cluster", a.completeClusters)
	complete(cmd, "namespace", a.completeNamespaces)
	complete(cmd, "container", a.completeContainers)
}

// start returns the time that --since or --since-time names, zero for neither.
func (q *queryFlags) start(now time.Time) (time.Time, error) {
	if q.since > 0 {
		return now.Add(-time.Duration(q.since)), nil
	}
	return parseTime("--since-time", q.sinceTime)
}

func parseTime(flag, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, usagef("%s: %q is no RFC 3339 time, such as 2026-01-31T13:00:00Z", flag, text)
	}
	return t, nil
}

// pod enters what the argument POD or NAMESPACE/POD says, or PATTERN in place of POD.
func (q *queryFlags) pod(arg string, into *archive.Query) error {
	namespace, pod, ok := strings.Cut(arg, "/")
	if !ok {
		namespace, pod = "", arg
	}
	switch {
	case pod == "" || ok && namespace == "":
		return usagef("%q is neither POD nor NAMESPACE/POD", arg)
	case namespace == "pod" || namespace == "pods" || namespace == "po":
		namespace = "" // kubectl's TYPE/NAME
	}
	if into.Pod = pod; q.patterns && strings.ContainsAny(pod, `*?[\`) {
		into.Pod, into.PodPattern = "", pod
	}
	if namespace != "" {
		if len(into.Namespaces) > 0 && (len(into.Namespaces) > 1 || into.Namespaces[0] != namespace) {
			return usagef("%q and --namespace name different namespaces", arg)
		}
		into.Namespaces = []string{namespace}
	}
	return nil
}

// build returns the query for the runs that the flags and at most one pod select.
func (q *queryFlags) build(args []string, now time.Time) (archive.Query, error) {
	query := archive.Query{Cluster: q.cluster, Namespaces: q.namespaces, Container: q.container}
	var err error
	if query.Since, err = q.start(now); err != nil {
		return query, err
	}
	if query.Until, err = parseTime("--until-time", q.until); err != nil {
		return query, err
	}
	if len(args) > 0 {
		if err := q.pod(args[0], &query); err != nil {
			return query, err
		}
	}
	if _, err := path.Match(query.PodPattern, ""); err != nil {
		return query, usagef("%q is no pattern: a \"[\" is not closed, or a range is not whole", query.PodPattern)
	}
	return query, checkNames(query)
}

// checkNames refuses what cannot be the name of anything: no archive need be asked for it.
func checkNames(q archive.Query) error {
	for _, namespace := range append([]string{"n"}, q.Namespaces...) {
		k := bundle.RunKey{
			Cluster: cmp.Or(q.Cluster, "c"), Namespace: namespace, Date: time.DateOnly, Pod: cmp.Or(q.Pod, "p"),
			UID: cmp.Or(q.UID, "u"), Container: cmp.Or(q.Container, "c"), ID12: bundle.ID12(""),
		}
		if err := k.Check(); err != nil {
			text, _, _ := strings.Cut(err.Error(), "\n")
			return usagef("%s", text)
		}
	}
	return nil
}

type listCommand struct {
	a         *app
	sink      sinkFlags
	query     queryFlags
	output    string
	noHeaders bool
}

func newListCommand(a *app) *cobra.Command {
	l := &listCommand{a: a, query: queryFlags{patterns: true}}
	cmd := &cobra.Command{
		Use:     "ls [[NAMESPACE/]POD|PATTERN]",
		Aliases: []string{"list"},
		Short:   "List the container runs in the archive",
		Long: `List the container runs in the archive, those that ended first first. Only the
archive is read; no cluster is needed. A PATTERN selects pods by their names, with
*, ?, [a-z] and [^a-z], as in a configuration.

The verdict says how much of the log was saved:
  complete        all of it, and there is proof
  head unproven   nothing speaks against it, but proof could not be had
  lost: CAUSE     bytes are missing, and why
  running         the container had not ended when it was read`,
		Example: a.examples(`
  {} ls
  {} ls -n shop --since 2h
  {} ls 'shop/cart-*' --since 7d
  {} ls shop/cart-7c5d -o wide
  {} ls -o json | jq '.items[] | select(.verdict.complete | not)'`),
		Args:              argCount(0, 1, "at most one pod"),
		ValidArgsFunction: a.completePods,
		RunE:              a.begin(l.run),
	}
	l.sink.registerRead(cmd)
	l.query.register(a, cmd)
	cmd.Flags().StringVar(&l.query.until, "until-time", "", "only what ended before this RFC 3339 `time`")
	cmd.Flags().StringVarP(&l.output, "output", "o", "", "output format: "+strings.Join(runFormats(), ", "))
	cmd.Flags().BoolVar(&l.noHeaders, "no-headers", false, "no column headers")
	complete(cmd, "output", words(runFormats()...))
	return cmd
}

func (l *listCommand) run(cmd *cobra.Command, args []string) error {
	if err := checkRunFormat(l.output); err != nil {
		return err
	}
	now := time.Now()
	q, err := l.query.build(args, now)
	if err != nil {
		return err
	}
	arc, err := l.a.readArchive(cmd.Context(), cmd, &l.sink)
	if err != nil {
		return err
	}
	t := newRunTable(l.output, l.noHeaders, now)
	damaged := 0
	for r, err := range arc.Records(cmd.Context(), q) {
		if bad := (*archive.DamagedError)(nil); errors.As(err, &bad) {
			damaged++
			fmt.Fprintf(l.a.stderr, "error: %s\n", err)
			continue
		}
		if err != nil {
			return readError(err)
		}
		t.add(r)
	}
	if len(t.Items) == 0 && damaged == 0 {
		where := ""
		if len(q.Namespaces) > 0 {
			where = " in namespace " + strings.Join(q.Namespaces, ", ")
		}
		fmt.Fprintf(l.a.stderr, "No archived runs found%s in %s.\n", where, l.sink.sink)
	}
	if err := t.print(l.a.stdout); err != nil {
		return err
	}
	if damaged > 0 {
		return &codeError{
			error: errors.New(count(damaged, "record is", "records are") + " damaged"), code: exitPartial,
			hints: []string{"other runs are not affected; " + l.a.name + " verify says what to do for each object"},
		}
	}
	return nil
}

// argCount accepts from least to most arguments, and else says what is wanted.
func argCount(least, most int, wanted string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < least || len(args) > most {
			return fmt.Errorf("%s must be given, not %q", wanted, strings.Join(args, " "))
		}
		return nil
	}
}
