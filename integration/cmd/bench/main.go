// Command bench lets containers die in the ways that cost logs, on a real node, and counts what this
// program keeps of their logs beside kubectl, stern and a plain client. It never reports what it did
// not measure in the same run.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kubelogexporter/kubelogexporter/integration/node"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:])
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// bench is one run of this command.
type bench struct {
	begin     time.Time
	scale     float64
	gather    bool // all clients on the same pods, at the same time
	workloads []string
	clients   []string
	markdown  string
	goBench   bool

	root  string // of the repository
	dir   string // for everything that clients write
	node  *node.Node
	kube  kubernetes.Interface
	tools tools

	rows   []row
	costs  []cost
	speeds []speed
	wrong  []string // records that say more than is true
	failed error    // of rounds that have no row; the others go on
}

func run(ctx context.Context, args []string) error {
	if len(args) > 0 && args[0] == plainMode {
		return plain(ctx, args[1:])
	}
	b := &bench{begin: time.Now()}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	only := flags.String("workloads", strings.Join(allWorkloads(), ","), "which `workloads`")
	who := flags.String("clients", strings.Join(clientNames(), ","), "which `clients`")
	flags.Float64Var(&b.scale, "scale", 1, "`part` of the pods and lines, to try something; the file is written for 1 only")
	flags.BoolVar(&b.gather, "together", false, "all clients on the same pods at the same time, also where they are in each other's way")
	flags.StringVar(&b.markdown, "markdown", "BENCHMARKS.md", "`file` of this repository to write the results into")
	flags.BoolVar(&b.goBench, "go-bench", true, "run the Go benchmarks too")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var err error
	if b.workloads, err = choose(*only, allWorkloads()); err != nil {
		return err
	}
	if b.clients, err = choose(*who, clientNames()); err != nil {
		return err
	}
	return b.all(ctx)
}

// choose splits a list of names and refuses those that are not known.
func choose(list string, known []string) ([]string, error) {
	names := strings.Split(list, ",")
	for _, name := range names {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("choose %q: there are %s", name, strings.Join(known, ", "))
		}
	}
	return names, nil
}

func (b *bench) say(format string, args ...any) {
	fmt.Printf("%5.0fs  %s\n", time.Since(b.begin).Seconds(), fmt.Sprintf(format, args...))
}

func (b *bench) all(ctx context.Context) error {
	if os.Getuid() != 0 {
		return errors.New("the benchmarks start a Kubernetes node, and need root: sudo make bench")
	}
	dir, err := os.MkdirTemp("", "kubelogexporter-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a leftover in the temporary directory
	b.dir = dir
	for _, step := range []func(context.Context) error{b.cluster, b.build, b.measure, b.goBenchmarks} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return b.report(ctx)
}

func (b *bench) cluster(ctx context.Context) error {
	b.say("starting a real Kubernetes node; the first time it is built from source, about 10 minutes on 2 cores")
	var err error
	if b.node, err = node.Up(ctx, node.Options{Log: os.Stdout}); err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", b.node.Kubeconfig)
	if err != nil {
		return err
	}
	config.QPS = -1
	b.kube, err = kubernetes.NewForConfig(config)
	return err
}

// measure runs the workloads, each with all clients, and then the comparison of costs.
func (b *bench) measure(ctx context.Context) error {
	for _, w := range workloads(b.scale) {
		if !slices.Contains(b.workloads, w.name) {
			continue
		}
		groups := [][]string{b.clients}
		if !w.together && !b.gather {
			groups = nil
			for _, name := range b.clients {
				groups = append(groups, []string{name})
			}
		}
		for _, group := range groups {
			b.say("%s: %s", w.title, strings.Join(group, ", "))
			err := b.round(ctx, w, group)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				err = fmt.Errorf("run %s with %s: %w", w.name, strings.Join(group, ", "), err)
				b.say("  FAILED: %v", err)
				b.failed = errors.Join(b.failed, err)
			}
		}
	}
	if slices.Contains(b.workloads, costName) {
		if err := b.cost(ctx); err != nil {
			b.failed = errors.Join(b.failed, err)
		}
	}
	return ctx.Err()
}

// folder makes a folder for the files of one client.
func (b *bench) folder(names ...string) (string, error) {
	dir := filepath.Join(append([]string{b.dir}, names...)...)
	return dir, os.MkdirAll(dir, 0o700)
}
