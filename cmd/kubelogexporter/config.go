package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/kubelogexporter/kubelogexporter/exporter/config"
	"github.com/kubelogexporter/kubelogexporter/exporter/redact"
	"github.com/kubelogexporter/kubelogexporter/exporter/schedule"
)

// configOptions say what goes before a file: the environment, and the flags of the command that were
// given on the command line.
func (a *app) configOptions(cmd *cobra.Command) config.Options {
	o := config.Options{
		Lookup: func(name string) (string, bool) { v, ok := a.environ[name]; return v, ok },
		Flags:  make(map[string]string),
		CheckSchedule: func(c *config.Schedule, watchFor config.Duration) error {
			_, err := schedule.Parse(scheduleSpec(c, watchFor))
			return err
		},
		CheckRedaction: func(c *config.Redaction) error { _, err := redactor(c); return err },
	}
	for _, r := range redact.Builtin() {
		o.Redactions = append(o.Redactions, r.Name)
	}
	for name := range config.Flags() {
		f := cmd.Flags().Lookup(name)
		if f == nil || !f.Changed || f.Value.String() == a.environ[envName(name)] {
			continue // what prepare took from the environment is looked up there
		}
		o.Flags[name] = f.Value.String()
	}
	return o
}

// loadConfig reads a file, "-" for stdin, or without a name the defaults. Its mistakes are printed; the
// error only counts them.
func (a *app) loadConfig(cmd *cobra.Command, file string) (*config.Config, error) {
	o := a.configOptions(cmd)
	var c *config.Config
	var err error
	switch file {
	case "":
		c, err = config.Default(o)
	case "-":
		var text []byte
		if text, err = io.ReadAll(io.LimitReader(a.stdin, 4<<20)); err != nil {
			return nil, fmt.Errorf("read config: %w", err)
		}
		o.File = "stdin"
		c, err = config.Parse(text, o)
	default:
		c, err = config.Load(file, o)
	}
	var mistakes config.Errors
	switch {
	case errors.As(err, &mistakes) && !slices.ContainsFunc(mistakes, func(e *config.Error) bool { return e.Line > 0 || e.Place == "" }):
		return nil, &usageError{mistakes} // of flags and variables; the file is right
	case errors.As(err, &mistakes):
		fmt.Fprintln(a.stderr, mistakes.Error())
		return nil, &codeError{
			error: fmt.Errorf("the configuration has %s", count(len(mistakes), "mistake", "mistakes")), code: exitError,
			hints: []string{a.name + " config init shows a configuration to begin with"},
		}
	case err != nil:
		return nil, &codeError{error: err, code: exitError, hints: []string{"name a file that can be read; " + a.name + " config init FILE writes one to begin with"}}
	}
	if len(c.Warnings) > 0 {
		fmt.Fprintln(a.stderr, c.Warnings.Error())
	}
	return c, nil
}

func newConfigCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Check, print and write configuration files",
		Long: `Check, print and write configuration files.

A value is taken from the command line, else from the environment, else from the
file, else from the defaults.`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return unknownCommand(cmd, args[0])
		},
		SuggestionsMinimumDistance: 2,
	}
	cmd.AddCommand(newConfigCheckCommand(a), newConfigPrintCommand(a), newConfigInitCommand(a), newConfigSchemaCommand(a), newConfigExplainCommand(a))
	return cmd
}

// configFile is the file that an argument or --config names.
type configFile struct{ flag string }

func (c *configFile) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&c.flag, "config", "", "configuration `file`, - for stdin")
	if err := cmd.MarkFlagFilename("config", "yaml", "yml"); err != nil {
		panic(err) // as in complete
	}
}

func (c *configFile) name(args []string) string {
	if len(args) > 0 {
		return args[0]
	}
	return c.flag
}

func newConfigPrintCommand(a *app) *cobra.Command {
	var file configFile
	var output string
	var origins bool
	cmd := &cobra.Command{
		Use:   "print [FILE]",
		Short: "Print a configuration with all defaults, and where each value comes from",
		Long: `Print a configuration with all defaults, and where each value comes from. Without
a file these are the defaults and the environment. What may be secret is left out.`,
		Example: a.examples(`
  {} config print
  {} config print config.yaml
  {} config print config.yaml -o json | jq .exports`),
		Args: argCount(0, 1, "at most one file"),
		RunE: a.begin(func(cmd *cobra.Command, args []string) error {
			c, err := a.loadConfig(cmd, file.name(args))
			if err != nil {
				return err
			}
			text, err := c.Print(origins && output != "json")
			if err != nil {
				return err
			}
			switch output {
			case "", "yaml":
				_, err = a.stdout.Write(text)
				return err
			case "json":
				var v any
				if err := yaml.Unmarshal(text, &v); err != nil {
					return fmt.Errorf("print config: %w", err)
				}
				return printAs(a.stdout, output, v, nil)
			}
			return usagef("--output: %q is neither yaml nor json", output)
		}),
	}
	file.register(cmd)
	cmd.Flags().StringVarP(&output, "output", "o", "yaml", "output format: yaml or json")
	cmd.Flags().BoolVar(&origins, "origins", true, "add to each value where it comes from, in YAML")
	complete(cmd, "output", words("yaml", "json"))
	return cmd
}

func newConfigInitCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "init [FILE]",
		Short: "Write a configuration to begin with",
		Long:  "Write a configuration to begin with, to a new file or to stdout. An existing file is left alone.",
		Example: a.examples(`
  {} config init config.yaml
  {} config schema > ` + config.SchemaFile),
		Args: argCount(0, 1, "at most one file"),
		RunE: a.begin(func(_ *cobra.Command, args []string) error {
			if len(args) == 0 || args[0] == "-" {
				_, err := a.stdout.Write(config.Init())
				return err
			}
			f, err := os.OpenFile(args[0], os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644) //nolint:gosec // nothing secret
			if errors.Is(err, fs.ErrExist) {
				return &codeError{error: fmt.Errorf("write config: %s is there already", args[0]), code: exitError, hints: []string{"name a new file, or none to see what would be written"}}
			}
			if err != nil {
				return fmt.Errorf("write config: %w", err)
			}
			_, err = f.Write(config.Init())
			if err := errors.Join(err, f.Close()); err != nil {
				return fmt.Errorf("write config: %w", err)
			}
			fmt.Fprintf(a.stderr, "Wrote %s. Next: edit it, then %s config check %s\n", args[0], a.name, args[0])
			return nil
		}),
	}
}

func newConfigSchemaCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of the configuration, for editors",
		Long: `Print the JSON Schema of the configuration. Editors with yaml-language-server read
it if the first line of the configuration is

  # yaml-language-server: $schema=` + config.SchemaFile,
		Example: a.examples("  {} config schema > " + config.SchemaFile),
		Args:    argCount(0, 0, "no arguments"),
		RunE: a.begin(func(*cobra.Command, []string) error {
			text, err := config.Schema()
			if err != nil {
				return err
			}
			_, err = a.stdout.Write(text)
			return err
		}),
	}
}
