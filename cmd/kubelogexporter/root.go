package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// app is what the commands share: the streams, the environment, and how far the command has come.
type app struct {
	name           string // as the user types it: "kubelogexporter", or "kubectl logexporter"
	stdin          io.Reader
	stdout, stderr io.Writer
	environ        map[string]string
	cmd            *cobra.Command // the command that was asked for
	began          bool           // its arguments were accepted: what fails now is no misuse
}

func newApp(argv0 string, stdin io.Reader, stdout, stderr io.Writer, environ []string) *app {
	a := &app{name: "kubelogexporter", stdin: stdin, stdout: stdout, stderr: stderr, environ: make(map[string]string)}
	for _, kv := range environ {
		k, v, _ := strings.Cut(kv, "=")
		a.environ[k] = v
	}
	base := strings.TrimSuffix(filepath.Base(argv0), ".exe")
	if plugin, ok := strings.CutPrefix(base, "kubectl-"); ok {
		// kubectl finds "kubectl-log_archive" for "kubectl log-archive".
		a.name = "kubectl " + strings.ReplaceAll(plugin, "_", "-")
	}
	return a
}

const exitHelp = `Exit codes:
  0    done
  1    error
  2    wrong usage
  3    nothing matched; "ls" says so and ends with 0
  4    done in part; what failed is listed on stderr
  5    the cluster refuses the identity or lacks a permission for it
  6    the storage cannot be reached or refuses
  130  interrupted
"verify" has codes of its own: see its help.
`

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "kubelogexporter",
		Short: "Archive the final logs of Kubernetes containers, and read them back",
		Long: `Archive the final logs of Kubernetes containers into S3-compatible storage or a
directory, and read them back when the pods are long gone.

Without any set-up, "run" uses the current kubeconfig (in a pod: the service
account), watches all namespaces and writes into ./kubelogs. An identity that may
not do so watches those that it may see, if it may list namespaces, else its own.`,
		Example: a.examples(`
  # archive the log of every container that ends, until interrupted
  {} run

  # collect the logs of some pods once
  {} export -n shop -l app=cart

  # what is archived, and the log of a pod that no longer exists
  {} ls
  {} logs cart-7c5d -n shop`),
		Annotations:                map[string]string{cobra.CommandDisplayNameAnnotation: a.name},
		SilenceErrors:              true,
		SuggestionsMinimumDistance: 2,
		SilenceUsage:               true,
		PersistentPreRunE:          func(cmd *cobra.Command, _ []string) error { return a.prepare(cmd) },
		Args:                       cobra.ArbitraryArgs, // so that RunE can word the error
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return unknownCommand(cmd, args[0])
		},
	}
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetUsageTemplate(root.UsageTemplate() + "\nEvery flag can also be set as an environment variable: --s3-region as\nKUBELOGEXPORTER_S3_REGION. The command line wins.\n\n" + exitHelp)
	root.AddCommand(newRunCommand(a), newExportCommand(a), newListCommand(a), newLogsCommand(a), newVerifyCommand(a), newConfigCommand(a), newSchedulesCommand(a), newVersionCommand(a))
	return root
}

func unknownCommand(cmd *cobra.Command, name string) error {
	text := fmt.Sprintf("unknown command %q", name)
	if near := cmd.SuggestionsFor(name); len(near) > 0 {
		text += fmt.Sprintf(", did you mean %q?", near[0])
	}
	return errors.New(text)
}

// examples fills the program's name into a command's examples.
func (a *app) examples(text string) string {
	return strings.ReplaceAll(strings.Trim(text, "\n"), "{}", a.name)
}

// prepare takes from the environment what the command line leaves open.
func (a *app) prepare(cmd *cobra.Command) error {
	var open []*pflag.Flag
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if a.environ[envName(f.Name)] != "" && !f.Changed && f.Name != "help" && displacing(cmd.Flags(), f) == nil {
			open = append(open, f)
		}
	})
	var errs []error
	for _, f := range open {
		name := envName(f.Name)
		if other := displacing(cmd.Flags(), f); other != nil { // which came from the environment too
			errs = append(errs, fmt.Errorf("environment variable %s excludes %s: one of them must be removed", envName(other.Name), name))
			continue
		}
		if err := cmd.Flags().Set(f.Name, a.environ[name]); err != nil {
			errs = append(errs, fmt.Errorf("environment variable %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

func envName(flag string) string {
	return "KUBELOGEXPORTER_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// strays returns the environment variables with the program's prefix that set no flag of any command: slips of the pen.
// What Kubernetes sets for a Service of that name is none.
func (a *app) strays(cmd *cobra.Command) []string {
	known := make(map[string]bool)
	for _, c := range cmd.Root().Commands() {
		c.Flags().VisitAll(func(f *pflag.Flag) { known[envName(f.Name)] = true })
	}
	var strays []string
	for name := range a.environ {
		if rest, ok := strings.CutPrefix(name, envName("")); ok && !known[name] && !strings.HasPrefix(rest, "SERVICE_") && !strings.HasPrefix(rest, "PORT") {
			strays = append(strays, name)
		}
	}
	slices.Sort(strays)
	return strays
}

// displacing returns the flag, among those that are set, that excludes this one; nil if there is none.
func displacing(flags *pflag.FlagSet, f *pflag.Flag) *pflag.Flag {
	for _, group := range f.Annotations["cobra_annotation_mutually_exclusive"] {
		for name := range strings.FieldsSeq(group) {
			if other := flags.Lookup(name); other != nil && other != f && other.Changed {
				return other
			}
		}
	}
	return nil
}

// begin wraps a command's work: from here on an error is not the user's misuse, unless it says so.
func (a *app) begin(work func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		a.began = true
		return work(cmd, args)
	}
}
