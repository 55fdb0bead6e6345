// Command node runs a real single-node Kubernetes cluster on this machine for
// tests and the demo. It never touches another cluster's kubeconfig.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/kubelogexporter/kubelogexporter/integration/node"
)

const usage = `usage: node COMMAND

  up [flags]         start the node, or find it running
  down               stop it and remove every trace of it
  status             show its components; exit code 1 unless all are healthy
  kubeconfig         print the path of its kubeconfig
  kubectl [args]     run its own kubectl
  load IMAGE...      give it images: tar files, or names of local Docker images

flags of up:
  -container-log-max-size SIZE   rotate a container's log at SIZE (10Mi)
  -container-log-max-files N     keep N files of a container's log (5)

Linux and root are needed. Pods reach this machine at ` + node.IP + `.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	code := run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// run returns the exit code: 0 done, 1 failed or not up, 2 wrong usage.
func run(ctx context.Context, args []string) int {
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, usage)
		return 2
	}
	err := command(ctx, args[0], args[1:])
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errUsage):
		fmt.Fprint(os.Stderr, usage)
		return 2
	case errors.As(err, &exit) && args[0] == "kubectl":
		return exit.ExitCode()
	case errors.Is(err, node.ErrNotUp):
		fmt.Fprintf(os.Stderr, "node: %v\nstart it: go run ./integration/cmd/node up\n", err)
	default:
		fmt.Fprintf(os.Stderr, "node: %v\n", err)
	}
	return 1
}

var errUsage = errors.New("wrong usage")

func command(ctx context.Context, name string, args []string) error {
	switch name {
	case "up":
		return up(ctx, args)
	case "down":
		return node.Down(ctx, os.Stderr)
	case "status":
		components, err := node.Status(ctx)
		for _, c := range components {
			state := "healthy"
			if c.Err != nil {
				state = c.Err.Error()
			}
			fmt.Printf("%-24s %7d  %s\n", c.Name, c.PID, state)
		}
		return err
	case "kubeconfig", "kubectl", "load":
	default:
		return errUsage
	}
	n, err := node.Open()
	if err != nil {
		return err
	}
	switch name {
	case "kubeconfig":
		fmt.Println(n.Kubeconfig)
	case "kubectl":
		cmd := exec.Command(n.Kubectl, append([]string{"--kubeconfig", n.Kubeconfig}, args...)...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		return cmd.Run()
	case "load":
		for _, image := range args {
			if err := n.Load(ctx, image); err != nil {
				return err
			}
		}
	}
	return nil
}

func up(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("up", flag.ContinueOnError)
	flags.Usage = func() {}
	o := node.Options{Log: os.Stderr}
	flags.StringVar(&o.ContainerLogMaxSize, "container-log-max-size", "", "")
	flags.IntVar(&o.ContainerLogMaxFiles, "container-log-max-files", 0, "")
	if err := flags.Parse(args); err != nil || flags.NArg() > 0 {
		return errUsage
	}
	n, err := node.Up(ctx, o)
	if err != nil {
		return err
	}
	fmt.Printf("export KUBECONFIG=%s\n", n.Kubeconfig)
	return nil
}
