package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/archive"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

type logsCommand struct {
	a          *app
	sink       sinkFlags
	query      queryFlags
	uid        string
	previous   bool
	restart    int32
	timestamps bool
	tail       int64
	limitBytes int64
	quiet      bool
}

func newLogsCommand(a *app) *cobra.Command {
	l := &logsCommand{a: a}
	cmd := &cobra.Command{
		Use:   "logs [NAMESPACE/]POD [CONTAINER]",
		Short: "Print the archived log of a container",
		Long: `Print the archived log of a container, as kubectl logs would have printed it: the
newest archived run of the container, unless --previous or --restart picks
another. Only the archive is read; no cluster is needed. In place of POD, the
key of a record as "ls -o name" prints it is taken too.

If the log is known to lack something, one line on stderr says what.`,
		Example: a.examples(`
  {} logs cart-7c5d
  {} logs cart-7c5d -n shop -c app --previous
  {} logs shop/cart-7c5d -c app --restart 3 --timestamps --tail 100`),
		Args:              argCount(1, 2, "a pod, and at most one container,"),
		ValidArgsFunction: a.completePods,
		RunE:              a.begin(l.run),
	}
	l.sink.registerRead(cmd)
	l.query.register(a, cmd)
	f := cmd.Flags()
	f.StringVar(&l.uid, "uid", "", "`UID` of the pod, if several had the name (default: the newest)")
	f.BoolVarP(&l.previous, "previous", "p", false, "the run before the newest archived one")
	f.Int32Var(&l.restart, "restart", 0, "the run with this restart `count`")
	f.BoolVar(&l.timestamps, "timestamps", false, "print the time stamp of each line")
	f.Int64Var(&l.tail, "tail", -1, "only the last `lines`; -1 for all")
	f.Int64Var(&l.limitBytes, "limit-bytes", 0, "stop after this many `bytes`")
	f.BoolVarP(&l.quiet, "quiet", "q", false, "do not say what the log lacks, nor which container was chosen")
	cmd.MarkFlagsMutuallyExclusive("previous", "restart")
	return cmd
}

func (l *logsCommand) run(cmd *cobra.Command, args []string) error {
	ctx := cmd.Context()
	if len(args) == 2 {
		if l.query.container != "" {
			return usagef("the container is named twice: %q and --container %q", args[1], l.query.container)
		}
		l.query.container = args[1]
	}
	if l.tail < -1 || l.limitBytes < 0 {
		return usagef("--tail must not be less than -1, --limit-bytes not less than 0")
	}
	o := archive.LogOptions{Timestamps: l.timestamps, TailLines: l.tail, LimitBytes: l.limitBytes}
	var err error
	if o.Since, err = l.query.start(time.Now()); err != nil {
		return err
	}
	q := archive.Query{Cluster: l.query.cluster, Namespaces: l.query.namespaces, UID: l.uid}
	key, _, _, _, keyErr := bundle.ParseKey(args[0])
	if keyErr != nil {
		if err := l.query.pod(args[0], &q); err != nil {
			return err
		}
	}
	named := q
	named.Container = l.query.container
	if err := checkNames(named); err != nil {
		return err
	}
	arc, err := l.a.readArchive(ctx, cmd, &l.sink)
	if err != nil {
		return err
	}
	if keyErr != nil {
		if key, err = l.find(ctx, arc, q, cmd.Flags().Changed("restart")); err != nil {
			return err
		}
	}
	r, err := arc.Record(ctx, key)
	if errors.Is(err, sink.ErrNotFound) {
		return &codeError{
			error: fmt.Errorf("there is no record %s in %s", key.Record(), l.sink.sink), code: exitNoMatch,
			hints: []string{l.a.name + " ls -o name lists the keys of the records that there are"},
		}
	}
	if err != nil {
		return readError(err)
	}
	return l.print(ctx, arc, r, o)
}

// find picks the run that the flags mean.
func (l *logsCommand) find(ctx context.Context, arc *archive.Archive, q archive.Query, byRestart bool) (bundle.RunKey, error) {
	pod, err := arc.Find(ctx, q)
	switch {
	case errors.Is(err, sink.ErrNotFound):
		return bundle.RunKey{}, l.noPod(q)
	case errors.Is(err, archive.ErrAmbiguous):
		return bundle.RunKey{}, &codeError{error: err, code: exitUsage, hints: []string{"choose with --namespace and --cluster"}}
	case err != nil:
		return bundle.RunKey{}, readError(err)
	}
	container := l.query.container
	if container == "" {
		container = l.defaultContainer(ctx, arc, pod)
	}
	var run archive.Run
	switch {
	case byRestart:
		run, err = pod.WithRestart(container, l.restart)
	case l.previous:
		run, err = pod.Latest(container, 1)
	default:
		run, err = pod.Latest(container, 0)
	}
	if errors.Is(err, sink.ErrNotFound) {
		return run.Key, l.noRun(pod, container)
	}
	return run.Key, err
}

func (l *logsCommand) noPod(q archive.Query) error {
	where := ""
	ls := l.a.name + " ls"
	if len(q.Namespaces) > 0 {
		where = " in namespace " + strings.Join(q.Namespaces, ", ")
		ls += " -n " + strings.Join(q.Namespaces, ",")
	}
	if q.UID != "" {
		where += " with UID " + q.UID
	}
	return &codeError{
		error: fmt.Errorf("no archived log of pod %q%s in %s", q.Pod, where, l.sink.sink), code: exitNoMatch,
		hints: []string{ls + " lists what there is; a container that still runs is not archived yet"},
	}
}

// noRun says what there is of a pod that has not the run that was asked for.
func (l *logsCommand) noRun(pod *archive.Pod, container string) error {
	names := pod.Containers()
	if !slices.Contains(names, container) {
		return &codeError{
			error: fmt.Errorf("pod %s/%s has no archived container %q", pod.Namespace, pod.Name, container), code: exitNoMatch,
			hints: []string{"it has " + strings.Join(names, ", ")},
		}
	}
	var restarts, without []string
	if l.previous {
		without = []string{"without --previous: the newest archived run"}
	}
	for _, run := range pod.Runs {
		if run.Key.Container == container {
			restarts = append(restarts, strconv.Itoa(int(run.Key.Restart)))
		}
	}
	return &codeError{
		error: fmt.Errorf("container %q of pod %s/%s has no such archived run", container, pod.Namespace, pod.Name), code: exitNoMatch,
		hints: append([]string{"the restart counts in the archive: " + strings.Join(restarts, ", ")}, without...),
	}
}

// podContainers is what is needed of a recorded pod object.
type podContainers struct {
	Metadata struct {
		Annotations map[string]string `json:"annotations"`
	} `json:"metadata"`
	Spec struct {
		Containers          []struct{ Name string } `json:"containers"`
		InitContainers      []struct{ Name string } `json:"initContainers"`
		EphemeralContainers []struct{ Name string } `json:"ephemeralContainers"`
	} `json:"spec"`
}

// defaultContainer chooses as kubectl does, among the containers that are archived, and says so in
// kubectl's words.
func (l *logsCommand) defaultContainer(ctx context.Context, arc *archive.Archive, pod *archive.Pod) string {
	archived := pod.Containers()
	if len(archived) == 1 {
		return archived[0]
	}
	var p podContainers
	for _, run := range pod.Runs {
		r, err := arc.Record(ctx, run.Key)
		if err == nil && len(r.PodObject) > 0 && json.Unmarshal(r.PodObject, &p) == nil {
			break
		}
	}
	var order, shown []string
	list := func(cs []struct{ Name string }, kind string) {
		for _, c := range cs {
			if slices.Contains(archived, c.Name) {
				order, shown = append(order, c.Name), append(shown, c.Name+kind)
			}
		}
	}
	list(p.Spec.Containers, "")
	list(p.Spec.EphemeralContainers, " (ephem)")
	list(p.Spec.InitContainers, " (init)")
	if len(order) == 0 {
		order, shown = archived, archived
	}
	name := p.Metadata.Annotations["kubectl.kubernetes.io/default-container"]
	if slices.Contains(order, name) {
		return name // kubectl is silent too
	}
	if !l.quiet {
		fmt.Fprintf(l.a.stderr, "Defaulted container %q out of: %s\n", order[0], strings.Join(shown, ", "))
	}
	return order[0]
}

func (l *logsCommand) print(ctx context.Context, arc *archive.Archive, r *bundle.Record, o archive.LogOptions) error {
	text, err := arc.Log(ctx, r, o)
	if err == nil {
		_, err = io.Copy(l.a.stdout, text)
		err = errors.Join(err, text.Close())
	}
	if note := lacking(r); note != "" && !l.quiet {
		fmt.Fprintln(l.a.stderr, "note: "+printable(note))
	}
	if errors.Is(err, sink.ErrNotFound) {
		return &codeError{error: err, code: exitError, hints: []string{"the record is there, but its log object is gone: was it removed by a lifecycle rule?"}}
	}
	if err != nil {
		return readError(err)
	}
	return nil
}

// lacking says in one line what is not known to be in the log, and why.
func lacking(r *bundle.Record) string {
	if r.Verdict.Complete {
		return ""
	}
	lost, unproven := parts(r, bundle.Lost), parts(r, bundle.Unproven)
	var notes []string
	switch {
	case len(lost) == 3:
		notes = append(notes, "the log is lost"+because(lost[:1]))
	case len(lost) > 0:
		notes = append(notes, names(lost)+" of the log lost"+because(lost))
	}
	if r.State.Running {
		notes = append(notes, "the container had not ended when this was read")
		unproven = slices.DeleteFunc(unproven, func(p part) bool { return p.Cause == bundle.CauseStillRunning })
	}
	if len(unproven) > 0 {
		notes = append(notes, names(unproven)+" of the log unproven"+because(unproven))
	}
	return strings.Join(notes, "; ")
}

func because(ps []part) string {
	var s []string
	for _, p := range ps {
		why := strings.Join(p.Evidence, ", ")
		if why = cmp.Or(why, string(p.Cause)); why != "" && !slices.Contains(s, why) {
			s = append(s, why)
		}
	}
	if len(s) == 0 {
		return ""
	}
	return " (" + strings.Join(s, "; ") + ")"
}
