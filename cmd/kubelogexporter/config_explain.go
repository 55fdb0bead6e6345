package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/kubelogexporter/kubelogexporter/exporter"
	"github.com/kubelogexporter/kubelogexporter/exporter/config"
	"github.com/kubelogexporter/kubelogexporter/exporter/schedule"
	"github.com/kubelogexporter/kubelogexporter/exporter/selection"
)

type explainCommand struct {
	a         *app
	file      configFile
	kube      kubeFlags // which a.loadConfig reads off the command
	namespace string
	container string
}

func newConfigExplainCommand(a *app) *cobra.Command {
	x := &explainCommand{a: a}
	cmd := &cobra.Command{
		Use:   "explain [NAMESPACE/]POD",
		Short: "Say which export would take the runs of a pod, and why",
		Long: `Say which export would take the container runs of a pod, and why. The pod is read
from the cluster; nothing is exported. Without --config the answer is that of the
defaults: one export, which takes everything.`,
		Example: a.examples(`
  {} config explain shop/cart-7c5d --config config.yaml`),
		Args: argCount(1, 1, "one pod"),
		RunE: a.begin(x.run),
	}
	x.file.register(cmd)
	x.kube.registerAccess(cmd)
	cmd.Flags().StringVarP(&x.namespace, "namespace", "n", "", "namespace of the pod (default: the kubeconfig's)")
	cmd.Flags().StringVarP(&x.container, "container", "c", "", "`name` of the container (default: all)")
	return cmd
}

func (x *explainCommand) run(cmd *cobra.Command, args []string) error {
	c, err := x.a.loadConfig(cmd, x.file.flag)
	if err != nil {
		return err
	}
	if x.file.flag == "" {
		fmt.Fprintln(x.a.stderr, "note: no file is named with --config, so this is what the defaults say")
	}
	target, err := configKube(c).load()
	if err != nil {
		return err
	}
	namespace, pod, ok := strings.Cut(args[0], "/")
	switch {
	case !ok:
		namespace, pod = x.namespace, args[0]
	case x.namespace != "" && x.namespace != namespace:
		return usagef("%q and --namespace name different namespaces", args[0])
	}
	if namespace == "" {
		namespace = target.namespace
	}
	subjects, err := podSubjects(cmd.Context(), target, namespace, pod)
	if err != nil {
		return err
	}
	shown := 0
	for i := range subjects {
		if x.container == "" || subjects[i].Container == x.container {
			shown++
			if err := x.print(c, &subjects[i]); err != nil {
				return err
			}
		}
	}
	if shown == 0 {
		return &codeError{
			error: fmt.Errorf("no container of %s/%s that was asked for has started yet", namespace, pod), code: exitNoMatch,
			hints: []string{"kubectl get pod " + pod + " -n " + namespace},
		}
	}
	return nil
}

func podSubjects(ctx context.Context, target *kubeTarget, namespace, name string) ([]selection.Subject, error) {
	kube, err := kubernetes.NewForConfig(target.config)
	if err != nil {
		return nil, fmt.Errorf("make Kubernetes client: %w", err)
	}
	pod, err := kube.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, &codeError{error: fmt.Errorf("there is no pod %s in namespace %s", name, namespace), code: exitNoMatch, hints: []string{"kubectl get pods -n " + namespace}}
	case err != nil:
		return nil, fmt.Errorf("get pod: %w", err)
	case pod == nil:
		return nil, errors.New("get pod: the API server sent none")
	}
	return exporter.Subjects(pod), nil
}

// print shows what every export up to the deciding one says about a run, and who takes it. It decides as the
// exporter does: an export whose windows are shut leaves the run to those behind it.
func (x *explainCommand) print(c *config.Config, sub *selection.Subject) error {
	w := x.a.stdout
	state := "running"
	if sub.Ended {
		state = fmt.Sprintf("ended, exit code %d", sub.ExitCode)
		if sub.Reason != "" {
			state += ", " + sub.Reason
		}
	}
	fmt.Fprintf(w, "%s/%s container %s run %d (%s)\n", sub.Namespace, sub.Pod, sub.Container, sub.Restart, state)
	var takers []string
	settled := false
	for i := 0; i < len(c.Exports) && !settled; i++ {
		e := &c.Exports[i]
		d, reasons := e.Compiled.Explain(sub)
		fmt.Fprintf(w, "  %s: %s\n", e.Name, d)
		for _, r := range reasons {
			if d != selection.No || r.Decision == selection.No {
				fmt.Fprintf(w, "    %s\n", r)
			}
		}
		if d == selection.No {
			continue
		}
		var note, taker string
		var err error
		note, taker, settled, err = fate(e, sub, d)
		if err != nil {
			return fmt.Errorf("export %s: %w", e.Name, err)
		}
		if note != "" {
			fmt.Fprintf(w, "    %s\n", note)
		}
		if taker != "" {
			takers = append(takers, taker)
		}
	}
	switch {
	case settled:
	case len(takers) == 0:
		takers = []string{"no export takes it: its log is not read"}
	default:
		takers = append(takers, "no export takes it")
	}
	fmt.Fprintf(w, "  => %s\n", strings.Join(takers, ", else "))
	return nil
}

// fate says what becomes of a run that an export's selection takes, or may take: what its windows say of it,
// how it is taken, if it can be, and whether the exports behind it get none of it.
func fate(e *config.Export, sub *selection.Subject, d selection.Decision) (note, taker string, last bool, err error) {
	switch {
	case e.WatchFor > 0:
		return windowFate(e, sub, d)
	case d == selection.Maybe:
		return "", "its log is captured for export " + e.Name + "; whether that takes it is known at the run's end", true, nil
	}
	taker = "export " + e.Name + " takes it"
	if e.Schedule == nil || sub.Ended {
		return "", taker, true, nil // a run that has ended waits for no sweep
	}
	if e.Schedule.Suspend {
		return "its sweeps are suspended", taker + " at its end", true, nil
	}
	return "", fmt.Sprintf("%s at its end, and what it has written at each sweep (%s, %s)", taker, e.Schedule.Cron, e.Schedule.TimeZone), true, nil
}

// windowFate is fate for an export with windows, in which a run must end.
func windowFate(e *config.Export, sub *selection.Subject, d selection.Decision) (note, taker string, last bool, err error) {
	s, err := schedule.Parse(scheduleSpec(e.Schedule, e.WatchFor))
	if err != nil {
		return "", "", false, err
	}
	windows := fmt.Sprintf("its windows (%s, %s, %s)", e.Schedule.Cron, e.Schedule.TimeZone, e.WatchFor)
	taker = "export " + e.Name + " takes it"
	end := sub.FinishedAt
	if end.IsZero() { // it goes on, or nobody knows when it ended
		end = time.Now()
	}
	switch start, open := s.Window(end); {
	case e.Schedule.Suspend:
		return "but it is suspended, so none of its windows opens", "", false, nil
	case sub.Ended && !open:
		return "but the run ended outside of " + windows, "", false, nil
	case sub.Ended:
		return "", taker + ": it ended in the window that opened at " + start.Format(time.RFC3339), true, nil
	case d == selection.Maybe:
		taker += " if its selection does then, and it ends in one of its windows"
	default:
		taker += " if it ends in one of its windows"
	}
	return "if the run ends in one of " + windows, taker, false, nil
}
