package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kubelogexporter/kubelogexporter/exporter"
	"github.com/kubelogexporter/kubelogexporter/exporter/nodelog"
	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/archive"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// checkPatience is how long the check of the bucket at the start may take.
const checkPatience = 15 * time.Second

// captureFlags are what run and export have in common.
type captureFlags struct {
	kube        kubeFlags
	sink        sinkFlags
	log         logFlags
	read        readFlags
	spool       string
	spoolMax    string
	compression string
	config      string    // a file
	settings    *settings // what it says; nil without one
}

func (c *captureFlags) register(a *app, cmd *cobra.Command, spool string, all bool, level string) {
	c.kube.register(a, cmd, all)
	c.sink.register(cmd)
	c.log.register(cmd, level)
	c.read.register(cmd)
	cmd.Flags().StringVar(&c.spool, "spool", "", "`directory` that holds captures until they are archived (default: "+spool+" in a directory sink, else one in the user's cache directory)")
	cmd.Flags().StringVar(&c.spoolMax, "spool-max-size", "0", "how large the spool may grow, such as 4Gi; 0 is no limit but the room on its file system. Below the sizeLimit of an emptyDir, or the kubelet evicts the pod, and the spool is lost")
	cmd.Flags().StringVar(&c.config, "config", "", "configuration `file`; see \"config init\". Flags go before it")
	_ = cmd.MarkFlagFilename("config", "yaml", "yml")
	cmd.Flags().StringVar(&c.compression, "compression", "zstd", "compression of the logs: zstd or gzip")
	complete(cmd, "compression", words("zstd", "gzip"))
}

// load reads the configuration file, if one is named, and puts what it says in the place of flags.
func (c *captureFlags) load(a *app, cmd *cobra.Command) error {
	if cmd.Flags().Changed("namespace") && len(c.kube.namespaces) == 0 {
		return usagef("--namespace: it is empty; leave it out for the default")
	}
	if err := checkNames(archive.Query{Namespaces: c.kube.namespaces}); err != nil {
		return err
	}
	if c.config == "" {
		_, err := a.loadConfig(cmd, "") // flags are checked as a file's keys are
		return err
	}
	if cmd.Flags().Changed("selector") {
		return usagef("--selector: with --config the file's exports select the pods")
	}
	var err error
	if c.settings, err = a.loadSettings(cmd, c.config); err == nil {
		c.settings.apply(c)
	}
	return err
}

// open resolves the flags to what an exporter needs. It talks to the storage, and not to the cluster.
func (c *captureFlags) open(ctx context.Context, spool string, log *slog.Logger) (exporter.Options, *kubeTarget, error) {
	o := exporter.Options{Log: log, Version: buildVersion().Version}
	var err error
	if o.Compression, err = bundle.ParseCompression(c.compression); err != nil {
		return o, nil, usagef("--compression: %w", err)
	}
	if err := c.bounds(&o); err != nil {
		return o, nil, err
	}
	if o.Selector, err = c.kube.labels(); err != nil {
		return o, nil, err
	}
	target, err := c.kube.load()
	if err != nil {
		return o, nil, err
	}
	o.Kube, o.Cluster, o.DefaultNamespace = target.config, target.cluster, target.namespace
	c.sink.s3.Limited = func(limit string) { log.Warn("the store cannot do everything", "limit", limit) }
	if o.Bucket, err = c.sink.open(ctx); err != nil {
		return o, nil, err
	}
	if o.Spool = c.spool; o.Spool == "" {
		if o.Spool, err = c.sink.spool(o.Bucket, spool); err != nil {
			return o, nil, err
		}
	}
	return o, target, nil
}

// bounds resolves what limits the spool and the reads, and how logs are read.
func (c *captureFlags) bounds(o *exporter.Options) error {
	var err error
	if o.SpoolMaxBytes, err = parseSize("spool-max-size", c.spoolMax); err != nil {
		return err
	}
	return c.read.apply(o)
}

type runCommand struct {
	captureFlags
	policy policyFlags
	a      *app
	grace  time.Duration
	listen string
}

func newRunCommand(a *app) *cobra.Command {
	r := &runCommand{a: a}
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Watch the cluster and archive the log of every container that ends",
		Long: `Watch the cluster and archive the log of every container that ends, until
SIGINT or SIGTERM. The first signal ends in good order, within --grace; a second
one ends at once. What is in the spool then is archived by the next start.

Without --namespace all namespaces are watched. An identity that may not do so
watches each namespace that it may see, if it may list namespaces, and else only
the default one: name them with --namespace then.

While the storage or the API server cannot be reached, the program says so once
and goes on trying; it needs no restart.`,
		Example: a.examples(`
  {} run
  {} run -n shop,pay --sink s3://logs/prod --s3-region eu-west-1
  {} run --sink s3://logs --s3-endpoint https://minio.example:9000 --listen :8080`),
		Args: argCount(0, 0, "no arguments"),
		RunE: a.begin(r.run),
	}
	r.register(a, cmd, ".spool", true, "info")
	r.policy.register(cmd)
	cmd.Flags().DurationVar(&r.grace, "grace", 20*time.Second, "how long to finish open captures after the first signal")
	cmd.Flags().StringVar(&r.listen, "listen", "", "`address` to serve /metrics, /livez and /readyz on, such as :8080 (default: none)")
	return cmd
}

func (r *runCommand) run(cmd *cobra.Command, _ []string) error {
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	if err := r.load(r.a, cmd); err != nil {
		return err
	}
	if r.settings != nil {
		r.grace, r.listen = time.Duration(r.settings.config.Limits.Grace), r.settings.config.HTTP.Listen
	}
	log, err := r.log.logger(r.a.stderr)
	if err != nil {
		return err
	}
	quietClient(log)
	for _, name := range r.a.strays(cmd) {
		log.Warn("an environment variable sets no flag; run --help names the flags", "variable", name)
	}
	o, target, err := r.open(ctx, ".spool", log)
	if err != nil {
		return err
	}
	o.Namespaces, o.Grace = r.kube.namespaces, cmp.Or(r.grace, 1) // 0 would be the default
	r.policy.apply(&o)
	if r.settings != nil {
		if err := r.settings.options(&o); err != nil {
			return err
		}
	}
	reg := newRegistry(buildVersion())
	o.Metrics = reg
	events, err := r.notifier(&o, log)
	if err != nil {
		return err
	}
	if events != nil {
		reg.MustRegister(eventMetrics{events.n})
	}
	e, err := exporter.New(o)
	if err != nil {
		return startError(err)
	}
	defer e.Close() //nolint:errcheck // the end of the process gives the spool back too
	namespaces := "all"
	switch {
	case len(o.Namespaces) > 0:
		namespaces = strings.Join(o.Namespaces, ",")
	case r.settings != nil:
		namespaces = "those of the exports"
	}
	log.Info("starting", "version", o.Version, "cluster", o.Cluster, "server", o.Kube.Host, "identity", target.identity,
		"namespaces", namespaces, "selector", cmp.Or(r.kube.selector, "all"), "sink", r.sink.sink, "spool", o.Spool)
	beside, err := r.beside(ctx, e, target, o.Spool, log, reg)
	if err != nil {
		return err
	}
	defer beside.stop()
	beside.loops.Go(func() { checkBucket(ctx, o.Bucket, log) })
	defer events.start()() // stopped after the last record
	err = e.Run(ctx)
	cancel() // it may have failed
	beside.loops.Wait()
	if err == nil {
		log.Info("stopped")
	}
	return err
}

// checkBucket warns of a bucket that cannot be used as it is. The spool keeps everything meanwhile.
func checkBucket(ctx context.Context, b sink.Bucket, log *slog.Logger) {
	s, ok := b.(*sink.S3)
	if !ok {
		return
	}
	within, cancel := context.WithTimeout(ctx, checkPatience)
	defer cancel()
	_, err := tryStore(within, s)
	if err != nil && ctx.Err() == nil {
		log.Warn("cannot use the bucket yet, will go on trying; the spool keeps everything", "err", err, "fix", sink.Hint(err))
	}
}

// tryStore says whether a store can be reached and takes objects, and what it cannot do.
func tryStore(ctx context.Context, s *sink.S3) (limits []string, err error) {
	if err := s.Check(ctx); err != nil {
		return nil, err
	}
	err = s.CheckWrite(ctx)
	return s.Limits(), err
}

// startError words why an exporter cannot be made.
func startError(err error) error {
	if errors.Is(err, nodelog.ErrTLS) {
		return &codeError{error: err, code: exitUsage, hints: []string{"name a file with PEM certificates that can be read with --kubelet-ca, or kubelets.caFile in the configuration"}}
	}
	if errors.Is(err, exporter.ErrNoSpool) {
		return &codeError{error: err, code: exitError, hints: []string{"name an empty directory, or one that is not there yet, with --spool"}}
	}
	if errors.Is(err, sink.ErrLocked) {
		return &codeError{error: err, code: exitError, hints: []string{"stop the other one, or give this one a directory of its own with --spool"}}
	}
	if errors.Is(err, exporter.ErrSpool) {
		return &codeError{error: err, code: exitError, hints: []string{"name a writable directory with --spool"}}
	}
	return fmt.Errorf("start: %w", err)
}
