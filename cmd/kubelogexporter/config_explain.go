package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/kubelogexporter/kubelogexporter/exporter"
	"github.com/kubelogexporter/kubelogexporter/exporter/config"
	"github.com/kubelogexporter/kubelogexporter/exporter/selection"
)

type explainCommand struct {
	a         *app
	file      configFile
	namespace string
	container string
}

func newConfigExplainCommand(a *app) *cobra.Command {
	x := &explainCommand{a: a}
	cmd := &cobra.Command{
		Use:   "explain [NAMESPACE/]POD",
		Short: "Say which export would take the runs of a pod, and why",
		Long: `Say which export would take the container runs of a pod, and why. The pod is read
from the cluster; nothing is exported.`,
		Example: a.examples(`
  {} config explain shop/cart-7c5d --config config.yaml`),
		Args: argCount(1, 1, "one pod"),
		RunE: a.begin(x.run),
	}
	x.file.register(cmd)
	cmd.Flags().StringVarP(&x.namespace, "namespace", "n", "", "namespace of the pod (default: the kubeconfig's)")
	cmd.Flags().StringVarP(&x.container, "container", "c", "", "`name` of the container (default: all)")
	return cmd
}

func (x *explainCommand) run(cmd *cobra.Command, args []string) error {
	c, err := x.a.loadConfig(cmd, x.file.flag)
	if err != nil {
		return err
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
			x.print(c, &subjects[i])
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

// print shows what every export up to the deciding one says about a run.
func (x *explainCommand) print(c *config.Config, sub *selection.Subject) {
	w := x.a.stdout
	state := "running"
	if sub.Ended {
		state = fmt.Sprintf("ended, exit code %d", sub.ExitCode)
		if sub.Reason != "" {
			state += ", " + sub.Reason
		}
	}
	fmt.Fprintf(w, "%s/%s container %s run %d (%s)\n", sub.Namespace, sub.Pod, sub.Container, sub.Restart, state)
	index, decision, _ := c.Selections().First(sub)
	for i, e := range c.Exports {
		if index >= 0 && i > index {
			break
		}
		d, reasons := e.Compiled.Explain(sub)
		fmt.Fprintf(w, "  %s: %s\n", e.Name, d)
		for _, r := range reasons {
			if d != selection.No || r.Decision == selection.No {
				fmt.Fprintf(w, "    %s\n", r)
			}
		}
	}
	switch decision {
	case selection.Yes:
		e := c.Exports[index]
		fmt.Fprintf(w, "  => export %s takes it%s\n", e.Name, when(&e))
	case selection.Maybe:
		fmt.Fprintf(w, "  => its log is captured for export %s; whether that takes it is known at the run's end\n", c.Exports[index].Name)
	case selection.No:
		fmt.Fprintln(w, "  => no export takes it: its log is not read")
	}
}

// when says what an export's schedule means for a run.
func when(e *config.Export) string {
	switch {
	case e.Schedule == nil:
		return ""
	case e.Schedule.Suspend:
		return ", but it is suspended"
	case e.WatchFor > 0:
		return fmt.Sprintf(" if it ends within %s of a start (%s, %s)", e.WatchFor, e.Schedule.Cron, e.Schedule.TimeZone)
	}
	return fmt.Sprintf(" at its next sweep (%s, %s)", e.Schedule.Cron, e.Schedule.TimeZone)
}
