package config

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Options say what goes before the file, and who checks what this package knows nothing of.
type Options struct {
	// File is the name that mistakes are told with; Load sets it.
	File string
	// Lookup is the environment: that of ${VAR} in the file, and of the variables KUBELOGEXPORTER_… that
	// stand for flags. Nil is an empty one.
	Lookup func(name string) (string, bool)
	// Flags are the values of the flags on the command line, by name. They go before the environment, and
	// that before the file.
	Flags map[string]string
	// CheckSchedule and CheckRedaction, if they are set, say what is wrong with a cron line and its
	// neighbours, and with redaction rules. Each error of a joined one is told for itself.
	CheckSchedule  func(s *Schedule, watchFor Duration) error
	CheckRedaction func(*Redaction) error
	// Redactions are the names of the built-in rules; nil if they are not known.
	Redactions []string

	absent bool // there is no file
}

// originKind says where a value comes from.
type originKind int

// The origins, those that go first last.
const (
	fromDefault originKind = iota + 1
	fromFile
	fromEnvironment
	fromFlag
)

// origin says where a value comes from.
type origin struct {
	Kind originKind
	Name string // of the file, the variable or the flag
	Line int    // of the file
}

// String returns the origin in a few words, such as "config.yaml:12".
func (o origin) String() string {
	switch o.Kind {
	case fromFile:
		return fmt.Sprintf("%s:%d", o.Name, o.Line)
	case fromEnvironment:
		return "environment variable " + o.Name
	case fromFlag:
		return "flag --" + o.Name
	case fromDefault:
	}
	return "default"
}

// Load reads a file. The error is Errors, with all mistakes, unless the file cannot be read.
func Load(file string, o Options) (*Config, error) {
	text, err := os.ReadFile(file) //nolint:gosec // the user names the file
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("read config: there is no file %s", file)
	case err != nil:
		return nil, fmt.Errorf("read config: %w", err)
	}
	o.File = file
	return Parse(text, o)
}

// Parse reads the text of a file. The error is Errors, with all mistakes.
func Parse(text []byte, o Options) (*Config, error) {
	o.File = cmp.Or(o.File, "config")
	d := newDecoder(o)
	root := d.tree(text)
	if root == nil && len(d.errs) > 0 {
		return nil, d.errs
	}
	return d.config(root)
}

// Default returns the configuration without a file: one export that takes everything.
func Default(o Options) (*Config, error) {
	o.absent = true
	o.File = cmp.Or(o.File, "config")
	return newDecoder(o).config(nil)
}

func newDecoder(o Options) *decoder {
	return &decoder{o: o, nodes: make(map[string]*yaml.Node), origins: make(map[string]origin), failed: make(map[string]bool)}
}

func (d *decoder) config(root *yaml.Node) (c *Config, err error) {
	defer func() {
		if r := recover(); r != nil { // none is known; but a running exporter takes over a file that is not its own
			d.failf(source{}, "", "the file cannot be checked, through a fault of this program: %v", r)
			c, err = nil, d.errs
		}
	}()
	c = &Config{origins: d.origins}
	d.section(root, reflect.ValueOf(c).Elem(), "")
	if d.o.absent {
		c.APIVersion, c.Kind = APIVersion, Kind
	}
	if d.count > maxNodes {
		d.failf(source{}, "", "the file has more than %d values, perhaps through aliases", maxNodes)
		d.errs.sort()
		return nil, d.errs
	}
	d.sink(c)
	if d.o.absent || d.nodes["exports"] == nil || isNull(d.nodes["exports"]) {
		d.everything(c)
	}
	d.check(c)
	d.errs.sort()
	d.errs = slices.CompactFunc(d.errs, func(a, b *Error) bool { // a flag that counts for every export
		return a.Line == 0 && a.Place == b.Place && a.Message == b.Message
	})
	d.warned.sort()
	if len(d.errs) > 0 {
		return nil, d.errs
	}
	c.Warnings = d.warned
	return c, nil
}

// everything adds the one export that there is when none is written down.
func (d *decoder) everything(c *Config) {
	c.Exports = []Export{{}}
	d.implied(reflect.ValueOf(&c.Exports[0]).Elem(), "exports[0]")
	c.Exports[0].Name = "all"
	d.origins["exports[0].name"] = origin{Kind: fromDefault}
}

// implied fills a section that does not stand in the file, and misses nothing in it.
func (d *decoder) implied(v reflect.Value, path string) {
	d.partial = true
	d.section(nil, v, path)
	d.partial = false
}

// override returns what a flag or its environment variable says. place is "" if they say nothing.
func (d *decoder) override(flag string) (text string, from origin, place string) {
	if flag == "" {
		return "", origin{}, ""
	}
	if text, ok := d.o.Flags[flag]; ok {
		return text, origin{Kind: fromFlag, Name: flag}, "flag --" + flag
	}
	name := "KUBELOGEXPORTER_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
	if d.o.Lookup != nil {
		if text, ok := d.o.Lookup(name); ok && text != "" {
			return text, origin{Kind: fromEnvironment, Name: name}, "environment variable " + name
		}
	}
	return "", origin{}, ""
}
