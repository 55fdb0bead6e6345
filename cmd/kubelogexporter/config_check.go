package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kubelogexporter/kubelogexporter/exporter"
	"github.com/kubelogexporter/kubelogexporter/exporter/config"
	"github.com/kubelogexporter/kubelogexporter/sink"
)

func newConfigCheckCommand(a *app) *cobra.Command {
	var file configFile
	var online, strict bool
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Find every mistake in a configuration",
		Long: `Find every mistake in a configuration, with file, line and column. With --online
also ask the cluster whether the identity has the rights that are needed, and the
storage whether the bucket can be reached.`,
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
			if err := a.printStarts(c); err != nil {
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
	cmd.Flags().BoolVar(&online, "online", false, "also check the access to the cluster and to the storage")
	cmd.Flags().BoolVar(&strict, "strict", false, "take warnings for mistakes")
	return cmd
}

// printStarts shows when the schedules will start next, if somebody knows.
func (a *app) printStarts(c *config.Config) error {
	next := newConfigHooks().next
	if next == nil {
		return nil
	}
	for _, e := range c.Exports {
		if e.Schedule == nil {
			continue
		}
		if e.Schedule.Suspend {
			fmt.Fprintf(a.stdout, "%s: suspended\n", e.Name)
			continue
		}
		starts, err := next(&e)
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

// checkOnline asks the cluster and the storage. Both are asked, whatever the first one says.
func (a *app) checkOnline(ctx context.Context, c *config.Config) error {
	ctx, cancel := context.WithTimeout(ctx, checkPatience)
	defer cancel()
	var failed []error
	target, err := configKube(c).load()
	if err == nil {
		namespaces, _ := c.Selections().Namespaces()
		err = exporter.CheckAccess(ctx, target.config, namespaces)
	}
	if err == nil {
		fmt.Fprintf(a.stdout, "cluster %s: the identity has the rights that are needed\n", target.cluster)
	} else {
		failed = append(failed, fmt.Errorf("cluster: %w", err))
	}
	if where, err := checkSink(ctx, c); err == nil {
		fmt.Fprintf(a.stdout, "sink %s: can be reached\n", where)
	} else {
		failed = append(failed, storageError(fmt.Errorf("sink: %w", err)))
	}
	if len(failed) == 2 { // the last one is told by the caller
		a.explain(failed[0])
		return failed[1]
	}
	return errors.Join(failed...)
}

// checkSink makes one request to a bucket, and looks at a directory without making it.
func checkSink(ctx context.Context, c *config.Config) (where string, err error) {
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
	return b.String(), b.Check(ctx)
}
