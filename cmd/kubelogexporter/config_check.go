package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kubelogexporter/kubelogexporter/exporter"
	"github.com/kubelogexporter/kubelogexporter/exporter/config"
	"github.com/kubelogexporter/kubelogexporter/sink"
)

func newConfigCheckCommand(a *app) *cobra.Command {
	var file configFile
	var kube kubeFlags // which a.loadConfig reads off the command
	var online, strict bool
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Find every mistake in a configuration",
		Long: `Find every mistake in a configuration, with file, line and column. With --online
also ask the cluster whether the identity has the rights that are needed, and the
storage whether the bucket can be reached and takes objects: as at the start of
"run", the object .kubelogexporter-probe is stored. A token's file is read.`,
		Example: a.examples(`
  {} config check config.yaml
  {} config check config.yaml --online
  {} config init | {} config check -`),
		Args: argCount(0, 1, "one file"),
		RunE: a.begin(func(cmd *cobra.Command, args []string) error {
			name := file.name(args)
			if name == "" {
				return usagef("a file must be given")
			}
			c, err := a.loadConfig(cmd, name)
			if err != nil {
				return err
			}
			if err := errors.Join(a.printStarts(c), a.printSlow(c)); err != nil {
				return err
			}
			if online {
				if err := a.checkOnline(cmd.Context(), c); err != nil {
					return err
				}
			}
			if strict && len(c.Warnings) > 0 {
				return &codeError{error: fmt.Errorf("the configuration has %s", count(len(c.Warnings), "warning", "warnings")), code: exitError}
			}
			fmt.Fprintf(a.stdout, "%s: no mistakes, %s\n", name, count(len(c.Exports), "export", "exports"))
			return nil
		}),
	}
	file.register(cmd)
	kube.registerAccess(cmd)
	cmd.Flags().BoolVar(&online, "online", false, "also check the access to the cluster and to the storage")
	cmd.Flags().BoolVar(&strict, "strict", false, "take warnings for mistakes")
	return cmd
}

// printStarts shows when the schedules will start next.
func (a *app) printStarts(c *config.Config) error {
	for _, e := range c.Exports {
		if e.Schedule == nil {
			continue
		}
		if e.Schedule.Suspend {
			fmt.Fprintf(a.stdout, "%s: suspended\n", e.Name)
			continue
		}
		starts, err := nextStarts(&e)
		if err != nil {
			return fmt.Errorf("find next starts of %s: %w", e.Name, err)
		}
		var texts []string
		for _, t := range starts {
			texts = append(texts, t.Format(time.RFC3339))
		}
		fmt.Fprintf(a.stdout, "%s: next starts %s\n", e.Name, strings.Join(texts, ", "))
	}
	return nil
}

// printSlow names the rules of redaction that are tried on every line.
func (a *app) printSlow(c *config.Config) error {
	for _, e := range c.Exports {
		if e.Redact == nil {
			continue
		}
		r, err := redactor(e.Redact)
		if err != nil {
			return err
		}
		if slow := r.Slow(); len(slow) > 0 {
			fmt.Fprintf(a.stderr, "note: %s: redaction is slower by %s, whose pattern holds no fixed text and is tried on every line\n", e.Name, strings.Join(slow, ", "))
		}
	}
	return nil
}

// checkOnline asks the cluster and the storage, and reads the token. All are asked, whatever the first one says.
func (a *app) checkOnline(ctx context.Context, c *config.Config) error {
	ctx, cancel := context.WithTimeout(ctx, checkPatience)
	defer cancel()
	var failed []error
	target, err := configKube(c).load()
	if err == nil {
		namespaces, _ := c.Selections().Namespaces()
		err = exporter.CheckAccess(ctx, target.config, namespaces, furtherRights(c, target)...)
	}
	if err == nil {
		fmt.Fprintf(a.stdout, "cluster %s: the identity has the rights that are needed\n", target.cluster)
	} else {
		failed = append(failed, fmt.Errorf("cluster: %w", err))
	}
	if t := c.HTTP.Triggers; t != nil {
		if _, err := readToken(t.TokenFile); err != nil {
			failed = append(failed, fmt.Errorf("http.triggers.tokenFile: %w", err))
		}
	}
	if where, err := a.checkSink(ctx, c); err == nil {
		fmt.Fprintf(a.stdout, "sink %s: can be reached\n", where)
	} else {
		failed = append(failed, storageError(fmt.Errorf("sink: %w", err)))
	}
	if len(failed) == 0 {
		return nil
	}
	for _, err := range failed[:len(failed)-1] {
		a.explain(err)
	}
	return failed[len(failed)-1] // told by the caller
}

// furtherRights are what this configuration needs beyond what every one does.
func furtherRights(c *config.Config, target *kubeTarget) (all []exporter.Permission) {
	if c.Kubelets.NodeLogs != "off" {
		all = append(all, exporter.NodeLogAccess())
	}
	if target.pod && slices.ContainsFunc(c.Exports, func(e config.Export) bool { return e.Schedule != nil && e.WatchFor == 0 }) {
		all = append(all, leaseRights(target.namespace)...)
	}
	return all
}

// checkSink tries a bucket, and looks at a directory without making it.
func (a *app) checkSink(ctx context.Context, c *config.Config) (where string, err error) {
	if c.Sink.S3 == nil {
		info, err := os.Stat(c.Sink.Dir)
		switch {
		case errors.Is(err, os.ErrNotExist):
			return "dir:" + c.Sink.Dir + " (will be made)", nil
		case err == nil && !info.IsDir():
			err = fmt.Errorf("%s is no directory", c.Sink.Dir)
		}
		return "dir:" + c.Sink.Dir, err
	}
	b, err := sink.OpenS3(ctx, s3Options(c.Sink.S3))
	if err != nil {
		return "", err
	}
	limits, err := tryStore(ctx, b)
	for _, limit := range limits {
		fmt.Fprintf(a.stderr, "warning: sink %s: %s\n", b.String(), limit)
	}
	return b.String(), err
}
